"""What Winograd's transforms cost on a device: nothing of it was measured, it is a model.

There a byte from the cache that all share costs several operations, products are padded to whole block tiles, and each kernel
more is a meeting of all blocks; channels fill no vectors in part, and no planes collide in a cache.
"""

from __future__ import annotations

from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.rates import TILE_OVERHEAD, rates_of
from fusec.ops.winograd import TAPS
from fusec.target import Target

ROWS = COLUMNS = 32
"""What rows and columns of a product count as a multiple of: block tiles are no smaller where they are to be fast."""
HAND_OVER = 1.0
"""Microseconds until all blocks know that a kernel before theirs is done."""
CACHE = 32 << 20
"""Bytes that the shared cache holds; more come from memory."""
KERNELS = 2
"""Kernels that there are besides the product: the weight is transformed when the model is compiled."""


def plain_operations(image: tuple[int, int, int], channels: int, made: int) -> float:
    """Operations of the plain sum, an implicit product, for images of (number, height, width)."""
    images, height, width = image
    return 2.0 * TAPS**2 * _up(images * height * width, ROWS) * channels * _up(made, COLUMNS)


def transformed_operations(target: Target, tile: int, image: tuple[int, int, int], channels: int, made: int) -> float:
    """Operations with tiles of an extent, moved bytes and meetings counted as operations of all multiprocessors."""
    images, height, width = image
    rates, level = rates_of(target), LEVELS.get(target.level.partition("-")[0], LEVELS["sm_80"])
    squares, tiles = (tile + TAPS - 1) ** 2, images * -(-height // tile) * -(-width // tile)
    product = 2.0 * squares * _up(tiles, ROWS) * channels * _up(made, COLUMNS)
    handed_on = 4.0 * squares * tiles * (channels + made)
    ends = 4.0 * images * height * width * (channels + made)
    moved = 2 * handed_on + ends + 4.0 * squares * channels * made
    rate = rates.kept if handed_on <= CACHE else rates.bytes
    meetings = KERNELS * (HAND_OVER + TILE_OVERHEAD) * level.multiprocessors
    return product + rates.products["simt"] * (moved / rate + meetings)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
