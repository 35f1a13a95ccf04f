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
        ((14, 14), (256, 256), 2),  # 14 is no multiple of 4
        ((7, 7), (512, 512), None),  # nor of 2
        ((224, 224), (3, 64), None),  # too few channels to pay for the transforms
        ((56, 56), (8, 8), None),
        ((4, 4), (512, 512), None),  # one tile: weights four times as large for one row of products
        ((10, 14), (64, 64), 2),
    ],
)
def test_best_tile(pixels: tuple[int, int], channels: tuple[int, int], tile: int | None) -> None:
    assert best_tile((1, *pixels, channels[1]), (3, 3, *channels), MOST) == tile


def test_symbols() -> None:
    assert best_tile((symbol("N"), 56, 56, 64), (3, 3, 64, 64), MOST) == 4
    assert best_tile((1, symbol("H"), 56, 64), (3, 3, 64, 64), MOST) is None


def test_the_transformed_weight_has_a_limit() -> None:
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 64 << 20) == 4
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 20 << 20) == 2
    assert best_tile((1, 28, 28, 512), (3, 3, 512, 512), 1 << 20) is None
