"""Fuse elementwise nodes that run over the same indices, and small ones that broadcast into them."""

from __future__ import annotations

from fusec.ops.op import Kind
from fusec.passes.fusion.facts import (
    CHEAP_FLOPS,
    MAP_KINDS,
    copies_cheaply,
    ends_contraction,
    flops,
    kind,
    makers,
    readers,
    repeats,
)
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass


@fusion_pass("fuse-pointwise", producers=MAP_KINDS, consumers=MAP_KINDS)
def fuse_pointwise(edge: Edge) -> Verdict:
    """Close an edge between elementwise nodes that share their indices.

    before: a = add(x, y); b = relu(a); c = neg(a)
    after:  group { a = add(x, y); b = relu(a); c = neg(a) }
    """
    if any(kind(n) is not Kind.ELEMENTWISE for n in makers(edge)):
        return Verdict(False, f"{edge.value.name} is not made by an elementwise node")
    times = []
    for n, v in readers(edge):
        if kind(n) is not Kind.ELEMENTWISE:
            return Verdict(False, f"{v.name} is not read by an elementwise node")
        times.append(repeats(v, n))
    if ends_contraction(edge):
        return Verdict(False, f"{edge.value.name} comes off a contraction's tile, and is left to that")
    copy = copies_cheaply(edge)
    if all(t == 1 for t in times):
        return Verdict(True, f"the same indices: saves a store and a load of {edge.value.type}", duplicate=copy)
    if flops(edge.producer) <= CHEAP_FLOPS and (edge.sole_reader or copy):
        return Verdict(True, f"{edge.value.name} is cheap to compute again where it broadcasts", duplicate=copy)
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} broadcasts and has another reader, so it is stored anyway")
    return Verdict(False, f"{edge.value.name} broadcasts, and would be computed again for each use")
