"""Attention whose positions go by in blocks: when, and how many rows share the keys and values that are packed for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusec.ir.dim import Extent, ceildiv, floordiv, maximum, minimum, product
from fusec.kernels.cpu.stream_form import attention
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import TileProgram

MOST_ROWS = 240
"""Rows of a tile: enough to pay for packing keys and values, few enough for their sums to stay in cache."""
FEWEST_ROWS = 48
TASKS = 16
"""Tiles that there should be, where rows can make as many."""


def streamed(
    program: TileProgram, stages: Sequence[StageTiling]
) -> tuple[tuple[StageTiling, ...], tuple[tuple[str, Extent], ...]] | None:
    """The same stages streamed, and the tile; None where the program is no attention, or of one row, which needs no panels."""
    form = attention(program)
    if form is None or any(stages[i].template != "contract" for i in (0, -1)):
        return None
    extent: Extent = program.axis[form.scores.m].extent
    batch = product(program.axis[a].extent for a in form.scores.batch)
    rows = stages[0].rows
    most, fewest = MOST_ROWS // rows * rows, FEWEST_ROWS // rows * rows
    limit = maximum(fewest, minimum(most, floordiv(batch * extent, TASKS)))
    tiles = maximum(1, ceildiv(extent, limit))
    tile: dict[str, Extent] = {a.name: 1 for a in program.axes}
    tile[form.scores.m] = rows * maximum(1, ceildiv(ceildiv(extent, tiles), rows))
    return tuple(replace(s, template="stream", rows=rows) for s in stages), tuple(tile.items())
