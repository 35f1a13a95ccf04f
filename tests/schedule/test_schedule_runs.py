"""Schedules of hand-made regions, run under an adversary on several numbers of workers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from schedule_fakes import (
    ADD,
    CELL,
    CROSSED,
    CUMSUM,
    FLAT,
    FLIP,
    MAP,
    PIECE,
    PRODUCT,
    ROWS,
    SCAN,
    STATE,
    UPDATE,
    Builder,
    agrees,
    cost,
    execute,
    mlp,
    sequential,
)  # fmt: skip

from fusec.ir.dim import symbol
from fusec.schedule.assign import Costs
from fusec.schedule.bind import schedule_region
from fusec.schedule.tasks import Grain


def chain() -> Builder:
    """Row-wise, column-wise and all-to-all steps in a line."""
    b = Builder()
    x = b.input("x", 12, 10)
    b.call(ROWS, {"x": x, "y": b.value("a", 12, 10)}, {"R": 12, "C": 10}, r=1)
    b.call(FLIP, {"x": "a", "y": b.value("b", 10, 12)}, {"R": 12, "C": 10}, r=3, c=2)
    b.call(PRODUCT, {"a": "a", "b": "b", "y": b.value("c", 12, 12)}, {"R": 12, "K": 10, "C": 12}, r=4, c=3)
    b.call(ROWS, {"x": "c", "y": b.value("d", 12, 12)}, {"R": 12, "C": 12}, r=2)
    b.call(MAP, {"x": "d", "y": b.value("e", 12, 12)}, {"R": 12, "C": 12}, r=5, c=5)
    b.outputs = ("e",)
    return b


def branches() -> Builder:
    """Two independent lines that meet."""
    b = Builder()
    b.input("x", 8, 8)
    for side in "lr":
        last = "x"
        for i in range(4):
            value = b.value(f"{side}{i}", 8, 8)
            b.call(ROWS if i % 2 else FLIP, {"x": last, "y": value}, {"R": 8, "C": 8}, r=8 if side == "l" else 2)
            last = value
    b.call(ADD, {"x": "l3", "z": "r3", "y": b.value("y", 8, 8)}, {"R": 8, "C": 8}, r=2)
    b.outputs = ("y",)
    return b


def pieces() -> Builder:
    """A concat written by three calls, read whole, through another shape, and flat."""
    b = Builder()
    for i, width in enumerate((4, 6, 2)):
        b.input(f"x{i}", 6, width)
    b.value("y", 6, 12)
    for i, (width, offset) in enumerate(((4, 0), (6, 4), (2, 10))):
        b.call(PIECE, {"x": f"x{i}", "y": "y"}, {"R": 6, "C": width, "T": 12, "O": offset}, r=2, c=width)
    b.call(ROWS, {"x": "y", "y": b.value("z", 6, 12)}, {"R": 6, "C": 12}, r=1)
    b.call(ROWS, {"x": b.alias("wide", "z", 12, 6), "y": b.value("u", 12, 6)}, {"R": 12, "C": 6}, r=2)
    b.call(FLAT, {"x": b.alias("flat", "u", 72), "y": b.value("v", 72)}, {"R": 72}, r=5)
    b.outputs = ("v",)
    return b


def updates() -> Builder:
    """A cache that is read, updated in place, and read again: write after read, write after write, read after write."""
    b = Builder()
    b.input("cache", 8, 4)
    for i in range(3):
        x = b.input(f"x{i}", 2, 4)
        b.call(ROWS, {"x": "cache", "y": b.value(f"before{i}", 8, 4)}, {"R": 8, "C": 4}, r=2)
        b.call(UPDATE, {"x": x, "y": "cache"}, {"R": 2, "C": 4, "T": 8, "O": 2 * i}, r=1, c=2)
        b.call(MAP, {"x": "cache", "y": b.value(f"after{i}", 8, 4)}, {"R": 8, "C": 4}, r=2, c=4)
    b.outputs = tuple(f"{when}{i}" for when in ("before", "after") for i in range(3))
    return b


def recurrent() -> Builder:
    """Sequential axes that lead, that follow an independent axis, and that follow one they mix."""
    b = Builder()
    x = b.input("x", 6, 9)
    b.call(SCAN, {"x": x, "y": b.value("a", 6, 9)}, {"T": 6, "C": 9}, t=1, c=2)
    b.call(CUMSUM, {"x": "a", "y": b.value("b", 6, 9)}, {"R": 6, "T": 9}, r=1, t=2)
    b.call(CROSSED, {"x": "b", "y": b.value("c", 6, 9)}, {"R": 6, "T": 9}, r=2, t=1)
    b.call(MAP, {"x": "c", "y": b.value("d", 6, 9)}, {"R": 6, "C": 9}, r=2, c=3)
    b.outputs = ("d",)
    return b


def stateful() -> Builder:
    """Steps that go back and forth between two halves of a state, and steps that update one in place."""
    b = Builder()
    x = b.input("x", 7, 5)
    b.input("h", 2, 5)
    b.input("s", 5)
    b.call(ROWS, {"x": "h", "y": b.value("before", 2, 5)}, {"R": 2, "C": 5}, r=1)
    b.call(STATE, {"x": x, "h": "h"}, {"T": 7, "C": 5}, t=1, c=2)
    b.call(CELL, {"x": x, "s": "s"}, {"T": 7, "C": 5}, t=1, c=3)
    b.call(ROWS, {"x": b.alias("flat", "h", 5, 2), "y": b.value("after", 5, 2)}, {"R": 5, "C": 2}, r=2)
    b.outputs = ("before", "after")
    return b


def empty() -> Builder:
    """Tensors without elements beside one with some."""
    b = Builder()
    n = symbol("N")
    b.call(MAP, {"x": b.input("x", n, 4), "y": b.value("y", n, 4)}, {"R": n, "C": 4}, r=2, c=2)
    b.call(ROWS, {"x": "y", "y": b.value("z", n, 4)}, {"R": n, "C": 4}, r=1)
    b.call(MAP, {"x": b.input("u", 3, 4), "y": b.value("v", 3, 4)}, {"R": 3, "C": 4}, r=1, c=2)
    b.outputs = ("z", "v")
    return b


REGIONS = {
    "chain": (chain, {}),
    "branches": (branches, {}),
    "pieces": (pieces, {}),
    "updates": (updates, {}),
    "recurrent": (recurrent, {}),
    "stateful": (stateful, {}),
    "empty": (empty, {"N": 0}),
    "nearly_empty": (empty, {"N": 1}),
    "mlp": (mlp, {}),
}


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("tight", [False, True])
def test_any_timing_gives_the_sequential_result(name, workers, tight):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    truth = sequential(region)
    for us in (0.5, 6.0):  # tasks of many tiles, and of one
        s = schedule_region(region, workers, cost(us), tight=tight)
        for seed in range(6):
            assert agrees(region, execute(region, s, random.Random(seed)), truth), (name, us, seed)


@pytest.mark.parametrize("name", REGIONS)
def test_a_grain_of_one_tile_runs_too(name):
    build, symbols = REGIONS[name]
    region = build().bind(**symbols)
    s = schedule_region(region, 3, cost(1.0), grain=Grain(per_worker=1000, least=0.0001))
    assert agrees(region, execute(region, s, random.Random(1)), sequential(region))


def test_one_worker_needs_no_waits_and_one_task_per_call():
    s = schedule_region(mlp(layers=3).bind(), 1, cost(5.0))
    assert len(s.tasks) == 6
    assert len(s.waits) == 0
    assert s.queues.tolist() == list(range(6))


def test_long_calls_are_cut_even_on_one_worker():
    s = schedule_region(mlp(layers=1).bind(), 1, cost(10_000.0))
    assert len(s.tasks) == 8 + 4


def test_short_calls_are_not_shared():
    s = schedule_region(mlp().bind(), 2, cost(0.1))
    assert len(s.tasks) == 6
    assert len(s.waits) == 0
    assert len(s.queue(1)) == 0


def test_row_panels_stay_on_their_worker():
    """A batch-parallel network needs no waits at all: each worker keeps its rows through every layer."""
    s = schedule_region(mlp(batch=32, width=8, layers=4, tile=4).bind(), 2, cost(20.0))
    assert len(s.waits) == 0
    for w in range(2):
        assert {int(s.tasks[t, 1]) * 2 // {0: 16, 1: 32}[int(s.tasks[t, 0]) % 2] for t in s.queue(w)} == {w}


def test_independent_branches_overlap():
    region = branches().bind()
    one, two = (schedule_region(region, w, cost(50.0)) for w in (1, 2))
    assert two.makespan < 0.65 * one.makespan


def test_all_to_all_layers_keep_one_wait_per_worker():
    b = Builder()
    x = b.input("x", 8, 16)
    for i in range(5):
        y = b.value(f"y{i}", 8, 16)
        b.call(PRODUCT, {"a": x, "b": b.input(f"w{i}", 16, 16), "y": y}, {"R": 8, "K": 16, "C": 16}, r=8, c=2)
        x = y
    b.outputs = (x,)
    s = schedule_region(b.bind(), 2, cost(10.0))
    assert len(s.tasks) >= 5 * 4
    assert len(s.waits) == 2 * 4  # per layer one per worker, none in front of the first


def test_the_same_input_gives_the_same_tables():
    region = chain().bind()
    first, second = (schedule_region(r, 3, cost(3.0)).to_arrays() for r in (region, chain().bind()))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_tiles_do_not_depend_on_workers():
    region = chain().bind()
    tiles = []
    for w in (1, 2, 3, 7):
        s = schedule_region(region, w, cost(3.0))
        tiles.append(sorted((c, t) for c, f, n in s.tasks[:, :3].tolist() for t in range(f, f + n)))
    assert all(t == tiles[0] for t in tiles)


def test_temporaries_of_a_line_share_two_places():
    region = mlp(batch=16, width=16, layers=6, tile=16).bind()
    s = schedule_region(region, 1, cost(1.0))
    assert s.arena == s.arena_bound == 2 * 16 * 16 * 8


def test_a_tight_arena_trades_waits_for_bytes():
    region = mlp(batch=32, width=8, layers=6, tile=4).bind()
    loose = schedule_region(region, 2, cost(20.0), tight=False)
    tight = schedule_region(region, 2, cost(20.0), tight=True)
    assert tight.arena < loose.arena
    assert len(tight.waits) > len(loose.waits)


def test_hand_over_costs_keep_short_work_together():
    region = mlp(batch=4, width=8, layers=3, tile=2).bind()
    dear = schedule_region(region, 2, cost(6.0), costs=Costs(hand_over=1e6, byte=1.0))
    assert len(dear.waits) <= len(schedule_region(region, 2, cost(6.0), costs=Costs(hand_over=0.0, byte=0.0)).waits)
