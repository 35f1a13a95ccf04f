"""Fuse views and gathers with the elementwise work around them: they become indices of its loads."""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node
from fusec.ops.op import Kind
from fusec.passes.fusion.facts import (
    CHEAP_FLOPS,
    MAP_KINDS,
    MAX_PIECES,
    copies_cheaply,
    flops,
    is_free,
    joined_reshape,
    kind,
    makers,
    readers,
    reads_affine,
    refuse_pieces,
    repeats,
)
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass

MANY_TIMES = 4
"""Times that each row of a table is gathered, from which on it is worth a store and a load of its own."""


@fusion_pass("fuse-views", producers=MAP_KINDS, consumers=MAP_KINDS)
def fuse_views(edge: Edge) -> Verdict:
    """Close an edge into or out of a view, or into or out of a gather, where its indices stay affine.

    before: a = add(x, y); t = transpose[perm=(1, 0)](a); z = mul(t, s)
    after:  group { a = add(x, y); t = transpose[perm=(1, 0)](a); z = mul(t, s) }
    """
    if (refusal := refuse_pieces(edge)) is not None:
        return refusal
    for n in makers(edge):
        if not reads_affine(n):
            return Verdict(False, f"the reshape of {n.operands[0].type} to {n.outputs[0].type} has no affine index")
        if is_free(n) and not joined_reshape(edge):
            return Verdict(False, f"the {n.op} is free by itself, and there is nothing before it to fuse")
    for n, v in readers(edge):
        if is_free(n) and all(is_free(c) for c in edge.consumer.nodes):
            return Verdict(False, f"the {n.op} of {v.name} is free by itself")
        if not reads_affine(n):
            return Verdict(False, f"the reshape of {v.type} to {n.outputs[0].type} has no affine index")
        if (refusal := repeated_work(edge, n, edge.producer.kind)) is not None:
            return refusal
    only_views = edge.producer.kinds == {Kind.VIEW}
    copy = only_views or copies_cheaply(edge)
    if not edge.sole_reader and not copy and any(kind(n) is not Kind.ELEMENTWISE for n, _ in readers(edge)):
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    return Verdict(True, f"becomes an index: saves a store and a load of {edge.value.type}", duplicate=copy)


def _is_table(edge: Edge, reader: Node, times: list[Extent | None]) -> bool:
    """Whether a gather reads rows many times over that are made of several values: joined once, they are less to load."""
    wide = [v for v in edge.producer.inputs if v.name not in edge.graph.weights and product(v.shape) != 1]
    often = any(isinstance(t, int) and t >= MANY_TIMES for t in times)
    return kind(reader) is Kind.GATHER and len(wide) > 1 and often


def repeated_work(edge: Edge, reader: Node, made_by: Kind) -> Verdict | None:
    """Refuse where the reader would compute the producer's elements many times."""
    work = flops(edge.producer)
    if reader.op == "concat":
        if len(reader.operands) > MAX_PIECES:
            return Verdict(False, f"a concat of {len(reader.operands)} pieces copies faster than it selects")
        work *= len(reader.operands)
    known = [repeats(v, reader) for v in edge.values]
    if made_by is Kind.VIEW or (work <= CHEAP_FLOPS and not _is_table(edge, reader, known)):
        return None
    if kind(reader) is Kind.GATHER and not any(isinstance(t, int) and t > 1 for t in known):
        data = reader.operands[0]
        if any(v.name == data.name for v in edge.values) and edge.sole_reader:
            return None  # a gather needs a part of the table; computing all of it first costs more
    times = max((t if isinstance(t, int) else 1 << 30) for t in known)
    if times > 1:
        return Verdict(
            False, f"{edge.value.name} would be computed {'more than once' if times >= 1 << 30 else times} times"
        )
    return None
