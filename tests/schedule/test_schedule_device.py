"""Schedules for devices: grouped counters are proved like any others, and what is accepted is right under every adversary."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_fakes import ADD, DENSE, MAP, ROWS, Builder, Deadlock, agrees, cost, execute, mlp, sequential
from test_schedule_mutants import is_accepted, mutants, proof, without_wait  # noqa: F401 - proof is a fixture
from test_schedule_random import builders
from test_schedule_runs import REGIONS

from fusec.schedule.device import GRAIN, schedule_device
from fusec.schedule.schedule import SIGNAL, WAIT, WAITS, Schedule
from fusec.schedule.tasks import Grain
from fusec.schedule.validate import ScheduleError, validate

FINE = Grain(per_worker=4, least=0.5)


def members(s: Schedule, counter: int) -> np.ndarray:
    return np.flatnonzero(s.tasks[:, SIGNAL] == counter)


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("name", REGIONS)
def test_any_timing_gives_the_same_bits(name, workers, tight):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    s = schedule_device(region, workers, cost(1.0), grain=FINE, tight=tight)
    truth = sequential(region)
    for seed in range(4):
        assert agrees(region, execute(region, s, random.Random(seed)), truth)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(builders(), st.integers(1, 6), st.booleans(), st.randoms(use_true_random=False))
def test_random_regions(builder, workers, tight, rng):
    region = builder.bind()
    s = schedule_device(region, workers, cost(1.0), grain=FINE, tight=tight)
    assert agrees(region, execute(region, s, rng), sequential(region))


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", [n for n in REGIONS if n != "empty"])
def test_harmful_mutants_are_rejected(name, workers, thorough):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    truth = sequential(region)
    s = schedule_device(region, workers, cost(1.0), grain=FINE)
    rng = random.Random(workers)
    rejected = total = 0
    for what, mutant in mutants(s, rng):
        if not thorough and rng.random() < 0.7:
            continue
        total += 1
        if not is_accepted(mutant, region):
            rejected += 1
            continue
        for seed in range(12 if thorough else 4):
            try:
                result = execute(region, mutant, random.Random(seed))
            except Deadlock:
                pytest.fail(f"accepted a deadlock: {what}")
            assert agrees(region, result, truth), f"accepted a wrong schedule: {what}"
    assert rejected > total // 3


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("name", ["chain", "branches", "pieces", "updates", "recurrent", "stateful"])
def test_every_single_wait_is_needed(name, workers, tight):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    s = schedule_device(region, workers, cost(1.0), grain=FINE, tight=tight)
    assert not [row for row in range(len(s.waits)) if is_accepted(without_wait(s, row), region)]


def panels() -> Builder:
    """A map, and a product that reads whole rows: each of its tasks waits for the tasks of a panel."""
    b = Builder()
    x, y, z = b.input("x", 8, 8), b.value("y", 8, 8), b.value("z", 8, 8)
    b.call(MAP, {"x": x, "y": y}, {"R": 8, "C": 8}, r=2, c=2)
    b.call(DENSE, {"a": y, "w": "w", "y": z}, {"R": 8, "K": 8, "C": 8}, r=2, c=4)
    b.outputs = (z,)
    return b


def test_groups_are_what_the_same_readers_need():
    s = schedule_device(panels().bind(), 16, cost(5.0))
    sizes = [len(members(s, c)) for c in range(len(s.totals))]
    assert sizes == [4, 4, 4, 4] == s.totals.tolist()
    assert (s.tasks[s.tasks[:, 0] == 1, WAITS] == 1).all()
    assert (s.tasks[s.tasks[:, 0] == 1, SIGNAL] == -1).all(), "nobody waits for the last call"


def test_a_part_of_a_group_is_refused():
    region = panels().bind()
    s = schedule_device(region, 16, cost(5.0))
    waits = s.waits.copy()
    waits[0, 1] -= 1
    with pytest.raises(ScheduleError, match="waits for part of counter"):
        validate(replace(s, waits=waits), region)


def test_a_signal_too_few_and_a_signal_of_another_group_are_refused():
    region = panels().bind()
    s = schedule_device(region, 16, cost(5.0))
    silent, other = s.tasks.copy(), s.tasks.copy()
    first = members(s, 0)[0]
    silent[first, SIGNAL] = -1
    with pytest.raises(ScheduleError, match="total is not the number of its signals"):
        validate(replace(s, tasks=silent), region)
    with pytest.raises(ScheduleError, match="may start before"):
        totals, waits = s.totals.copy(), s.waits.copy()
        totals[0] -= 1
        waits[waits[:, 0] == 0, 1] -= 1
        validate(replace(s, tasks=silent, totals=totals, waits=waits), region)
    swap = members(s, 1)[0]
    other[[first, swap], SIGNAL] = other[[swap, first], SIGNAL]
    with pytest.raises(ScheduleError, match="may start before"):
        validate(replace(s, tasks=other), region)


def test_a_group_that_needs_itself_is_a_deadlock():
    region = panels().bind()
    s = schedule_device(region, 16, cost(5.0))
    reader = np.flatnonzero(s.tasks[:, 0] == 1)[0]
    tasks, totals, waits = s.tasks.copy(), s.totals.copy(), s.waits.copy()
    counter = s.waits[s.tasks[reader, WAIT], 0]
    tasks[reader, SIGNAL] = counter
    totals[counter] += 1
    waits[waits[:, 0] == counter, 1] += 1
    with pytest.raises(ScheduleError, match="deadlock"):
        validate(replace(s, tasks=tasks, totals=totals, waits=waits), region)


def test_what_a_worker_made_itself_needs_no_wait():
    b = Builder()
    x = b.input("x", 64, 8)
    for i in range(6):
        y = b.value(f"y{i}", 64, 8)
        b.call(MAP, {"x": x, "y": y}, {"R": 64, "C": 8}, r=4)
        x = y
    b.outputs = (x,)
    s = schedule_device(b.bind(), 16, cost(5.0))
    assert len(s.tasks) == 96
    assert len(s.waits) == 0


def test_readers_of_everything_wait_for_few_groups():
    b = Builder()
    x, y = b.input("x", 512, 4), b.value("y", 512, 4)
    z, total = b.value("z", 512, 4), b.value("t", 4, 512)
    b.call(MAP, {"x": x, "y": y}, {"R": 512, "C": 4}, r=1)
    b.call(ADD, {"x": y, "z": x, "y": z}, {"R": 512, "C": 4}, r=1)  # one to one
    b.alias("flat", "y", 4, 512)
    b.call(ROWS, {"x": "flat", "y": total}, {"R": 4, "C": 512}, r=4)  # everything
    b.outputs = (z, total)
    s = schedule_device(b.bind(), 132, cost(5.0), grain=replace(GRAIN, per_worker=8))
    assert s.tasks[:, WAITS].max() <= 32


def test_bytes_are_reused_in_planned_order_where_it_pays():
    region = mlp(batch=32, width=32, layers=8, tile=4).bind()
    loose = schedule_device(region, 8, cost(5.0), tight=False)
    tight = schedule_device(region, 8, cost(5.0), tight=True)
    assert tight.arena <= loose.arena
    assert tight.arena <= 2 * tight.arena_bound


def test_arrays_and_text_know_grouped_counters():
    from fusec.schedule.render import render

    region = panels().bind()
    s = schedule_device(region, 16, cost(5.0))
    again = Schedule.from_arrays(s.to_arrays())
    validate(again, region)
    assert str(again) == str(s)
    text = render(s)
    assert "counter 0 (all 4)" in text
    assert "worker 0:" not in text


def test_planning_grows_with_the_tasks():
    """Reuse of bytes in planned order looks at neighbours only: four times the layers take about four times as long."""
    times = []
    for layers in (10, 40):
        region = mlp(batch=64, width=64, layers=layers, tile=4).bind()
        start = time.process_time()
        s = schedule_device(region, 132, cost(5.0), tight=True)
        times.append((time.process_time() - start) / len(s.tasks))
    assert times[1] < 4 * times[0] + 1e-4
