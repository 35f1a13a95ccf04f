"""Fuse a scatter with what its data and its updates are made of."""

from __future__ import annotations

from fusec.ops.op import Kind
from fusec.passes.fusion.facts import (
    CHEAP_FLOPS,
    MAP_KINDS,
    flops,
    is_free,
    joined_reshape,
    makers,
    readers,
    reads_affine,
)
from fusec.passes.fusion.fuse_views import repeated_work
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass


@fusion_pass("fuse-scatter", producers=MAP_KINDS, consumers=[Kind.SCATTER])
def fuse_scatter(edge: Edge) -> Verdict:
    """Close an edge into a scatter: each update is computed where it is written.

    before: u = mul(x, w); y = scatter[axis=0, reduction="add"](z, i, u)
    after:  group { u = mul(x, w); y = scatter[axis=0, reduction="add"](z, i, u) }
    """
    for n in makers(edge):
        if not reads_affine(n):
            return Verdict(False, f"the reshape of {n.operands[0].type} to {n.outputs[0].type} has no affine index")
        if is_free(n) and not joined_reshape(edge):
            return Verdict(False, f"the {n.op} is free by itself, and there is nothing before it to fuse")
    if any(n.op == "concat" for n in edge.producer.nodes):
        return Verdict(False, "a concat copies faster than it selects")
    for n, v in readers(edge):
        if n.op != "scatter":
            refusal = repeated_work(edge, n, edge.producer.kind)
        elif v.name == n.operands[1].name and flops(edge.producer) > CHEAP_FLOPS:
            refusal = Verdict(False, f"{v.name} would be computed again for every element at its place")
        else:
            refusal = None
        if refusal is not None:
            return refusal
    copy = edge.producer.kinds == {Kind.VIEW}
    if not edge.sole_reader and not copy:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    return Verdict(
        True, f"is written where it is computed: saves a store and a load of {edge.value.type}", duplicate=copy
    )
