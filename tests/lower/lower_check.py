"""Running lowered groups with numpy against the references of their ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import evaluate
from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.types import DType, TensorType
from fusec.kernels.kernel import Call
from fusec.lower.group import lower_group
from fusec.ops import op as ops
from fusec.rewrite.fused import make_group
from fusec.tile.parse import parse_program
from fusec.tile.reference import run_program
from fusec.tile.text import print_program

Array = npt.NDArray[Any]


def value(name: str, *shape: Any, dtype: DType = DType.F32) -> Value:
    return Value(name, TensorType(dtype, shape))


def apply(op: str, name: str, *inputs: Value | None, **attrs: Any) -> Node:
    (t,) = ops.get(op).infer([None if v is None else v.type for v in inputs], attrs)
    return Node.make(op, inputs, (Value(name, t),), **attrs)


def graph_of(nodes: Sequence[Node], outputs: Sequence[Value] | None = None, weights: Sequence[Weight] = ()) -> Graph:
    made = {v.name for n in nodes for v in n.outputs}
    constant = {w.value.name: w for w in weights}
    inputs = {v.name: v for n in nodes for v in n.operands if v.name not in made | constant.keys()}
    return Graph("g", tuple(inputs.values()), tuple(outputs or nodes[-1].outputs), tuple(nodes), constant)


def reference(graph: Graph, feeds: Mapping[str, Array], symbols: Mapping[str, int]) -> dict[str, Array]:
    """The graph by the references of its ops; symbolic attributes are evaluated first."""
    env = dict(feeds) | {n: w.array for n, w in graph.weights.items()}
    for n in graph.nodes:
        attrs = {k: bound(v, symbols) for k, v in n.attrs}
        results = ops.get(n.op).reference([None if v is None else env[v.name] for v in n.inputs], attrs)
        env |= {v.name: r for v, r in zip(n.outputs, results, strict=True)}
    return env


def bound(x: Any, symbols: Mapping[str, int]) -> Any:
    if isinstance(x, tuple):
        return tuple(bound(i, symbols) for i in x)
    return evaluate(x, symbols) if hasattr(x, "terms") else x


def run_call(
    call: Call, env: Mapping[str, Array], symbols: Mapping[str, int], tile: Mapping[str, int]
) -> dict[str, Array]:
    """The outputs of a call by value name, flat."""
    params = {n: evaluate(d, symbols) for n, d in call.params}
    where = dict(call.operands)
    operands: dict[str, Any] = {n: env[v] for n, v in call.operands if call.program.operand[n].role != "output"}
    operands |= dict(call.scalars)
    return {where[n]: a for n, a in run_program(call.program, params, operands, tile).items()}


def check(
    nodes: Sequence[Node],
    feeds: Mapping[str, Array],
    outputs: Sequence[Value] | None = None,
    weights: Sequence[Weight] = (),
    symbols: Mapping[str, int] | None = None,
    rtol: float | None = None,
) -> Call:
    """Lower the nodes as one group and compare with the references, with two tilings; the text form must come back."""
    symbols = symbols or {}
    graph = graph_of(nodes, outputs, weights)
    call = lower_group(make_group(nodes, graph.outputs), graph)
    text = print_program(call.program)
    assert parse_program(text) == call.program, text
    want = reference(graph, feeds, symbols)
    for tile in ({a.name: 1 for a in call.program.axes}, {a.name: 3 for a in call.program.axes}, {}):
        extents = {
            a.name: evaluate(a.extent, {n: evaluate(d, symbols) for n, d in call.params}) for a in call.program.axes
        }
        if tile and np.prod([max(1, -(-e // tile[a])) for a, e in extents.items()]) > 300:
            tile = {a: -(-e // 4) for a, e in extents.items()}
        got = run_call(call, want, symbols, tile)
        assert set(got) == {v.name for v in graph.outputs}, text
        for v in graph.outputs:
            compare(got[v.name], want[v.name], v, rtol, text)
    return call


def compare(got: Array, want: Array, v: Value, rtol: float | None, text: str) -> None:
    assert got.dtype == want.dtype, (v, got.dtype, text)
    got = got.reshape(want.shape)
    if v.dtype.is_float:
        loose = {DType.F64: 1e-10, DType.F32: 2e-5, DType.F16: 4e-3, DType.BF16: 3e-2}[v.dtype]
        g, w = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(g, w, rtol=rtol or loose, atol=rtol or loose, err_msg=text)
    else:
        np.testing.assert_array_equal(got, want, err_msg=text)
