"""Convolutions as stages: fold axes for the kernel's positions and the channels, and what is multiplied at one point.

    t = sum[r: R, s: S, i: C](x[n, p*2 + r - 1, q*2 + s - 1, i] else 0.0 * w[(r*S + s)*C + i, o])

The weight is seen as a matrix, in whose rows the fold axes run in their order. With groups the filters' axis is split in
two, and the group chooses channels. Where a group has one channel there is no axis to fold but the kernel's.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, exact_quotient, floordiv, product
from fusec.ir.expr import Expr, Prim, cast, prim
from fusec.ir.graph import Node, Value
from fusec.lower.draft import Axes
from fusec.lower.element import Scope
from fusec.lower.entries import Entry, add, axes_of, divide, scale

SHARED_LANES = (2, 4)
"""Channels of a group, of which a vector holds several."""
FoldAxes = list[tuple[int, list[str], Entry]]
"""Dimension of the weight, the axes that run over it, and the index that they make."""


def conv_axes(axes: Axes, node: Node) -> FoldAxes:
    """Fold axes over the kernel's positions, outermost first, and over a group's channels."""
    *kernel, channels, _ = node.operands[1].shape
    extents = [*kernel, channels]
    last = len(extents) - 1
    keys = [("fold", node.output.name, d) for d in range(last + 1)]
    return [(d, *axes.make(keys[d], n, d == last, divisible=False)) for d, n in enumerate(extents)]


def conv_contracts(node: Node) -> bool:
    """Whether each group is a matrix product; with one channel or one filter in each group it is not."""
    *_, channels, filters = node.operands[1].shape
    groups = int(node.attr("groups"))
    return groups == 1 or (channels != 1 and filters != groups and not shares_lanes(node))


def shares_lanes(node: Node) -> bool:
    """Whether several groups fit into a vector, each with as many filters as channels: lanes then run over all filters."""
    *_, channels, filters = node.operands[1].shape
    groups = int(node.attr("groups"))
    return groups > 1 and channels in SHARED_LANES and filters == channels * groups


def conv_product(scope: Scope, node: Node, index: Sequence[Entry], at: Sequence[Entry]) -> Prim:
    """One product of an unpadded convolution: at an index of its output, for one position and channel."""
    x, w = node.operands
    per_group, filters = w.shape[-2:]
    groups = int(node.attr("groups"))
    *position, channel = at
    if groups > 1:
        width = exact_quotient(filters, groups)
        if width is None:
            raise BugError(f"{filters} filters do not split into {groups} groups", op="conv")
        if shares_lanes(node) and isinstance(index[-1], Dim):
            group: Entry = floordiv(index[-1], width)
        else:
            group, _ = divide(index[-1], width, scope.attempt.axes.extents, scope.attempt.axes.split)
        channel = group if per_group == 1 else add(scale(group, per_group), channel)
    scope.attempt.pixels |= {a for i in index[1:-1] for a in axes_of(i)}
    places = [
        add(scale(p, stride), scale(r, dilation))
        for p, r, stride, dilation in zip(
            index[1:-1], position, node.attr("strides"), node.attr("dilations"), strict=True
        )
    ]
    left = scope.element(x, (index[0], *places, channel))
    right = scope.element(w, (*at, index[-1])) if w.name in scope.attempt.maker else _matrix(scope, w, at, index[-1])
    held = scope.attempt.held_dtype(node.output)
    return prim("mul", cast(left, held), cast(right, held))


def _matrix(scope: Scope, w: Value, at: Sequence[Entry], column: Entry) -> Expr:
    """An element of a weight in memory, seen as a matrix of a row per position and channel."""
    row: Extent = 0
    for i, n in zip(at, w.shape[:-1], strict=True):
        if not isinstance(i, int | Dim):
            raise BugError(f"a kernel position that is read from memory: {i}", op="conv")
        row = row * n + i
    return scope.external(w, (row, column), shape=(product(w.shape[:-1]), w.shape[-1]))
