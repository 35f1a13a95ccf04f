"""The sweep finds exactly the boxes that meet."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fusec.schedule.sweep import meeting, spread

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
