"""The sweep finds exactly the boxes that meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusec.schedule.dependencies import find_conflicts
from fusec.schedule.sweep import argsort_counts, meeting, spread
from fusec.schedule.tasks import Access, Tasks

sides = st.tuples(st.integers(0, 6), st.integers(1, 4)).map(lambda x: (x[0], x[0] + x[1]))


@given(st.integers(0, 3).flatmap(lambda dims: st.lists(st.tuples(*[sides] * dims), max_size=12)))
def test_every_pair_that_meets_is_found_once(boxes):
    dims = len(boxes[0]) if boxes else 1
    corners = np.array(boxes, np.int64).reshape(len(boxes), dims, 2)
    found = [
        tuple(sorted(p)) for p in zip(*(x.tolist() for x in meeting(corners[..., 0], corners[..., 1])), strict=True)
    ]
    wanted = {
        (j, i)
        for i, a in enumerate(boxes)
        for j, b in enumerate(boxes[:i])
        if all(x[0] < y[1] and y[0] < x[1] for x, y in zip(a, b, strict=True))
    }
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_spread_counts():
    index, before = spread(np.array([2, 0, 1]))
    assert (index.tolist(), before.tolist()) == ([0, 0, 2], [0, 1, 0])


@pytest.mark.parametrize("end", [1, 100, 1 << 16, 1 << 20, 1 << 40])
def test_numbers_are_sorted_in_place_of_their_16_bit_parts(end):
    numbers = np.random.default_rng(0).integers(0, end, 1000)
    assert argsort_counts(numbers).tolist() == np.argsort(numbers, kind="stable").tolist()


def test_a_layer_of_many_blocks_has_no_more_conflicts_a_step_when_it_has_more_steps():
    """Each step writes everything again, so that who follows it follows all before: whatever the number of its parts."""

    def conflicts(steps: int, width: int = 100) -> int:
        n = steps * width
        task, phase, none = np.arange(n), np.repeat(np.arange(steps), width), np.zeros(n, np.int64)
        part = np.stack([task % width, task % width + 1], 1)[:, None]
        every = np.broadcast_to(np.array([0, width]), (n, 1, 2))
        boxes = ((False, every), (True, part))
        accesses = tuple(Access(0, "state", write, (width,), 4, x) for write, x in boxes)
        return len(find_conflicts(Tasks(none, task, none + 1, phase, none + 1.0, (0, n), accesses)).earlier)

    assert conflicts(9) - conflicts(6) == conflicts(6) - conflicts(3) > 0
