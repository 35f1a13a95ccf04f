"""Pointwise work on a table moves behind the gather that reads a few rows of it."""

from __future__ import annotations

from fusec.ir.dim import product
from fusec.ir.graph import Graph, Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

SMALLEST_TABLE = 4096
"""Elements; below, computing the whole table costs less than the second look at it here."""


@graph_pass("sink-pointwise")
def sink_pointwise(graph: Graph, _: PassContext) -> Graph:
    """Compute on what is gathered instead of on the whole table, which is constant and too large to be folded.

    Embeddings with integer weights are written as Gather(Mul(Cast(table), scale), ids).

    before: a = cast[to=f32](table); b = mul(a, s); y = gather[axis=0](b, ids)     with weights table, s: f32[]
    after:  g = gather[axis=0](table, ids); a = cast[to=f32](g); y = mul(a, s)
    """
    return sweep(graph, {"gather": (_sink,)})


def _sink(s: Sweep, n: Node) -> Value | None:
    table, indices = n.operands
    chain: list[tuple[Node, Value]] = []
    while (step := _movable(s, table)) is not None:
        chain.append(step)
        table = step[1]
    if not chain or not _is_constant(s, chain[-1][0]):
        return None
    s.absorb(*(maker for maker, _ in chain))
    moved = s.emit("gather", table, indices, **dict(n.attrs))
    for maker, main in reversed(chain):
        inputs = [None if v is None else moved if v == main else s.emit("reshape", v, shape=()) for v in maker.inputs]
        moved = s.emit(maker.op, *inputs, **dict(maker.attrs))
    return moved


def _movable(s: Sweep, table: Value) -> tuple[Node, Value] | None:
    """The elementwise node that makes a large table nobody else reads, and its one operand that is not a single number."""
    maker = s.maker(table)
    if maker is None or ops.get(maker.op).kind is not Kind.ELEMENTWISE or s.readers(table) != 1:
        return None
    size = table.tensor.size
    if not isinstance(size, int) or size < SMALLEST_TABLE:
        return None
    whole = [v for v in maker.operands if v.shape == table.shape]
    single = all(product(v.shape) == 1 for v in maker.operands if v not in whole)
    return (maker, whole[0]) if len(whole) == 1 and single else None


def _is_constant(s: Sweep, node: Node) -> bool:
    """Whether everything below a node is a constant; looks a few nodes deep, as far as exporters go."""
    todo, seen = [node], 0
    while todo:
        n = todo.pop()
        seen += 1
        for v in n.operands:
            maker = s.maker(v)
            if s.array(v) is None and (maker is None or seen > 8):
                return False
            if s.array(v) is None and maker is not None:
                todo.append(maker)
    return True
