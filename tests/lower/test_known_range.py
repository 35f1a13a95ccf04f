"""What is known of indices before a run."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.ir.build import GraphBuilder
from fusec.ir.types import DType
from fusec.lower.known_range import known_range


def test_ranges_of_computed_indices() -> None:
    b = GraphBuilder()
    i, x = b.input("i", "u32[N]"), b.input("x", "f32[N]")
    table = b.weight("table", np.array([3, 9, 4], np.uint32))
    test = b.op("cast", b.op("le", x, x), to=DType.U32)
    found = b.op("gather", table, test, axis=0)
    both = b.op("add", found, test)
    less = b.op("sub", both, table)
    down = b.op("sub", both, b.weight("three", np.array([3, 3, 3], np.uint32)))
    small = b.op("cast", both, to=DType.U8)
    least = b.op("min", i, table)
    g = b.graph([less, down, small, least])
    for v, want in (
        (i, None),
        (test, (0, 1)),
        (found, (3, 9)),
        (both, (3, 10)),
        (less, None),  # may wrap
        (down, (0, 7)),
        (small, (3, 10)),
        (least, (0, 9)),
    ):
        assert known_range(g, v) == want, v


def test_clamps_of_what_is_not_known() -> None:
    b = GraphBuilder()
    i, x = b.input("i", "i64[N]"), b.input("x", "f32[N]")
    low, high = b.weight("low", np.array(2, np.int64)), b.weight("high", np.array(9, np.int64))
    clamped = b.op("max", b.op("min", i, high), low)
    above = b.op("relu", b.op("min", i, high))
    row = b.op("mul", b.op("sub", above, low), high)
    place = b.op("cast", above, to=DType.U32)
    floats = b.op("relu", x)
    g = b.graph([clamped, row, place, floats])
    for v, want in ((clamped, (2, 9)), (above, (0, 9)), (row, (-18, 63)), (place, (0, 9)), (floats, None)):
        assert known_range(g, v) == want, v


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_sums_that_wrap_are_not_known(dtype: type[np.unsignedinteger]) -> None:
    b = GraphBuilder()
    i = b.input("i", "bool[N]")
    largest = b.weight("largest", np.array([np.iinfo(dtype).max], dtype))
    total = b.op("add", b.op("cast", i, to=DType.of(np.dtype(dtype))), largest)
    assert known_range(b.graph([total]), total) is None
