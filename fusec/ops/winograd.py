"""Winograd's minimal filtering: a 3 x 3 convolution as products of transformed tiles, in three steps.

A tile of `t` x `t` outputs comes from `t + 2` x `t + 2` inputs through as many products per channel, where the plain sum
takes 9 t^2: 2.25 times fewer for t = 2, 4 times fewer for t = 4. The last tiles of an image may reach over its edges: zeros
are read there, and what is computed there is dropped. With the matrices of Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (arXiv 1509.09308, section 4):

    input:  V = B^T x B     weight:  U = G w G^T     output:  y = A^T (sum over channels of U * V) A
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.dim import Extent, ceildiv
from fusec.ir.types import TensorType, Type
from fusec.ops.body import reference
from fusec.ops.op import Attrs, Kind, Op, register
from fusec.ops.rules import FLOATS, accept, tensors

Array = npt.NDArray[Any]
TAPS = 3

INPUT: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
"""B^T by the tile's extent."""
OUTPUT: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""A^T by the tile's extent."""
WEIGHT: dict[int, tuple[tuple[float, ...], ...]] = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
"""G by the tile's extent."""


def _tile(op: str, attrs: Attrs) -> int:
    tile = int(attrs["tile"])
    if tile not in INPUT:
        raise ModelError(f"{op}: tiles of {tile}; known are {sorted(INPUT)}", op=op)
    return tile


def _infer_weight(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (w,) = tensors("winograd_weight", inputs, 1)
    accept("winograd_weight", w, FLOATS)
    if len(w.dims) != 4 or w.dims[:2] != (TAPS, TAPS):
        raise ModelError(f"winograd_weight: needs f32[3, 3, C, O], got {w}", op="winograd_weight")
    n = _tile("winograd_weight", attrs) + TAPS - 1
    return (TensorType(w.dtype, (n * n, *w.dims[2:])),)


def _weight(w: Array, *, tile: int) -> Array:
    """G w G^T of each pair of channels, in float64 and rounded once."""
    g = np.asarray(WEIGHT[tile])
    u = np.einsum("ir,rsco,js->ijco", g, w.astype(np.float64), g, optimize=True)
    return np.asarray(u.reshape(-1, *w.shape[2:]).astype(w.dtype))


def _infer_input(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("winograd_input", inputs, 1)
    accept("winograd_input", x, FLOATS)
    tile, before, after = _tile("winograd_input", attrs), attrs["before"], attrs["after"]
    if len(x.dims) != 4 or len(before) != 2 or len(after) != 2:
        raise ModelError(f"winograd_input: needs an image [N, H, W, C] and two paddings, got {x}", op="winograd_input")
    tiles: Extent = x.dims[0]
    for size, b, a in zip(x.dims[1:3], before, after):
        tiles = tiles * ceildiv(size + b + a - (TAPS - 1), tile)
    n = tile + TAPS - 1
    return (TensorType(x.dtype, (n * n, tiles, x.dims[3])),)


def _input(x: Array, *, tile: int, before: Sequence[int], after: Sequence[int]) -> Array:
    sizes = zip(x.shape[1:3], before, after, strict=True)
    rest = [-(size + b + a - (TAPS - 1)) % tile for size, b, a in sizes]  # what a last tile reads too far
    padded = np.pad(x, [(0, 0), *((b, a + r) for b, a, r in zip(before, after, rest, strict=True)), (0, 0)])
    n, b = tile + TAPS - 1, np.asarray(INPUT[tile], x.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (n, n), (1, 2))[:, ::tile, ::tile]
    tiles = np.einsum("ir,nhwcrs,js->ijnhwc", b, windows, b, optimize=True)
    return np.asarray(tiles.reshape(n * n, -1, x.shape[3]))


def _infer_output(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (m,) = tensors("winograd_output", inputs, 1)
    accept("winograd_output", m, FLOATS)
    tile, shape = _tile("winograd_output", attrs), tuple(attrs["shape"])
    n = tile + TAPS - 1
    tiles = shape[0]
    for size in shape[1:3]:
        tiles = tiles * ceildiv(size, tile)
    if len(shape) != 4 or m.dims != (n * n, tiles, shape[3]):
        raise ModelError(f"winograd_output: {m} does not hold the tiles of {shape}", op="winograd_output")
    return (TensorType(m.dtype, shape),)


def _output(m: Array, *, tile: int, shape: Sequence[int]) -> Array:
    n, a = tile + TAPS - 1, np.asarray(OUTPUT[tile], m.dtype)
    batch, height, width, channels = shape
    rows, columns = -(-height // tile), -(-width // tile)
    tiles = m.reshape(n, n, batch, rows, columns, channels)
    pixels = np.einsum("ir,rsnhwo,js->nhiwjo", a, tiles, a, optimize=True)
    return np.asarray(pixels.reshape(batch, rows * tile, columns * tile, channels)[:, :height, :width])


register(Op("winograd_weight", Kind.CONTRACTION, _infer_weight, reference(_weight, "tile"), None, 9.0))
register(Op("winograd_input", Kind.CONTRACTION, _infer_input, reference(_input, "tile", "before", "after"), None, 8.0))
register(Op("winograd_output", Kind.CONTRACTION, _infer_output, reference(_output, "tile", "shape"), None, 15.0))
