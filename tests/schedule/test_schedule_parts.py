"""The parts: boxes, runs, arenas, tables, what a region refuses, and the text for people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedule_fakes import ADD, MAP, ROWS, Builder, cost, kernel, mlp

from fusec.errors import BugError, PlanError
from fusec.ir.dim import symbol
from fusec.kernels.kernel import Guard, Kernel, Tiling
from fusec.schedule.arena import _lowest
from fusec.schedule.bind import bind_region, schedule_region
from fusec.schedule.boxes import common_shape, hull, merge, overlaps
from fusec.schedule.region import bind_calls
from fusec.schedule.render import render
from fusec.schedule.schedule import Schedule
from fusec.schedule.tasks import Grain, cut_tasks
from fusec.schedule.uses import View, meet

intervals = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted)
boxes = st.lists(st.tuples(intervals, intervals), min_size=1, max_size=4)


def cells(box, shape) -> set[int]:
    whole = np.zeros(shape, bool)
    whole[tuple(slice(a, b) for a, b in box)] = True
    return set(np.flatnonzero(whole).tolist())


@given(boxes, boxes)
def test_overlaps_count_shared_elements(a, b):
    counted = overlaps(np.array(a), np.array(b))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            assert counted[i, j] == len(cells(x, (4, 4)) & cells(y, (4, 4)))


@pytest.mark.parametrize(
    ("a", "b", "expect"),
    [
        ((5, 12, 64), (5, 768), (5, 768)),
        ((5, 768), (5, 12, 64), (5, 768)),
        ((2, 3, 4), (4, 3, 2), (24,)),
        ((2, 3, 4), (6, 4), (6, 4)),
        ((2, 3, 4), (2, 12), (2, 12)),
        ((1, 6, 1), (6,), (6,)),
        ((), (1, 1), ()),
        ((6,), (7,), None),
    ],
)
def test_shapes_meet_in_merged_dimensions(a, b, expect):
    assert common_shape(a, b) == expect


@st.composite
def two_shapes(draw):
    """Two shapes of one size, and a box in each."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=0, max_size=5))
    shapes = []
    for _ in range(2):
        order = draw(st.permutations(factors))
        shape, run = [], 1
        for f in order:
            run *= f
            if draw(st.booleans()):
                shape.append(run)
                run = 1
        shapes.append((*shape, run))
    boxes = []
    for shape in shapes:
        boxes.append([sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape])
    return shapes, boxes


@given(two_shapes())
def test_views_of_other_shapes_never_miss_a_shared_element(case):
    (a, b), (x, y) = case
    shared = cells(x, a) & cells(y, b)
    coarse = common_shape(a, b)
    assert coarse is not None
    xs, ys = np.array([x]).reshape(1, len(a), 2), np.array([y]).reshape(1, len(b), 2)
    meets = overlaps(merge(xs, a, coarse), merge(ys, b, coarse)) > 0
    if shared:
        assert meets.all()
        assert meet(xs, View(a, 4), ys, View(b, 4)).all()
    assert bool(meets[0, 0]) >= bool(meet(xs, View(a, 4), ys, View(b, 4))[0, 0])


def test_hull_of_runs():
    boxes = np.array([[[0, 2]], [[2, 4]], [[4, 5]], [[0, 1]]])
    assert hull(boxes, np.array([0, 2])).tolist() == [[[0, 4]], [[0, 5]]]


def region(tiles: int, columns: int = 1):
    b = Builder()
    b.call(
        MAP,
        {"x": b.input("x", tiles, columns), "y": b.value("y", tiles, columns)},
        {"R": tiles, "C": columns},
        r=1,
        c=1,
    )
    b.outputs = ("y",)
    return b.bind()


@pytest.mark.parametrize(
    ("tiles", "us", "workers", "expect"),
    [
        (100, 10.0, 2, 6),  # three tasks per worker
        (100, 0.1, 2, 2),  # only two tasks reach five microseconds
        (100, 0.01, 2, 1),  # nor does a share
        (100, 100.0, 1, 1),
        (5, 100.0, 2, 5),  # no more tasks than tiles
        (0, 100.0, 2, 0),
        (1000, 100.0, 1, 5),  # 20 ms each at most
        (1000, 1.0, 7, 21),
    ],
)
def test_work_is_cut_by_its_estimate(tiles, us, workers, expect):
    tasks = cut_tasks(region(tiles), workers, cost(us), Grain())
    assert len(tasks) == expect
    assert tasks.count.sum() == tiles
    assert (tasks.count > 0).all()


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_cuts_are_a_partition_and_even(rows, columns, workers):
    tasks = cut_tasks(region(rows, columns), workers, cost(100.0), Grain())
    assert tasks.first.tolist() == [0, *np.cumsum(tasks.count)[:-1].tolist()]
    assert tasks.count.min() >= 1
    assert tasks.count.max() <= 2 * rows * columns / len(tasks) + 1


def test_cuts_prefer_whole_rows():
    tasks = cut_tasks(region(24, 7), 2, cost(100.0), Grain())
    assert (tasks.first % 7 == 0).all()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=8), st.integers(1, 6))
def test_the_lowest_free_place_is_free_and_lowest(taken, size):
    at = _lowest(np.array([o for o, _ in taken], np.int64), np.array([n for _, n in taken], np.int64), size)
    used = {x for o, n in taken for x in range(o, o + n)}
    assert not used & set(range(at, at + size))
    assert all(used & set(range(p, p + size)) for p in range(at))


