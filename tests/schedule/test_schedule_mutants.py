"""The validator rejects damaged schedules; what it accepts is right under every adversary tried."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from schedule_fakes import CROSSED, MAP, PIECE, Builder, Deadlock, agrees, cost, execute, sequential
from test_schedule_runs import REGIONS

from fusec.schedule.bind import schedule_region
from fusec.schedule.schedule import COUNT, FIRST, SIGNAL, WAIT, WAITS, Schedule
from fusec.schedule.tasks import Grain
from fusec.schedule.validate import ScheduleError, validate

FINE = Grain(per_worker=4, least=0.5)


def without_wait(s: Schedule, row: int) -> Schedule:
    tasks = s.tasks.copy()
    owner = np.flatnonzero((tasks[:, WAIT] <= row) & (row < tasks[:, WAIT] + tasks[:, WAITS]))[0]
    tasks[owner, WAITS] -= 1
    tasks[tasks[:, WAIT] > row, WAIT] -= 1
    return replace(s, tasks=tasks, waits=np.delete(s.waits, row, 0))


def with_cell(s: Schedule, table: str, row: int, column: int, by: int) -> Schedule:
    array = getattr(s, table).copy()
    array[row, column] += by
    return replace(s, **{table: array})


def swapped(s: Schedule, i: int, j: int) -> Schedule:
    queues = s.queues.copy()
    queues[[i, j]] = queues[[j, i]]
    return replace(s, queues=queues)


def mutants(s: Schedule, rng: random.Random) -> Iterator[tuple[str, Schedule]]:
    for row in range(len(s.waits)):
        yield f"wait {row} deleted", without_wait(s, row)
        yield f"wait {row} one earlier", with_cell(s, "waits", row, 1, -1)
        yield f"wait {row} one later", with_cell(s, "waits", row, 1, 1)
        yield f"wait {row} for the next counter", with_cell(s, "waits", row, 0, 1)
    for i in range(len(s.queues) - 1):
        yield f"queue places {i} and {i + 1} swapped", swapped(s, i, i + 1)
    for _ in range(10):
        i, j = rng.randrange(len(s.queues)), rng.randrange(len(s.queues))
        yield f"queue places {i} and {j} swapped", swapped(s, i, j)
        t = rng.randrange(len(s.tasks))
        yield f"first tile of {t} moved", with_cell(s, "tasks", t, FIRST, rng.choice((-1, 1)))
        yield f"count of {t} changed", with_cell(s, "tasks", t, COUNT, rng.choice((-1, 1)))
        yield f"signal of {t} moved", with_cell(s, "tasks", t, SIGNAL, rng.choice((-1, 1)))
    names = list(s.offsets)
    for a in names:
        for b in names:
            if a != b and s.offsets[a] != s.offsets[b]:
                yield f"{a} moved onto {b}", replace(s, offsets=s.offsets | {a: s.offsets[b]})
        yield f"{a} moved out", replace(s, offsets=s.offsets | {a: s.arena})
        yield f"{a} off its line", replace(s, offsets=s.offsets | {a: s.offsets[a] + 8})


def is_accepted(s: Schedule, region) -> bool:
    try:
        validate(s, region)
    except ScheduleError:
        return False
    return True


@pytest.fixture(params=["pairs", "chains"])
def proof(request, monkeypatch):
    """Both ways to look at the tasks that use a buffer: every two of them, and chains of those with equal boxes."""
    if request.param == "chains":
        monkeypatch.setattr("fusec.schedule.validate.MANY", 0)


@pytest.mark.usefixtures("proof")
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", [n for n in REGIONS if n != "empty"])
def test_harmful_mutants_are_rejected(name, workers, thorough):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    truth = sequential(region)
    s = schedule_region(region, workers, cost(1.0), grain=FINE)
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
def test_every_single_wait_is_needed(workers, tight):
    """Waits that the clocks imply were dropped, so deleting any that is left must be noticed."""
    for name in ("chain", "branches", "pieces", "updates", "recurrent", "stateful"):
        build, symbols = REGIONS[name]
        region = build().bind(**symbols)
        s = schedule_region(region, workers, cost(1.0), grain=FINE, tight=tight)
        kept = [row for row in range(len(s.waits)) if is_accepted(without_wait(s, row), region)]
        assert not kept, (name, kept)


def test_the_adversary_finds_most_deleted_waits():
    """Otherwise a passing run would mean nothing."""
    found = total = 0
    for name in ("chain", "branches", "pieces"):
        region = REGIONS[name][0]().bind()
        truth = sequential(region)
        s = schedule_region(region, 3, cost(1.0), grain=FINE)
        for row in range(len(s.waits)):
            total += 1
            mutant = without_wait(s, row)
            found += not all(agrees(region, execute(region, mutant, random.Random(x)), truth) for x in range(40))
    assert found > 0.8 * total


def test_errors_name_the_tasks():
    region = REGIONS["chain"][0]().bind()
    s = schedule_region(region, 2, cost(1.0), grain=FINE)
    with pytest.raises(ScheduleError, match=r"\w+ tiles? \d+.* may start before \w+ tiles? \d+.* both touch"):
        validate(replace(s, tasks=s.tasks * np.array([1, 1, 1, 1, 0, 1])), region)
    deadlock = replace(
        s, queues=s.queues[::-1].copy(), queue_starts=np.array([0, *np.diff(s.queue_starts)[::-1].cumsum()])
    )
    with pytest.raises(ScheduleError, match=r"deadlock|queued|waits"):
        validate(deadlock, region)


def test_kernels_of_another_choice_are_refused():
    region = REGIONS["chain"][0]().bind()
    s = schedule_region(region, 2, cost(1.0))
    with pytest.raises(ScheduleError, match="other kernels"):
        validate(replace(s, choices=s.choices + 1), region)


def test_tiles_that_need_each_other_within_a_step_are_refused():
    """A recurrent kernel that mixes rows cannot run three steps per tile: rows of one step would race."""
    b = Builder()
    b.input("x", 4, 6)
    b.call(CROSSED, {"x": "x", "y": b.value("y", 4, 6)}, {"R": 4, "T": 6}, r=2, t=3)
    b.outputs = ("y",)
    with pytest.raises(ScheduleError, match="crossed0: tile 0 reads bytes of y that tile 2 writes"):
        schedule_region(b.bind(), 2, cost(1.0))


def test_outputs_with_gaps_are_refused():
    b = Builder()
    b.input("x", 6, 4)
    b.call(PIECE, {"x": "x", "y": b.value("y", 6, 12)}, {"R": 6, "C": 4, "T": 12, "O": 2}, r=2)
    b.outputs = ("y",)
    with pytest.raises(ScheduleError, match="y is not written everywhere by piece0"):
        schedule_region(b.bind(), 2, cost(1.0))


def test_reading_what_nobody_wrote_is_refused():
    b = Builder()
    b.value("t", 6, 4)
    b.call(MAP, {"x": "t", "y": b.value("y", 6, 4)}, {"R": 6, "C": 4}, r=2)
    b.call(MAP, {"x": "y", "y": "t"}, {"R": 6, "C": 4}, r=2)
    b.outputs = ("y",)
    with pytest.raises(ScheduleError, match="map0 reads t before anything writes it"):
        schedule_region(b.bind(), 2, cost(1.0))
