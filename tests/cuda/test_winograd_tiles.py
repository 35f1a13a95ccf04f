"""Which convolutions are transformed on a device: by its own rates, where the CPU's constants would say otherwise."""

from __future__ import annotations

import pytest

from fusec.passes.graph.choose_winograd import best_tile
from fusec.target import Target

PLACES = {"cpu": Target("cpu", "avx2"), "sm_80": Target("cuda", "sm_80"), "sm_90": Target("cuda", "sm_90-emulated")}


@pytest.mark.parametrize(
    ("images", "side", "channels", "tiles"),
    [
        (8, 28, 256, {"cpu": 4, "sm_80": 4, "sm_90": 4}),  # so much work that moving is little beside it
        (
            1,
            28,
            128,
            {"cpu": 4, "sm_80": 4, "sm_90": None},
        ),  # two more meetings of all blocks take longer than they save
        (1, 7, 512, {"cpu": 2, "sm_80": None, "sm_90": None}),  # four tiles fill no block tile
    ],
)
def test_tiles(images: int, side: int, channels: int, tiles: dict[str, int | None]) -> None:
    out, weight = (images, side, side, channels), (3, 3, channels, channels)
    assert {n: best_tile(out, weight, 1 << 30, t) for n, t in PLACES.items()} == tiles
