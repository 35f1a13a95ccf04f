"""Which convolutions go through Winograd's transforms."""

from __future__ import annotations

import pytest

from fusec.ir.dim import symbol
from fusec.passes.graph.choose_winograd import best_tile

MOST = 16 << 20


@pytest.mark.parametrize(
    ("pixels", "channels", "tile"),
    [
        ((56, 56), (64, 64), 4),  # a residual network's first stage
        ((28, 28), (128, 128), 4),
        ((7, 7), (128, 128), 4),  # last tiles reach over the edges
        ((27, 27), (32, 32), 4),
        ((7, 7), (512, 512), 2),  # the weights of 4 x 4 tiles pass the limit
        ((13, 13), (16, 16), 4),
        ((224, 224), (3, 64), None),  # too few channels to pay for the transforms
        ((56, 56), (8, 8), 4),
        ((56, 56), (12, 12), None),  # half of what is moved goes through masks
        ((4, 4), (512, 512), None),  # one tile: weights four times as large for one row of products
        ((3, 3), (128, 128), None),
        ((13, 13), (64, 64), 2),  # sixteen tiles of 64 channels are a page: all planes meet in one set of the cache
        ((20, 20), (64, 64), 4),
    ],
)
def test_best_tile(pixels: tuple[int, int], channels: tuple[int, int], tile: int | None) -> None:
    assert best_tile((1, *pixels, channels[1]), (3, 3, *channels), MOST) == tile


def test_symbols() -> None:
    assert best_tile((symbol("N"), 56, 56, 64), (3, 3, 64, 64), MOST) == 4
    assert best_tile((symbol("N"), symbol("H"), symbol("W") // 2, 64), (3, 3, 64, 64), MOST) == 4
    assert best_tile((1, symbol("H"), 56, 64), (3, 3, 64, symbol("C")), MOST) is None


def test_the_transformed_weight_has_a_limit() -> None:
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 64 << 20) == 4
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 20 << 20) == 2
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 1 << 20) is None
