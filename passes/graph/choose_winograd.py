"""Compute 3 x 3 convolutions by Winograd's transforms where fewer products outweigh the bytes of the transforms."""

from __future__ import annotations

from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.ops.winograd import TAPS
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.passes.graph.winograd_device import plain_operations, transformed_operations
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.target import Target

TILES = (4, 2)
"""Extents of tiles, the one with the fewer products first; a larger one loses more digits than float32 has to spare
(Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution", arXiv 1803.10986)."""
FEWEST_CHANNELS = 8
TYPICAL = 28
"""Pixels that a symbolic height or width is taken for."""
BYTE = 1.0
"""Operations that moving one byte of an image or a transformed tile costs; this and the next four were fitted to the times
of 45 layers of 3 to 56 pixels and 8 to 512 channels (AVX2, Zen 4)."""
WEIGHT_BYTE = 3.0
"""The same of the transformed weight, which comes from beyond the second level cache: 75 GFLOP/s against 25 GB/s."""
LANES, PARTIAL = 8, 48
"""Channels of a vector, and as how many those count that fill one in part only: they are moved through masks."""
PAGE, COLLISION = 4096, 3
"""Where the tiles of a plane are a multiple of so many bytes, all planes of a tile meet in one set of the first level cache,
and moving them takes so many times as long."""
GAIN = 1.15
"""How much faster it must look: estimates are no better than that."""


CPU = Target("cpu", "generic")


@graph_pass("choose-winograd")
def choose_winograd(graph: Graph, context: PassContext) -> Graph:
    """Replace convolutions by the product of transformed tiles and transformed weights.

    before: y = conv[3 x 3](x, w)
    after:  v = winograd_input(x); u = winograd_weight(w); m = matmul(v, u); y = winograd_output(m)
    """
    most, target = context.limits.fold_bytes, context.target

    def rule(s: Sweep, n: Node) -> Value | None:
        return _transformed(s, n, most, target)

    return sweep(graph, {"conv": (rule,)})


def _transformed(s: Sweep, n: Node, most: int, target: Target) -> Value | None:
    x, w = n.operands
    if s.array(w) is None or x.dtype is not DType.F32 or not _is_plain(n, w):
        return None
    tile = best_tile(n.output.shape, w.shape, most, target)
    if tile is None:
        return None
    tiles = s.emit("winograd_input", x, tile=tile, before=n.attr("before"), after=n.attr("after"))
    products = s.emit("matmul", tiles, s.emit("winograd_weight", w, tile=tile))
    return s.emit("winograd_output", products, tile=tile, shape=n.output.shape)


def _is_plain(n: Node, w: Value) -> bool:
    square = w.shape[:2] == (TAPS, TAPS) and len(w.shape) == len(n.output.shape) == 4
    return square and set(n.attr("strides")) == set(n.attr("dilations")) == {1} and n.attr("groups") == 1


def best_tile(out: tuple[Extent, ...], weight: tuple[Extent, ...], most: int, target: Target = CPU) -> int | None:
    """The tile that promises the least time for an output [N, H, W, O] and a weight [3, 3, C, O]; None for the plain sum.

    `most` bounds the bytes of the transformed weight.
    """
    channels, made = weight[2:]
    if not (isinstance(channels, int) and isinstance(made, int)) or min(channels, made) < FEWEST_CHANNELS:
        return None
    images, height, width = (
        n if isinstance(n, int) else typical for n, typical in zip(out, (1, TYPICAL, TYPICAL), strict=False)
    )
    image = images, height, width
    possible = [t for t in TILES if 4 * (t + TAPS - 1) ** 2 * channels * made <= most]
    if target.kind != "cuda":
        plain = 2.0 * TAPS * TAPS * channels * made * images * height * width
        costs = {t: _cost(t, image, channels, made) for t in possible}
    else:
        plain = plain_operations(image, channels, made)
        costs = {t: transformed_operations(target, t, image, channels, made) for t in possible}
    tile = min(costs, key=lambda t: costs[t], default=None)
    return tile if tile is not None and costs[tile] * GAIN < plain else None


def _cost(tile: int, image: tuple[int, int, int], channels: int, made: int) -> float:
    """Operations, with moved bytes counted as operations."""
    images, height, width = image
    squares, tiles = (tile + TAPS - 1) ** 2, images * -(-height // tile) * -(-width // tile)
    cost = 2.0 * squares * tiles * channels * made + 4.0 * WEIGHT_BYTE * squares * channels * made
    for n in (channels, made):
        moved = n - n % LANES + (PARTIAL if n % LANES else 0)
        collision = COLLISION if 4 * tiles * n % PAGE == 0 else 1
        cost += 4.0 * BYTE * moved * (2 * squares * tiles * collision + images * height * width)
    return cost
