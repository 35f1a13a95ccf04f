"""Let elementwise work see a contraction's result in the contraction's own shape: reshapes between them go behind it."""

from __future__ import annotations

from fusec.ir.graph import Attr, Graph, Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

FARTHEST = 8
"""Elementwise nodes between a contraction and the reshape."""


@graph_pass("sink-reshapes")
def sink_reshapes(graph: Graph, _: PassContext) -> Graph:
    """Move a reshape of a contraction's result behind the elementwise work on it, which then joins the contraction.

    before: h = matmul(x, w); r = reshape[shape=(2, 3, 8)](h); y = add(r, b)
    after:  h = matmul(x, w); a = add(h, b); y = reshape[shape=(2, 3, 8)](a)
    """
    if not any(kind(n) is Kind.CONTRACTION for n in graph.nodes):
        return graph
    wanted = {n.op for n in graph.nodes if kind(n) is Kind.ELEMENTWISE}
    return sweep(graph, dict.fromkeys(sorted(wanted), (_sink,)))


def kind(n: Node) -> Kind:
    """The kind of a node's op."""
    return ops.get(n.op).kind


def _sink(s: Sweep, n: Node) -> Value | None:
    for at, v in enumerate(n.inputs):
        reshape = s.maker(v, "reshape")
        if reshape is None or v is None or v.shape != n.output.shape or s.readers(v) != 1:
            continue
        x = reshape.operands[0]
        if not _is_result(s, x) or s.readers(x) != 1:
            continue
        operands = [x if i == at else _seen(s, o, x, v) for i, o in enumerate(n.inputs)]
        if any(o is None and given is not None for o, given in zip(operands, n.inputs, strict=True)):
            continue
        attrs: dict[str, Attr] = dict(n.attrs)
        out = s.emit(n.op, *operands, **attrs)
        return s.emit("reshape", out, shape=n.output.shape) if out.shape == x.shape else None
    return None


def _is_result(s: Sweep, v: Value) -> bool:
    """A contraction's result, or what elementwise work of the same shape made of it."""
    for _ in range(FARTHEST):
        n = s.maker(v)
        if n is None:
            return False
        if kind(n) is Kind.CONTRACTION:
            return True
        before = [x for x in n.operands if x.shape == v.shape and s.readers(x) == 1 and s.maker(x) is not None]
        if kind(n) is not Kind.ELEMENTWISE or len(before) != 1:
            return False
        (v,) = before
    return False


def _seen(s: Sweep, other: Value | None, x: Value, reshaped: Value) -> Value | None:
    """Another operand as it broadcasts with `x` where it did with `reshaped`."""
    if other is None:
        return None
    if all(d == 1 for d in other.shape):
        return other if len(other.shape) <= len(x.shape) else None
    last = bool(x.shape) and bool(reshaped.shape) and x.shape[-1] == reshaped.shape[-1]
    if last and other.shape[-1] == x.shape[-1] and all(d == 1 for d in other.shape[:-1]):
        return other if len(other.shape) == 1 else s.emit("reshape", other, shape=other.shape[-1:])
    return s.emit("reshape", other, shape=x.shape) if other.shape == reshaped.shape else None