def test_a_large_arena_is_tightened_on_its_own():
    small = mlp(batch=32, width=8, layers=6, tile=4).bind()
    assert schedule_region(small, 2, cost(20.0)).arena > schedule_region(small, 2, cost(20.0), tight=True).arena
    large = mlp(batch=512, width=256, layers=6, tile=64).bind()
    chosen = schedule_region(large, 2, cost(20.0))
    assert chosen.arena == schedule_region(large, 2, cost(20.0), tight=True).arena
    assert chosen.arena < schedule_region(large, 2, cost(20.0), tight=False).arena


def test_the_guard_chooses_from_the_menu():
    n = symbol("N")
    b = Builder()
    b.call(ROWS, {"x": b.input("x", n, 4), "y": b.value("y", n, 4)}, {"R": n, "C": 4}, r=1)
    b.outputs = ("y",)
    (wide,) = b.kernels["rows0"]
    narrow = Kernel(wide.program, Tiling((("r", 8),), wide.tiling.stages, guard=Guard("R", 0, 8)))
    b.kernels["rows0"] = (narrow, wide)
    assert [b.bind(N=x).calls[0].choice for x in (3, 8, 9)] == [0, 0, 1]
    assert schedule_region(b.bind(N=9), 1, cost(1.0)).choices.tolist() == [1]
    b.kernels["rows0"] = (narrow,)
    with pytest.raises(BugError, match=r"no kernel of program 'rows0' fits rows0 with \{'R': 9, 'C': 4\}"):
        b.bind(N=9)


def test_unknown_symbols_and_small_values_are_named():
    b = Builder()
    b.call(MAP, {"x": b.input("x", symbol("N")), "y": b.value("y", symbol("N"))}, {"R": symbol("N"), "C": 1})
    with pytest.raises(BugError, match="symbol 'N' has no value"):
        b.bind()
    b = Builder()
    b.call(MAP, {"x": b.input("x", 4, 4), "y": b.value("y", 4, 3)}, {"R": 4, "C": 4})
    with pytest.raises(BugError, match=r"operand y of map0 has 128 bytes .*, but its value y has 96"):
        b.bind()


def test_bind_region_is_the_whole_stage():
    b = mlp()
    s = bind_region(b, b.kernels, {}, b.values, b.root, 2, cost(6.0), scratch=lambda k: 100 * k.tiles)
    assert s.scratch == 1600
    assert s.workers == 2
    assert s.to_arrays().keys() == schedule_region(b.bind(), 2, cost(6.0)).to_arrays().keys()


def test_roles_of_buffers():
    b = mlp(layers=1)
    bound = bind_calls(b, b.kernels, {}, b.values, b.root)
    roles = {n: x.role for n, x in bound.buffers.items()}
    assert roles == {"x": "input", "w0": "weight", "y0": "temp", "z0": "output"}
    assert bound.mutable == {"y0", "z0"}
    assert bound.calls[0].kernel.shape("a") == (8, 8)


def test_a_value_read_twice_by_one_call():
    b = Builder()
    b.call(ADD, {"x": b.input("x", 4, 4), "z": "x", "y": b.value("y", 4, 4)}, {"R": 4, "C": 4}, r=1)
    b.call(ADD, {"x": "y", "z": "y", "y": b.value("z", 4, 4)}, {"R": 4, "C": 4}, r=2)
    b.outputs = ("z",)
    assert len(schedule_region(b.bind(), 2, cost(9.0)).tasks) == 6


def test_a_region_without_calls():
    s = schedule_region(Builder().bind(), 3, cost(1.0))
    assert (len(s.tasks), s.arena, s.workers) == (0, 0, 3)
    assert str(Schedule.from_arrays(s.to_arrays())) == str(s)


DAMAGE = {
    "missing": lambda a: a.pop("waits"),
    "dtype": lambda a: a.update(tasks=a["tasks"].astype(np.int32)),
    "columns": lambda a: a.update(tasks=a["tasks"][:, :5]),
    "names": lambda a: a.update(names=a["names"][:-1]),
    "name types": lambda a: a.update(names=np.frombuffer(b"[[1],[2]]", np.uint8)),
    "offsets": lambda a: a.update(offsets=a["offsets"][:-1]),
    "numbers": lambda a: a.update(numbers=a["numbers"][:-1]),
    "queues": lambda a: a.update(queue_starts=a["queue_starts"] + 1),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_arrays_are_refused(what):
    arrays = schedule_region(mlp().bind(), 2, cost(6.0)).to_arrays()
    DAMAGE[what](arrays)
    with pytest.raises(PlanError, match="damaged"):
        Schedule.from_arrays(arrays)


def test_schedules_print_and_render():
    s = schedule_region(mlp().bind(), 2, cost(6.0), tight=True)
    assert "dense0 tiles 0-1" in str(s)
    text = render(s)
    assert "dense0 tiles 0-1" in text
    assert "worker 1: " in text
    assert "6 kernels, 36 tasks on 2 workers" in text
    assert "... and 30 more tasks" in render(s, tasks=6)
    hostile = replace(s, calls=("[red]\x1b[31m", *s.calls[1:]))
    assert "\x1b" not in render(hostile)
    assert "[red]" in render(hostile)


def test_kernels_are_bound_once_per_parameters():
    b = Builder()
    x = b.input("x", 4, 4)
    shared = kernel(MAP, r=2)
    b.kernels["map"] = (shared,)
    for i in range(3):
        b.call(MAP, {"x": x, "y": b.value(f"y{i}", 4, 4)}, {"R": 4, "C": 4})
        x = f"y{i}"
    b.calls = [replace(c, program=MAP) for c in b.calls]
    b.outputs = (x,)
    assert len({id(c.kernel) for c in b.bind().calls}) == 1
