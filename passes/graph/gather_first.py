"""Gather rows before computing on them, where a whole constant table would be computed on every run."""

from __future__ import annotations

from fusec.ir.graph import Graph, Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass


@graph_pass("gather-first")
def gather_first(graph: Graph, _: PassContext) -> Graph:
    """Move a gather above the elementwise nodes that make its table from constants.

    Quantised embeddings are such tables: too large to fold, and a run needs a few rows of them.

    before: t = cast[to=f32](q); y = gather[axis=0](t, i)        with a weight q: i8[30522, 384]
    after:  r = gather[axis=0](q, i); y = cast[to=f32](r)
    """
    return sweep(graph, {"gather": (_gather,)})


def _gather(s: Sweep, n: Node) -> Value | None:
    table, indices = n.operands
    maker = s.maker(table)
    if maker is None or ops.get(maker.op).kind is not Kind.ELEMENTWISE or s.array(indices) is not None:
        return None
    if not _is_constant(s, maker):
        return None
    axis = n.attr("axis")
    s.absorb(maker)
    rows = [None if v is None else _rows(s, v, table, indices, axis) for v in maker.inputs]
    return s.emit(maker.op, *rows, **dict(maker.attrs))


def _is_constant(s: Sweep, n: Node) -> bool:
    """Whether elementwise nodes over constants are all that is behind a node."""
    todo, seen = list(n.operands), set[str]()
    while todo:
        v = todo.pop()
        if v.name in seen or s.array(v) is not None:
            continue
        seen.add(v.name)
        made = s.maker(v)
        if made is None or ops.get(made.op).kind is not Kind.ELEMENTWISE:
            return False
        todo += made.operands
    return True


def _rows(s: Sweep, v: Value, table: Value, indices: Value, axis: int) -> Value:
    """What an operand of the table's maker contributes to the rows that are gathered."""
    at = axis - (len(table.shape) - len(v.shape))
    if at < 0:
        return v  # it broadcasts over the axis, and over everything before it
    if v.shape[at] == table.shape[axis] and v.shape[at] != 1:
        return _again(s, v, indices, at)
    shape = (*v.shape[:at], *(1,) * len(indices.shape), *v.shape[at + 1 :])
    return v if shape == v.shape else s.emit("reshape", v, shape=shape)


def _again(s: Sweep, v: Value, indices: Value, axis: int) -> Value:
    """The gathered rows of a table; of one that is computed itself, what its rows are computed from."""
    maker = s.maker(v)
    if maker is None or s.array(v) is not None:
        return s.emit("gather", v, indices, axis=axis)
    rows = [None if x is None else _rows(s, x, v, indices, axis) for x in maker.inputs]
    return s.emit(maker.op, *rows, **dict(maker.attrs))
