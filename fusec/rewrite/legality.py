"""What must hold for every group, whatever rule asks for it, apart from the order between groups."""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node
from fusec.ops.op import Kind
from fusec.rewrite.fused import Group, Verdict, kind_of

MAX_OPERANDS = 16
"""Inputs and outputs of a group: more would not fit in registers as pointers and strides."""
MAX_NODES = 64
"""Nodes of a group: bounds the size of one kernel, and with it the time to compile it."""


def check_group(merged: Group, producer: Group, consumer: Group, anchors: int) -> Verdict:
    """Whether two groups may be one, as far as the group alone can tell."""
    n = len(merged.inputs) + len(merged.outputs)
    if n > max(MAX_OPERANDS, len(producer.inputs), len(consumer.inputs)):
        return Verdict(False, f"the group would have {n} operands, more than {MAX_OPERANDS}")
    if len(merged.nodes) > MAX_NODES:
        return Verdict(False, f"the group would have {len(merged.nodes)} nodes, more than {MAX_NODES}")
    has = merged.anchors
    if has > max(anchors, producer.anchors, consumer.anchors):
        return Verdict(False, f"the group would have {has} anchors ({_named_anchors(merged)})")
    return _check_stored(merged)


def row_space(node: Node) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    """What a reduction runs over: the extents of the axes that it keeps (ones left out), and of those that it folds."""
    shape, folded = node.operands[0].shape, folded_axes(node)
    kept = tuple(d for i, d in enumerate(shape) if i not in folded and d != 1)
    return kept, tuple(d for i, d in enumerate(shape) if i in folded and d != 1)


def folded_axes(node: Node) -> tuple[int, ...]:
    """The axes that a reduction folds: its own attribute, or all from `axis` on for the norms."""
    rank = len(node.operands[0].shape)
    axes = node.attr("axes")
    if axes is not None:
        return tuple(axes) or tuple(range(rank))
    axis = int(node.attr("axis", rank - 1)) % max(rank, 1)
    return tuple(range(axis, rank)) if node.op in ("layer_norm", "rms_norm") else (axis,)


def _check_stored(merged: Group) -> Verdict:
    """With several outputs, each must be complete once every tile is done: its size is one of the group's own spaces."""
    if len(merged.outputs) < 2:
        return Verdict(True, "one output")
    spaces = group_spaces(merged)
    for v in merged.outputs:
        if product(v.shape) not in spaces:
            return Verdict(False, f"{v.name} has another reader, and no tile of the group holds all of it")
    return Verdict(True, "every output is complete")


def group_spaces(group: Group) -> set[Extent]:
    """Element counts of the index spaces that a group's tiles cover in full."""
    spaces: set[Extent] = set()
    for n in group.nodes:
        kind = kind_of(n.op)
        if kind is Kind.REDUCTION:
            kept, folded = row_space(n)
            spaces |= {product(kept), product(kept) * product(folded)}
        elif kind is Kind.CONTRACTION:
            spaces.add(product(n.outputs[0].shape))
    if not spaces:
        spaces.add(product(group.nodes[-1].outputs[0].shape))
    return spaces


def _named_anchors(group: Group) -> str:
    return ", ".join(n.op for n in group.nodes if kind_of(n.op) in (Kind.CONTRACTION, Kind.REDUCTION))
