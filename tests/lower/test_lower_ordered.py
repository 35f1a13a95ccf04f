"""Running sums: their programs, with numpy and compiled, against the op's reference; along lines and across them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lower_check import apply, compare, graph_of, reference, run_call, value

from fusec.errors import ModelError
from fusec.ir.types import DType
from fusec.kernels.kernel import Call
from fusec.lower.group import Programs
from fusec.lower.ordered import lower_running
from fusec.rewrite.fused import make_group
from fusec.tile.parse import parse_program
from fusec.tile.text import print_program

R = np.random.default_rng(0)
SHAPES = [((2, 21), 1), ((3, 16), 1), ((1, 5), 1), ((0, 9), 1), ((4, 0), 1), ((5, 4), 0), ((2, 9, 3), 1), ((11,), 0)]


def running(shape: tuple[Any, ...], dtype: DType, **attrs: Any) -> tuple[Any, Call]:
    nodes = [apply("running", "y", value("x", *shape, dtype=dtype), **attrs)]
    graph = graph_of(nodes)
    (call,) = lower_running(make_group(nodes, graph.outputs), graph, Programs(), lambda v: v)
    assert parse_program(print_program(call.program)) == call.program
    return graph, call


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("fn", ["sum", "prod"])
def test_programs(fn: str, reverse: bool, exclusive: bool) -> None:
    for (shape, axis), dtype in zip(SHAPES, [DType.F32, DType.F64, DType.I64, DType.F16] * 2, strict=True):
        graph, call = running(shape, dtype, axis=axis, fn=fn, exclusive=exclusive, reverse=reverse)
        x = R.uniform(0.8, 1.25, shape) if fn == "prod" else 3 * R.standard_normal(shape)
        want = reference(graph, {"x": x.astype(dtype.numpy)}, {})
        for tile in ({a.name: 1 for a in call.program.axes}, {}):
            compare(
                run_call(call, want, {}, tile)["y"],
                want["y"],
                graph.outputs[0],
                1e-2 if dtype is DType.F16 else None,
                "",
            )


def test_sizes_may_be_symbols() -> None:
    from fusec.ir.dim import symbol

    graph, call = running((2, symbol("T")), DType.F32, axis=1, fn="sum", exclusive=False, reverse=False)
    want = reference(graph, {"x": R.standard_normal((2, 19)).astype(np.float32)}, {"T": 19})
    compare(run_call(call, want, {"T": 19}, {})["y"], want["y"], graph.outputs[0], None, "")


def test_one_program_for_all_lengths() -> None:
    known = {
        running(s, DType.F32, axis=1, fn="sum", exclusive=False, reverse=False)[1].program for s in ((2, 8), (7, 99))
    }
    assert len(known) == 1


def test_special_values_stay_where_they_are() -> None:
    """What comes after an infinity in a block must not spoil what comes before it."""
    _, call = running((1, 12), DType.F32, axis=1, fn="sum", exclusive=False, reverse=False)
    x = np.arange(12, dtype=np.float32).reshape(1, 12)
    x[0, 5], x[0, 10] = np.inf, -np.inf
    got = run_call(call, {"x": x}, {}, {})["y"].reshape(-1)
    np.testing.assert_array_equal(got, [0, 1, 3, 6, 10, *[np.inf] * 5, np.nan, np.nan])


def test_what_it_refuses() -> None:
    with pytest.raises(ModelError, match="none of sum, prod"):
        apply("running", "y", value("x", 3), axis=0, fn="max", exclusive=False, reverse=False)
    with pytest.raises(ModelError, match="numbers"):
        apply("running", "y", value("x", 3, dtype=DType.BOOL), axis=0, fn="sum", exclusive=False, reverse=False)
