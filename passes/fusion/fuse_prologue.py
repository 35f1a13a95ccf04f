"""Fuse a contraction with what prepares its operands: views become indices, cheap work is done where a tile is loaded."""

from __future__ import annotations

from fusec.ir.dim import Extent
from fusec.ir.graph import Node, Value
from fusec.ops.op import Kind
from fusec.passes.fusion.facts import (
    FLOPS_PER_BYTE,
    MAP_KINDS,
    SLOWER_THAN_GEMM,
    flops,
    is_free,
    joined_reshape,
    kind,
    makers,
    readers,
    reads_affine,
    work,
)
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass

TILE = 64
"""The tile that estimates assume: rows and columns that one task computes."""
DENSE = frozenset(["slice", "identity"])
"""Views of pixels that leave the channels of one side by side."""
MAX_EXTRA = 0.1
"""Work done again may cost this part of the contraction."""
NORM_FLOPS = 12.0
MAX_NORM = 4096
"""A norm that is recomputed keeps a row in the fastest cache."""


@fusion_pass("fuse-prologue", anchors=2, producers=MAP_KINDS | {Kind.REDUCTION}, consumers=[Kind.CONTRACTION])
def fuse_prologue(edge: Edge) -> Verdict:
    """Close an edge into an operand of a contraction.

    before: t = transpose[perm=(1, 0)](k); s = matmul(q, t)
    after:  group { t = transpose[perm=(1, 0)](k); s = matmul(q, t) }
    """
    contractions = [n for n in edge.consumer.nodes if kind(n) is Kind.CONTRACTION]
    if edge.producer.kind is Kind.REDUCTION:
        return _norm(edge, contractions)
    if not all(n is contractions[0] or _is_before(n, contractions[0], edge) for n, _ in readers(edge)):
        return Verdict(False, f"{edge.value.name} is not read by the first contraction or a view in front of it")
    if contractions[0].op == "conv" and any(n.op not in DENSE for n in edge.producer.nodes):
        return Verdict(
            False, "a convolution reads its pixels again for every place of its windows, from where they lie"
        )
    for n in edge.producer.nodes:
        if not reads_affine(n):
            return Verdict(False, f"the reshape of {n.operands[0].type} to {n.outputs[0].type} has no affine index")
    if all(is_free(n) for n in makers(edge)) and not joined_reshape(edge):
        return Verdict(False, "the reshape is free by itself, and there is nothing before it to fuse")
    if any(n.op == "concat" for n in edge.producer.nodes):
        return Verdict(False, "a concat is copied faster than it is selected in every tile")
    if edge.producer.kinds == {Kind.VIEW}:
        return Verdict(True, f"becomes an index: saves a store and a load of {edge.value.type}", duplicate=True)
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    return _again(contractions[0], edge.value, flops(edge.producer))


def _is_before(node: Node, contraction: Node, edge: Edge) -> bool:
    """A view in front of the contraction that can be read through, when only views are to go through it."""
    nodes = edge.consumer.nodes
    early = nodes.index(node) < nodes.index(contraction)
    return early and kind(node) is Kind.VIEW and reads_affine(node) and edge.producer.kinds == {Kind.VIEW}


def _norm(edge: Edge, contractions: list[Node]) -> Verdict:
    """A norm over the rows of A: done again for every tile of columns, so only worth it where these are few."""
    rows, (contraction, *more) = [n for n in edge.producer.nodes if kind(n) is Kind.REDUCTION], contractions
    if len(rows) != 1 or rows[0].op not in ("layer_norm", "rms_norm") or more or contraction.op != "matmul":
        return Verdict(False, "only one norm before one matmul can be done tile by tile")
    if [(n, v.name) for n, v in readers(edge)] != [(contraction, contraction.operands[0].name)]:
        return Verdict(False, f"{edge.value.name} is not the left operand of the matmul")
    k = edge.value.shape[-1]
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    if not isinstance(k, int) or k > MAX_NORM or rows[0].attr("axis") != len(edge.value.shape) - 1:
        return Verdict(False, f"rows of {k} are too long to normalise in every tile, the limit is {MAX_NORM}")
    return _again(contraction, edge.value, NORM_FLOPS + flops_of_maps(edge))


def flops_of_maps(edge: Edge) -> float:
    """The pointwise work around a norm, per element."""
    return sum(work(n) for n in edge.producer.nodes if kind(n) in MAP_KINDS)


def _again(contraction: Node, value: Value, work: float) -> Verdict:
    """Weigh work per element done once per tile that reads it against what the contraction itself does with the element."""
    uses = _uses(contraction, value)
    if uses is None:
        return Verdict(False, f"{value.name} is no operand whose tiles are loaded once")
    if not isinstance(uses, int):
        extra, own, saved = work * SLOWER_THAN_GEMM / TILE, 2.0, 0.0
        times = f"{uses}/{TILE}"
    else:
        tiles = -(-uses // TILE)
        extra, own = work * SLOWER_THAN_GEMM * (tiles - 1), 2.0 * uses
        saved, times = 2.0 * value.dtype.itemsize * FLOPS_PER_BYTE, str(tiles)
    ok = extra <= MAX_EXTRA * own + saved
    fact = f"computing {value.name} {times} times, {extra:.3g} against {own:.3g} operations per element and {saved:.3g} saved"
    return Verdict(ok, fact)


def _uses(contraction: Node, value: Value) -> Extent | None:
    """How many results of the contraction each element of an operand goes into."""
    position = next(i for i, v in enumerate(contraction.inputs) if v is not None and v.name == value.name)
    if sum(v.name == value.name for v in contraction.operands) > 1:
        return None
    if contraction.op == "matmul":
        a, b = (v.shape for v in contraction.operands[:2])
        if position == 0:
            return b[-1]
        batch = 1
        for d in a[:-2] if len(b) == 2 else ():
            batch = batch * d  # type: ignore[assignment]
        return batch * a[-2]
    if contraction.op == "attention" and position < 3:
        q, k = (v.shape for v in contraction.operands[:2])
        return k[-2] if position == 0 else q[-2]
    return None
