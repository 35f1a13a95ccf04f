"""Fuse row programs: reductions over the same rows and all pointwise work around them."""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node
from fusec.ops.op import Kind
from fusec.passes.fusion.facts import (
    CHEAP_FLOPS,
    MAP_KINDS,
    copies_cheaply,
    is_free,
    is_map,
    joined_reshape,
    kind,
    makers,
    readers,
    reads_affine,
    refuse_pieces,
    work,
)
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Group, Verdict
from fusec.rewrite.fusion import fusion_pass
from fusec.rewrite.legality import folded_axes, row_space

FEW_ROWS = 8
LONG_ROW = 1 << 14
"""Fewer rows than this, each longer than that, leave workers idle: pointwise work then stays outside."""


@fusion_pass("fuse-rows", producers=MAP_KINDS | {Kind.REDUCTION}, consumers=MAP_KINDS | {Kind.REDUCTION})
def fuse_rows(edge: Edge) -> Verdict:
    """Close an edge between a reduction and work over the same rows.

    before: t = add(x, r); y = layer_norm[axis=1, epsilon=1e-05](t, g, b)
    after:  group { t = add(x, r); y = layer_norm[axis=1, epsilon=1e-05](t, g, b) }
    """
    p, c = edge.producer, edge.consumer
    if Kind.REDUCTION not in (p.kind, c.kind):
        return Verdict(False, "not a row program: one side must be a reduction")
    if p.kind is c.kind:
        return _same_rows(edge)
    rows = _reduction(p if p.kind is Kind.REDUCTION else c)
    if p.kind is Kind.REDUCTION:
        return _after(edge, rows)
    return _before(edge, rows)


def _reduction(group: Group) -> Node:
    return next(n for n in group.nodes if kind(n) is Kind.REDUCTION)


def _same_rows(edge: Edge) -> Verdict:
    one, other = _reduction(edge.producer), _reduction(edge.consumer)
    if row_space(one) != row_space(other):
        return Verdict(False, f"{one.op} and {other.op} run over different rows")
    return Verdict(True, f"the same rows: saves a store and a load of {edge.value.type}")


def _before(edge: Edge, reduction: Node) -> Verdict:
    """Pointwise work whose results the rows are made of."""
    if not is_map(edge.producer):
        return Verdict(False, f"{edge.producer.kind.value} producers have loops of their own")
    if (refusal := refuse_pieces(edge)) is not None:
        return refusal
    windows = [n for n in (*edge.producer.nodes, *edge.consumer.nodes) if n.op == "windows"]
    for n in edge.producer.nodes:
        if any(map(_overlap, windows)) and work(n) > CHEAP_FLOPS:
            return Verdict(False, f"{n.op} would be computed again in every window")
        if not windows and not fits_rows(n, reduction) and kind(n) is Kind.ELEMENTWISE:
            return Verdict(False, f"{n.outputs[0]} does not lie along the rows of {reduction.operands[0].type}")
    for n in makers(edge):
        if not reads_affine(n):
            return Verdict(False, f"the reshape of {n.operands[0].type} to {n.outputs[0].type} has no affine index")
        if is_free(n) and not joined_reshape(edge):
            return Verdict(False, f"the {n.op} is free by itself, and there is nothing before it to fuse")
        if _repeats(n, reduction):
            return Verdict(False, f"{n.outputs[0].name} would be computed again for every row")
    views = edge.producer.kinds == {Kind.VIEW}
    if _is_long(reduction) and not views and not edge.sole_reader:
        return Verdict(False, "few long rows: workers would wait for the reduction before they store")
    copy = views or copies_cheaply(edge)
    return Verdict(True, f"on the way into the rows: saves a load of {edge.value.type}", duplicate=copy)


def _after(edge: Edge, reduction: Node) -> Verdict:
    """Pointwise work on whole rows, or on what the reduction made of them."""
    if not edge.consumer.kinds <= MAP_KINDS - {Kind.GATHER}:
        return Verdict(False, f"{edge.consumer.kind.value} consumers have loops of their own")
    if all(is_free(n) for n in edge.consumer.nodes):
        return Verdict(False, "a reshape is free by itself")
    for n in edge.consumer.nodes:
        if not fits_rows(n, reduction) or (kind(n) is Kind.VIEW and not _only_ones(n)):
            return Verdict(False, f"{n.op} {n.outputs[0]} does not lie along the rows of {reduction.operands[0].type}")
    whole = product(reduction.operands[0].shape)
    if _is_long(reduction) and any(product(n.outputs[0].shape) == whole for n in edge.consumer.nodes):
        return Verdict(False, "few long rows: the work on whole rows is spread over more workers alone")
    if any(product(n.outputs[0].shape) not in (whole, product(v.shape)) for n, v in readers(edge)):
        return Verdict(False, f"{edge.value.name} is broadcast beyond its rows")
    return Verdict(True, f"the same rows: saves a load of {edge.value.type}")


def fits_rows(node: Node, reduction: Node) -> bool:
    """Whether a node's output is indexed by a row and a place in it: the rows' own shape, what they fold to, or less."""
    full = reduction.operands[0].shape
    kept = tuple(d for i, d in enumerate(full) if i not in folded_axes(reduction))
    shape = node.outputs[0].shape
    return (
        _broadcasts(shape, full) or _broadcasts(shape, kept) or _squeezed(shape) in (_squeezed(full), _squeezed(kept))
    )


def _repeats(node: Node, reduction: Node) -> bool:
    """Costly work on something shorter than the rows, which each row would do again."""
    size, full = product(node.outputs[0].shape), product(reduction.operands[0].shape)
    kept, _ = row_space(reduction)
    return size not in (full, product(kept)) and work(node) > CHEAP_FLOPS


def _overlap(windows: Node) -> bool:
    """Whether an element may lie in more than one window."""
    sizes, strides = windows.attr("sizes"), windows.attr("strides")
    return any(not isinstance(n, int) or n > stride for n, stride in zip(sizes, strides, strict=True))


def _is_long(reduction: Node) -> bool:
    kept, folded = (product(s) for s in row_space(reduction))
    return isinstance(kept, int) and isinstance(folded, int) and kept < FEW_ROWS and folded > LONG_ROW


def _only_ones(node: Node) -> bool:
    """A reshape that adds or drops dimensions of extent one, or an expand along the rows."""
    if node.op == "expand":
        return True
    return is_free(node) and _squeezed(node.operands[0].shape) == _squeezed(node.outputs[0].shape)


def _broadcasts(small: tuple[Extent, ...], big: tuple[Extent, ...]) -> bool:
    if len(small) > len(big):
        return False
    return all(s in (1, b) for s, b in zip(reversed(small), reversed(big), strict=False))


def _squeezed(shape: tuple[Extent, ...]) -> tuple[Extent, ...]:
    return tuple(d for d in shape if d != 1)
