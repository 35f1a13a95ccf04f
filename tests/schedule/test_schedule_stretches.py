"""Calls that hand on a lot: which make a stretch, in which order their tasks go, and that this is right for any timing."""

from __future__ import annotations

import random

import numpy as np
import pytest
from schedule_fakes import DENSE, MAP, Builder, R, agrees, cost, execute, inp, k, load, out, program, r, sequential

import fusec
from bench.models.vision import mobilenet_v2
from fusec.schedule import bind, stretches
from fusec.schedule.bind import schedule_region
from fusec.schedule.schedule import CALL
from fusec.schedule.stretches import bands, find_stretches
from fusec.tile.program import Axis

WINDOW = program(
    "window", "R", [Axis("r", R)], [inp("x", R + 2), out("y", R)], "r", ("y", r), load("x", r + k), folds=[Axis("k", 3)]
)
BYTES = 8
"""Of an element of these kernels."""


def windows(lengths: list[int]) -> Builder:
    """Each call reads three neighbours for each element, and makes two fewer."""
    b = Builder()
    x, n = b.input("x", lengths[0] + 2), lengths[0]
    for i, n in enumerate(lengths):
        y = b.value(f"y{i}", n)
        b.call(WINDOW, {"x": x, "y": y}, {"R": n}, r=2)
        x = y
    b.outputs = (x,)
    return b


@pytest.fixture
def small(monkeypatch):
    """Bands of a few elements, and arithmetic that does not count."""
    monkeypatch.setattr(stretches, "BAND", 4 * BYTES)
    monkeypatch.setattr(stretches, "FLOPS_PER_BYTE", 1e9)


def test_what_is_handed_on_makes_a_stretch(small):
    region = windows([64, 62, 60]).bind()
    assert find_stretches(region, 62 * BYTES) == (range(3),)
    assert find_stretches(region, 63 * BYTES) == (range(2),)
    assert find_stretches(region, 65 * BYTES) == ()
    assert find_stretches(region, 0) == ()
    assert [bands(region, c) for c in region.calls] == [17, 16, 16]


def test_long_stretches_are_cut_where_the_least_is_handed_on(small):
    region = windows([64, 62, 60, 58, 56, 54]).bind()
    assert find_stretches(region, 1) == (range(4), range(4, 6))


def test_arithmetic_and_weights_hide_the_way_through_memory(monkeypatch):
    b = Builder()
    x, y, z = b.input("x", 64, 8), b.value("y", 64, 8), b.value("z", 64, 8)
    b.call(MAP, {"x": x, "y": y}, {"R": 64, "C": 8}, r=2, c=8)
    b.call(DENSE, {"a": y, "w": "w", "y": z}, {"R": 64, "K": 8, "C": 8}, r=2, c=8)
    b.outputs = (z,)
    region = b.bind()
    assert find_stretches(region, 1) == (range(2),)
    with monkeypatch.context() as m:
        m.setattr(stretches, "FLOPS_PER_BYTE", 1.0)  # it makes 16 operations of each of 8 bytes
        assert find_stretches(region, 1) == ()
    monkeypatch.setattr(stretches, "WEIGHT_BYTES", 8 * 8 * BYTES - 1)
    assert find_stretches(region, 1) == ()


def test_a_worker_goes_down_as_soon_as_it_can(small):
    region = windows([64, 62, 60]).bind()
    s = schedule_region(region, 1, cost(1.0), far=1)
    calls = s.tasks[s.queue(0), CALL].tolist()
    assert calls[:6] == [0, 0, 1, 0, 1, 2]
    assert schedule_region(region, 1, cost(1.0), far=0).queue(0).tolist() == sorted(s.queue(0).tolist())[:3]


@pytest.mark.parametrize("workers", [1, 2, 3, 16, 40])
def test_every_timing_gives_the_same(small, workers):
    region = windows([64, 62, 60, 58, 56, 54]).bind()
    truth = sequential(region)
    s = schedule_region(region, workers, cost(3.0), far=1)
    for seed in range(5):
        assert agrees(region, execute(region, s, random.Random(seed)), truth)


def test_models_give_the_same_bits(monkeypatch):
    b = mobilenet_v2(batch=2, image=64, rows=((1, 8, 1, 1), (6, 16, 2, 2)))
    feeds, model = b.feeds, b.model()
    want = fusec.compile(model, threads=1).run_list(feeds)
    found = []

    def find(region, _far):
        found.append(find_stretches(region, 1 << 14))
        return found[-1]

    monkeypatch.setattr(bind, "find_stretches", find)
    monkeypatch.setattr(stretches, "BAND", 1 << 13)
    for threads in (1, 2):
        got = fusec.compile(model, threads=threads).run_list(feeds)
        assert all(np.array_equal(x, y) for x, y in zip(want, got, strict=True))
    assert all(found)
