"""Fuse two matmuls whose intermediate panel stays in cache: matmul, pointwise work, matmul."""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Node
from fusec.ops.op import Kind
from fusec.passes.fusion.facts import MAP_KINDS, kind, readers
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass

ROWS = 64
"""Rows of one task: a register tile of rows, a few times over."""
PANEL_BYTES = 512 << 10
"""What a task may keep of the intermediate: half of a usual second-level cache."""
CACHE_BYTES = 1 << 20
"""Weights up to this size stay in cache from task to task; larger ones are streamed again for each."""
TASKS = 4
"""Tasks that a chain needs, for its rows are all that is left to share among workers."""
SMALL_FLOPS = 100_000
"""Work so short that it is not shared among workers anyway."""


@fusion_pass("fuse-chain", anchors=2, producers=[Kind.CONTRACTION], consumers=[Kind.CONTRACTION])
def fuse_chain(edge: Edge) -> Verdict:
    """Close an edge from a matmul, with its pointwise work, into the left operand of another.

    before: h = matmul(x, w); r = relu(h); y = matmul(r, v)
    after:  group { h = matmul(x, w); r = relu(h); y = matmul(r, v) }
    """
    one, other = (_only_matmul(g.nodes) for g in (edge.producer, edge.consumer))
    if (
        one is None
        or other is None
        or not (edge.producer.kinds | edge.consumer.kinds) <= MAP_KINDS | {Kind.CONTRACTION}
    ):
        return Verdict(False, "both sides must be one matmul and pointwise work")
    if [(n, v.name) for n, v in readers(edge)] != [(other, other.operands[0].name)]:
        return Verdict(False, f"{edge.value.name} is not, or not only, the left operand of the second matmul")
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    if any(len(n.operands[1].shape) != 2 for n in (one, other)) or edge.value.shape != one.outputs[0].shape:
        return Verdict(False, "the right operands must be matrices, and the panel must be the first matmul's result")
    return _weigh(one, other)


def _only_matmul(nodes: tuple[Node, ...]) -> Node | None:
    found = [n for n in nodes if kind(n) is Kind.CONTRACTION]
    return found[0] if len(found) == 1 and found[0].op == "matmul" else None


def _weigh(one: Node, other: Node) -> Verdict:
    """Compare the bytes that move with and without the chain, per run."""
    m: Extent = product(one.outputs[0].shape[:-1])
    k, inner = one.operands[1].shape
    n = other.operands[1].shape[1]
    if not (isinstance(k, int) and isinstance(inner, int) and isinstance(n, int)):
        return Verdict(False, "the matrices' extents are not known")
    size = one.outputs[0].dtype.itemsize
    if min(ROWS, m if isinstance(m, int) else ROWS) * inner * size > PANEL_BYTES:
        return Verdict(False, f"a panel of {ROWS} x {inner} exceeds {PANEL_BYTES >> 10} KiB")
    if not isinstance(m, int):
        return Verdict(False, f"{m} rows may be too few to share among workers")
    tasks, weights = -(-m // ROWS), (k + n) * inner * size
    if tasks < TASKS and 2 * m * (k + n) * inner > SMALL_FLOPS:
        return Verdict(False, f"{m} rows make {tasks} tasks, too few to share among workers")
    apart = weights + 2 * m * inner * size
    chained = weights * (1 if weights <= CACHE_BYTES else tasks)
    fact = f"moves {chained >> 10} KiB chained, {apart >> 10} KiB apart"
    return Verdict(chained < apart, fact)
