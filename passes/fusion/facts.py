"""Facts that the fusion rules share: what adapts to any loops, which views keep indices affine, what repeating work costs."""

from __future__ import annotations

from collections.abc import Iterator

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node, Value
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Group, Verdict, kind_of

MAP_KINDS = frozenset([Kind.ELEMENTWISE, Kind.VIEW, Kind.GATHER])
"""What computes one element of its result from elements found by its index: such nodes take whatever loops are there."""

CHEAP_FLOPS = 4.0
"""Work per element that costs less than a store and a load of it."""

MAX_PIECES = 4
"""Pieces of a concat that may be computed in the loop that reads them: every element asks for all pieces."""

FLOPS_PER_BYTE = 4.0
"""Arithmetic that a store and a load of one byte through the cache are worth."""

SLOWER_THAN_GEMM = 8.0
"""How much more a pointwise operation costs than one of a register-blocked contraction."""


def refuse_pieces(edge: Edge) -> Verdict | None:
    """Refuse to read a concat of many pieces where its elements are needed: each would ask for all pieces."""
    for n in edge.producer.nodes:
        if n.op == "concat" and len(n.operands) > MAX_PIECES:
            return Verdict(False, f"a concat of {len(n.operands)} pieces copies faster than it selects")
    return None


def is_map(group: Group) -> bool:
    """Whether every node of a group is elementwise, a view or a gather."""
    return group.kinds <= MAP_KINDS


def kind(node: Node) -> Kind:
    """The kind of a node's op."""
    return kind_of(node.op)


def makers(edge: Edge) -> Iterator[Node]:
    """The nodes of the producer that make the edge's values."""
    values = edge.values
    if len(values) == 1:
        made_by = edge.graph.producer[values[0].name]
        return iter((made_by,))
    names = {v.name for v in values}
    return (n for n in edge.producer.nodes if any(v.name in names for v in n.outputs))


def readers(edge: Edge) -> Iterator[tuple[Node, Value]]:
    """The nodes of the consumer that read the edge's values, with the value."""
    names = {v.name for v in edge.values}
    for n in edge.consumer.nodes:
        seen = [v for v in n.operands if v.name in names]
        for v in seen if len(seen) < 2 else {v.name: v for v in seen}.values():
            yield n, v


def flops(group: Group) -> float:
    """Work per element of a map group, all its nodes counted."""
    return group.work


def work(node: Node) -> float:
    """Operations per element that a node makes."""
    return ops.get(node.op).flops_per_element


def is_free(node: Node) -> bool:
    """A reshape or an identity: as a step of its own it only gives its input's bytes another name."""
    return node.op in ("reshape", "identity")


def reads_affine(node: Node) -> bool:
    """Whether an index into the node's output turns into affine indices into its inputs: it can be read in place."""
    return node.op != "reshape" or _splits(node.operands[0].shape, node.outputs[0].shape)


def writes_affine(node: Node) -> bool:
    """Whether an index into the node's input turns into an affine index into its output: it can be written in place."""
    if node.op == "transpose":
        return True
    return node.op == "reshape" and _splits(node.outputs[0].shape, node.operands[0].shape)


def joined_reshape(edge: Edge) -> bool:
    """Whether a reshape stands between nodes that could share a kernel if it did: else it is free by itself."""
    first = edge.producer.nodes[0].operands[0]
    before = edge.group_of(first)
    if not before or edge.partition.is_needed(first, without=edge.ids[0]) or is_free(before[-1]):
        return False
    return all(kind(n) in MAP_KINDS for n in before)


def repeats(value: Value, node: Node) -> Extent | None:
    """How often a node's result uses each element of a smaller input; 1 for equal shapes, None where not known."""
    before, after = product(value.shape), product(node.outputs[0].shape)
    if before == after:
        return 1
    return after // before if isinstance(before, int) and isinstance(after, int) and before else None


def ends_contraction(edge: Edge) -> bool:
    """Whether a contraction's result goes into nothing but the producer, which so belongs to that contraction's tile."""
    for v in edge.producer.inputs:
        n = edge.maker(v)
        if n is not None and kind(n) is Kind.CONTRACTION and v.shape == edge.value.shape:
            return len(edge.graph.consumers.get(v.name, ())) == 1 and v.name not in edge.graph.output_names
    return False


def copies_cheaply(edge: Edge) -> bool:
    """Whether computing the producer again costs no more than loading what it makes."""
    group = edge.producer
    if flops(group) > CHEAP_FLOPS or not is_map(group) or Kind.GATHER in group.kinds:
        return False
    made = max((v.dtype.itemsize for v in edge.values), default=1)
    wide = [v for v in group.inputs if v.shape and product(v.shape) == product(edge.value.shape)]
    return sum(v.dtype.itemsize for v in wide) <= made


def _splits(coarse: tuple[Extent, ...], fine: tuple[Extent, ...]) -> bool:
    """Whether every dimension of `coarse` is a product of consecutive dimensions of `fine`, ones aside."""
    left = [d for d in coarse if d != 1]
    current: Extent = 1
    at = 0
    for d in fine:
        if d == 1:
            continue
        if at == len(left):
            return False
        current = current * d
        if current == left[at]:
            current, at = 1, at + 1
    return at == len(left) and current == 1
