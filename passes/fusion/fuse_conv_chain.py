"""Fuse a convolution with the 1x1 convolution that mixes its channels: the pixels between them stay in cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fusec.ir.dim import Extent
from fusec.ir.graph import Node
from fusec.ir.types import DType
from fusec.kernels.cpu.chunk import CHUNK_ROWS
from fusec.ops.op import Kind
from fusec.passes.fusion.facts import MAP_KINDS, kind, readers
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Verdict
from fusec.rewrite.fusion import fusion_pass

CACHE_BYTES = 1 << 20
"""A usual second-level cache: what is smaller stays there by itself."""
WEIGHT_BYTES = 256 << 10
"""Weights that stay there beside a task's pixels, before and after the first convolution."""
MOST_FLOPS = 128
"""Work per element of the panel, on one core 2 ns, beside which its way through memory shows: MobileNetV2 gains 5 to 15 % up
to here and loses 5 % where it does 180, and bottlenecks of ResNet do 800 and more."""
WINDOW_FLOPS = 3.0
"""How much more a product in a window of one channel costs than one of a register-blocked contraction."""
TASKS = 4
"""Tasks that a chain needs, for its pixels are all that is left to share among workers."""


@fusion_pass("fuse-conv-chain", anchors=2, producers=[Kind.CONTRACTION], consumers=[Kind.CONTRACTION])
def fuse_conv_chain(edge: Edge) -> Verdict:
    """Close an edge from a convolution, with its pointwise work, into a 1x1 convolution.

    before: h = conv[groups=96](x, w); r = relu(h); y = conv[groups=1](r, v)
    after:  group { h = conv[groups=96](x, w); r = relu(h); y = conv[groups=1](r, v) }
    """
    one, other = (_only_conv(g.nodes) for g in (edge.producer, edge.consumer))
    if (
        one is None
        or other is None
        or not (edge.producer.kinds | edge.consumer.kinds) <= MAP_KINDS | {Kind.CONTRACTION}
    ):
        return Verdict(False, "both sides must be one convolution and pointwise work")
    if not _mixes_channels(other):
        return Verdict(False, "the second convolution needs pixels beside its own, which other tasks compute")
    if [(n, v.name) for n, v in readers(edge)] != [(other, other.operands[0].name)]:
        return Verdict(False, f"{edge.value.name} is not, or not only, the image of the second convolution")
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader, so it is stored anyway")
    if edge.value.shape != one.outputs[0].shape:
        return Verdict(False, "the panel must be the first convolution's result")
    return _weigh(one, other)


def _only_conv(nodes: tuple[Node, ...]) -> Node | None:
    found = [n for n in nodes if kind(n) is Kind.CONTRACTION]
    return found[0] if len(found) == 1 and found[0].op == "conv" else None


def _mixes_channels(node: Node) -> bool:
    """Whether each pixel is made of the same pixel's channels, all of them."""
    plain = all(x == 1 for x in (*node.operands[1].shape[:-2], *node.attr("strides"), node.attr("groups")))
    return plain and not any((*node.attr("before"), *node.attr("after")))


def _weigh(one: Node, other: Node) -> Verdict:
    """Chain where the panel would leave the cache, and where its way through memory takes long beside the arithmetic."""
    panel, weight = one.outputs[0], other.operands[1]
    *kernel, channels, _ = one.operands[1].shape
    if panel.dtype not in (DType.F32, DType.F64):
        return Verdict(False, f"products of {panel.dtype} keep their panels in another type")
    if one.attr("groups") != 1 and channels != 1:
        return Verdict(False, f"groups of {channels} channels are tasks of their own")
    cost = 1.0 if one.attr("groups") == 1 else WINDOW_FLOPS
    flops = 2 * (_least((*kernel, channels)) * cost + _least(weight.shape[-1:]))
    if flops > MOST_FLOPS:
        return Verdict(False, f"{flops:.0f} operations per element hide its way through memory, {MOST_FLOPS} would not")
    size, weights = (_least(v.shape) * v.dtype.itemsize for v in (panel, weight))
    if size < CACHE_BYTES:
        return Verdict(
            False, f"{panel.name} is no larger than the cache where it stays anyway, as far as sizes are known"
        )
    if weights > WEIGHT_BYTES:
        return Verdict(False, f"{weights >> 10} KiB of weights would be brought again for each task")
    tasks = _least(panel.shape[:1]) * -(-_least(panel.shape[1:-1]) // CHUNK_ROWS)
    if tasks < TASKS:
        return Verdict(False, f"its pixels make {tasks} tasks, too few to share among workers")
    return Verdict(True, f"saves a store and a load of {panel.type} beside {flops:.0f} operations per element")


def _least(shape: Sequence[Extent]) -> int:
    """How many elements there are at least: a symbolic dimension may be one."""
    return prod(d for d in shape if isinstance(d, int))
