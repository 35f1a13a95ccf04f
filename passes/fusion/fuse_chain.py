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
TASK_FLOPS = 5_000_000
"""Work of one task up to which it does not matter much that too few rows leave workers without one."""


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
    if edge.value.shape != one.outputs[0].shape:
        return Verdict(False, "the panel must be the first matmul's result")
    if other.outputs[0].shape[:-1] != edge.value.shape[:-1]:
        return Verdict(False, f"{edge.value.name} is broadcast, so it would be computed again for every matrix")
    return _weigh(one, other)


def _only_matmul(nodes: tuple[Node, ...]) -> Node | None:
    found = [n for n in nodes if kind(n) is Kind.CONTRACTION]
    return found[0] if len(found) == 1 and found[0].op == "matmul" else None


def _weigh(one: Node, other: Node) -> Verdict:
    """Compare the bytes that move with and without the chain, per run."""
    rows = one.outputs[0].shape[-2]
    batch: Extent = product(one.outputs[0].shape[:-2])
    if all(len(n.operands[1].shape) == 2 for n in (one, other)):  # matrices for all: batches are more rows
        rows, batch = product((rows, batch)), 1
    k, inner = one.operands[1].shape[-2:]
    n = other.operands[1].shape[-1]
    if not (isinstance(k, int) and isinstance(inner, int) and isinstance(n, int)):
        return Verdict(False, "the matrices' extents are not known")
    size, elements = one.outputs[0].dtype.itemsize, (k + n) * inner
    if min(ROWS, rows if isinstance(rows, int) else ROWS) * inner * size > PANEL_BYTES:
        return Verdict(False, f"a panel of {ROWS} x {inner} exceeds {PANEL_BYTES >> 10} KiB")
    if not (isinstance(rows, int) and isinstance(batch, int)):
        short = 2 * ROWS * elements <= TASK_FLOPS
        return Verdict(short, f"{rows} rows may be few, and {ROWS} of them are {'little' if short else 'much'} work")
    tasks = batch * -(-rows // ROWS)
    if tasks < TASKS and 2 * batch * rows * elements > SMALL_FLOPS:
        return Verdict(False, f"{batch * rows} rows make {tasks} tasks, too few to share among workers")
    weights = elements * size
    apart = batch * (weights + 2 * rows * inner * size)
    chained = batch * weights * (1 if weights <= CACHE_BYTES else tasks // batch)
    fact = f"moves {chained >> 10} KiB chained, {apart >> 10} KiB apart"
    return Verdict(chained < apart, fact)
