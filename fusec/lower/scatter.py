"""A scatter as two stages over one local: it is filled with the data, then every update is written or joined in turn.

    task c: C
    input x: f32[N, C], i: i64[E], u: f32[E, C]
    local h: f32[N, C]
    stage n: N, c
      h[n, c] = x[n, c]
    stage e: E, c
      h[i[e], c] = h[i[e], c] + u[e, c]

The dimension that is scattered along is kept whole, and so is each that the updates cover in part: tasks own the others, and
walk all updates in their order. So no two tasks meet in an element, and results depend on nothing but the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusec.ir.expr import Expr, Load, Ref, replace_refs
from fusec.ir.graph import Node, Value
from fusec.lower.draft import Demand, Draft
from fusec.lower.element import Scope, broadcast, place
from fusec.lower.entries import Entry, axes_of, axis_symbol
from fusec.ops import op as ops
from fusec.tile.program import Store

if TYPE_CHECKING:
    from fusec.lower.stages import Stages


def fill_scattered(stages: Stages, node: Node, v: Value, demands: list[Demand]) -> None:
    """Place the stages of a scatter, and tell who demands an element where it is kept."""
    a, (x, indices, updates) = stages.a, node.operands
    axis = int(node.attr("axis"))
    partial = {d for d, (n, m) in enumerate(zip(x.shape, updates.shape, strict=True)) if n != m}
    frame = stages.frame(v, demands, whole={axis} | partial)
    task = [t for t in stages.task if t in frame.shared]
    places = _dimensions(stages, v, frame.index, frame.own, axis)
    extents = [a.axes.extents[p] if isinstance(p, str) else v.shape[p] for p in places]
    local = a.operands.local(v.dtype, tuple(extents))

    def at(index: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(axis_symbol(p) if isinstance(p, str) else index[p] for p in places)

    start = Draft([*task, *frame.names])
    stages.tolerate(node, v, start, demands)
    scope = Scope(a, start, False)
    start.stores = [Store(local, at(tuple(frame.index)), scope.element(x, frame.index))]
    start.body = scope.body

    index, steps, inner = list[Entry](), list[str](), list[str]()
    for d, m in enumerate(updates.shape):
        if d != axis and d not in partial:
            index.append(frame.index[d])
            inner += [n for n in frame.names if n in axes_of(frame.index[d])]
            continue
        made, i = a.axes.make(("own", f"{v.name}/updates", d), m, False)
        index.append(i)
        if d == axis:
            steps = made
        else:
            inner += made
    update = Draft([*task, *steps, *inner])
    stages.tolerate(node, v, update, demands)
    scope = Scope(a, update, False)
    row = place(scope, indices, broadcast(index, updates.shape, indices.shape), v.shape[axis], False)
    there = at((*index[:axis], row, *index[axis + 1 :]))
    new = scope.element(updates, index)
    update.stores = [Store(local, there, _joined(node, Load(local, there, v.dtype), new))]
    update.body = scope.body

    for e in demands:
        stages.resolved[e.ref] = Load(local, at(e.index), v.dtype)
    stages.placed += [update, start]


def _dimensions(stages: Stages, v: Value, index: list[Entry], own: list[int], axis: int) -> list[str | int]:
    """What the dimensions of the local run over, in the order of the value's: task axes, or dimensions of the value."""
    out: list[str | int] = []
    for d in range(len(v.shape)):
        if d in own:
            out += [d] if v.shape[d] != 1 or axes_of(index[d]) or d == axis else []
        else:
            out += [t for t in stages.task if t in axes_of(index[d]) and t not in out]
    return out


def _joined(node: Node, old: Expr, new: Expr) -> Expr:
    reduction = node.attr("reduction")
    if reduction == "none":
        return new
    scalar = ops.get(reduction).scalar
    assert scalar is not None
    body = scalar([Ref("&0", old.dtype), Ref("&1", new.dtype)], {})
    return replace_refs(body, {"&0": old, "&1": new})
