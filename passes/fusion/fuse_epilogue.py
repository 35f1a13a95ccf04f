"""Fuse a contraction with the elementwise work that follows it."""

from __future__ import annotations

from fusec.ops.op import Kind
from fusec.passes.fusion.facts import CHEAP_FLOPS, MAP_KINDS, kind, makers, readers, reads_affine, work
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass


@fusion_pass("fuse-epilogue", producers=[Kind.CONTRACTION], consumers=MAP_KINDS)
def fuse_epilogue(edge: Edge) -> Verdict:
    """Close an edge whose consumer can run on a contraction's tile before it is stored.

    before: h = matmul(x, w); s = add(h, b); y = relu(s)
    after:  group { h = matmul(x, w); s = add(h, b); y = relu(s) }
    """
    if edge.consumer.kinds != {Kind.ELEMENTWISE}:
        return _view(edge)
    for n, v in readers(edge):
        if n.outputs[0].shape != v.shape:
            return Verdict(False, f"{n.op} broadcasts {v.name}, so it would repeat the contraction")
    for n in edge.consumer.nodes:
        if n.outputs[0].shape != edge.value.shape and work(n) > CHEAP_FLOPS:
            return Verdict(False, f"{n.op} would be computed again for every element of {edge.value.name}")
    return Verdict(True, f"works on the tile: saves a store and a load of {edge.value.type}")


def _view(edge: Edge) -> Verdict:
    """A transpose goes into the addresses of the store, where nobody downstream could read it in place instead."""
    if _cuts_phases(edge):
        return Verdict(True, "the phases of a transposed convolution, which are stored in turns")
    if [n.op for n in edge.consumer.nodes] != ["transpose"]:
        return Verdict(False, "the consumer is neither elementwise nor a lone transpose")
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored as it is")
    if any(kind(n) is Kind.VIEW and not (n.op == "reshape" and reads_affine(n)) for n in makers(edge)):
        return Verdict(False, "the tile is stored through a view already")
    out = edge.consumer.nodes[0].outputs[0]
    later = edge.graph.consumers.get(out.name, ())
    if later and all(kind(n) in (Kind.CONTRACTION, Kind.ELEMENTWISE) for n in later):
        return Verdict(False, f"the readers of {out.name} can read it in place")
    return Verdict(True, f"goes into the store: saves a store and a load of {edge.value.type}")


def _cuts_phases(edge: Edge) -> bool:
    """Whether a convolution's filters are cut into dimensions that only a transpose reads."""
    if [n.op for n in edge.consumer.nodes] != ["reshape"] or all(n.op != "conv" for n in edge.producer.nodes):
        return False
    (cut,) = edge.consumer.nodes
    later = edge.graph.consumers.get(cut.output.name, ())
    lone = len(later) == 1 and later[0].op == "transpose" and cut.output.name not in edge.graph.output_names
    return lone and edge.sole_reader and reads_affine(cut)
