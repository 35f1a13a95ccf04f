"""Running sums and the largest elements: their programs, run with numpy, against the ops' references."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lower_check import compare, graph_of, reference, run_call, value

from fusec.errors import ModelError
from fusec.ir.dim import symbol
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.kernels.kernel import Call
from fusec.lower.group import Programs
from fusec.lower.ordered import lower_running
from fusec.lower.top_k import lower_top_k
from fusec.ops.op import get
from fusec.ops.ordered import RANKED
from fusec.rewrite.fused import make_group
from fusec.tile.parse import parse_program
from fusec.tile.text import print_program

R = np.random.default_rng(0)
SHAPES = [((2, 21), 1), ((3, 16), 1), ((1, 5), 1), ((0, 9), 1), ((4, 0), 1), ((5, 4), 0), ((2, 9, 3), 1), ((11,), 0)]


def lowered(op: str, shape: tuple[Any, ...], dtype: DType, **attrs: Any) -> tuple[Graph, Call]:
    x = value("x", *shape, dtype=dtype)
    outputs = [Value(n, t) for n, t in zip("yp", get(op).infer([x.type], attrs), strict=False)]
    graph = graph_of([Node.make(op, [x], outputs, **attrs)])
    lower = {"running": lower_running, "top_k": lower_top_k}[op]
    (call,) = lower(make_group(graph.nodes, graph.outputs), graph, Programs(), lambda v: v)
    assert parse_program(print_program(call.program)) == call.program
    return graph, call


def running(shape: tuple[Any, ...], dtype: DType, **attrs: Any) -> tuple[Graph, Call]:
    return lowered("running", shape, dtype, **attrs)


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
    for dtype, fn, message in ((DType.F32, "max", "none of sum, prod"), (DType.BOOL, "sum", "must be numbers")):
        with pytest.raises(ModelError, match=message):
            running((3,), dtype, axis=0, fn=fn, exclusive=False, reverse=False)
    for dtype, k, message in (
        (DType.F64, 1, "32 bits or less"),
        (DType.F32, 4, "k is 4.*3 elements"),
        (DType.I8, -1, "k is -1"),
    ):
        with pytest.raises(ModelError, match=message):
            lowered("top_k", (3,), dtype, axis=0, k=k, largest=True)


def extremes(shape: tuple[int, ...], dtype: DType) -> Any:
    """Few values, so that many are equal, with those of either end among them."""
    if dtype.is_float:
        some = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, -np.nan, 1e-7, 6e4], np.float32)
    else:
        info = np.iinfo(dtype.numpy)
        some = np.array([info.min, info.max, 0, 1, 3, info.min + 1, info.max - 1])
    return R.choice(some, shape).astype(dtype.numpy)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("dtype", sorted(RANKED, key=str), ids=str)
def test_the_largest(dtype: DType, largest: bool) -> None:
    for shape, axis, k in (((2, 75), 1, 75), ((3, 7), 1, 2), ((2, 40, 3), 1, 33), ((1, 4), 1, 0), ((0, 5), 1, 2)):
        graph, call = lowered("top_k", shape, dtype, axis=axis, k=k, largest=largest)
        want = reference(graph, {"x": extremes(shape, dtype)}, {})
        for tile in ({a.name: 1 for a in call.program.axes}, {}):
            got = run_call(call, want, {}, tile)
            np.testing.assert_array_equal(got["p"].reshape(want["p"].shape), want["p"])
            values = got["y"].reshape(want["y"].shape)
            assert values.dtype == want["y"].dtype
            np.testing.assert_array_equal(values.astype(np.float64), want["y"].astype(np.float64))


def test_the_largest_of_symbols() -> None:
    graph, call = lowered("top_k", (2, symbol("N")), DType.F32, axis=1, k=symbol("K"), largest=True)
    x = R.standard_normal((2, 90)).astype(np.float32)
    want = reference(graph, {"x": x}, {"N": 90, "K": 5})
    np.testing.assert_array_equal(want["y"], -np.sort(-x, 1)[:, :5])
    np.testing.assert_array_equal(run_call(call, want, {"N": 90, "K": 5}, {})["p"].reshape(2, 5), want["p"])
