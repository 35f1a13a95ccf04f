"""Compute 3 x 3 convolutions by Winograd's transforms where fewer products outweigh the bytes of the transforms."""

from __future__ import annotations

from fusec.ir.dim import Extent, exact_quotient, product
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.ops.winograd import TAPS
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass

TILES = (4, 2)
"""Extents of tiles, the one with the fewer products first; a larger one loses more digits than float32 has to spare
(Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution", arXiv 1803.10986)."""
FEWEST_CHANNELS = 16
FLOPS_PER_BYTE = 4.0
"""Arithmetic that moving one byte of a transformed tile through the shared cache is worth: measured 75 GFLOP/s against 15 to
25 GB/s (AVX2)."""
GAIN = 1.15
"""How much faster it must look: estimates are no better than that."""


@graph_pass("choose-winograd")
def choose_winograd(graph: Graph, context: PassContext) -> Graph:
    """Replace convolutions by the product of transformed tiles and transformed weights.

    before: y = conv[3 x 3](x, w)
    after:  v = winograd_input(x); u = winograd_weight(w); m = matmul(v, u); y = winograd_output(m)
    """
    most = context.limits.fold_bytes

    def rule(s: Sweep, n: Node) -> Value | None:
        return _transformed(s, n, most)

    return sweep(graph, {"conv": (rule,)})


def _transformed(s: Sweep, n: Node, most: int) -> Value | None:
    x, w = n.operands
    if s.array(w) is None or x.dtype is not DType.F32 or not _is_plain(n, w):
        return None
    tile = best_tile(n.output.shape, w.shape, most)
    if tile is None:
        return None
    tiles = s.emit("winograd_input", x, tile=tile, before=n.attr("before"), after=n.attr("after"))
    products = s.emit("matmul", tiles, s.emit("winograd_weight", w, tile=tile))
    return s.emit("winograd_output", products, tile=tile, shape=n.output.shape)


def _is_plain(n: Node, w: Value) -> bool:
    square = w.shape[:2] == (TAPS, TAPS) and len(w.shape) == len(n.output.shape) == 4
    return square and set(n.attr("strides")) == set(n.attr("dilations")) == {1} and n.attr("groups") == 1


def best_tile(out: tuple[Extent, ...], weight: tuple[Extent, ...], most: int) -> int | None:
    """The tile that promises the least time for an output [N, H, W, O] and a weight [3, 3, C, O]; None for the plain sum.

    `most` bounds the bytes of the transformed weight.
    """
    pixels, (channels, made) = product(out[1:3]), weight[2:]
    if not (isinstance(pixels, int) and isinstance(channels, int) and isinstance(made, int)):
        return None
    if min(channels, made) < FEWEST_CHANNELS:
        return None
    plain = 2.0 * TAPS * TAPS * channels * made * pixels
    costs = {
        tile: _cost(tile, pixels, channels, made)
        for tile in TILES
        if all(exact_quotient(size, tile) is not None for size in out[1:3])
        and 4 * (tile + TAPS - 1) ** 2 * channels * made <= most
    }
    tile = min(costs, key=lambda t: costs[t], default=None)
    return tile if tile is not None and costs[tile] * GAIN < plain else None


def _cost(tile: int, pixels: int, channels: int, made: int) -> float:
    """Operations, with moved bytes counted as operations."""
    squares = (tile + TAPS - 1) ** 2
    tiles = pixels // (tile * tile)
    numbers = squares * tiles * (channels + made) * 2 + pixels * (channels + made) + squares * channels * made
    return 2.0 * squares * tiles * channels * made + 4.0 * numbers * FLOPS_PER_BYTE
