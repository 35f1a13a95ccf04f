"""Attention whose positions go by in blocks on a device: when, and how many rows are a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusec.ir.dim import Extent, symbol
from fusec.kernels.cpu.stream_form import attention
from fusec.kernels.cuda.stream import COLUMNS, ROWS, products
from fusec.kernels.kernel import Guard, Kernel, StageTiling, Tiling
from fusec.tile.program import TileProgram
from fusec.tiling.device.nest import Sizes

FEW_ROWS = 8
"""Up to this many rows keys and values are streamed once anyway."""
TASKS = 132
"""Tiles that there should be: one for each multiprocessor of a large device."""


def streamed(program: TileProgram, sizes: Sizes, calls: Sequence[object]) -> Kernel | None:
    """The kernel for more than a few rows; None where the program is no attention, or of few rows in all calls."""
    form = attention(program)
    if form is None or products(program, ROWS[0]) is None:
        return None
    m = program.axis[form.scores.m].extent
    most = sizes.most(m)
    if most is not None and most <= FEW_ROWS:
        return None
    rows = _rows(program, form.scores.batch, most, sizes)
    stages = tuple(StageTiling("stream", "", rows, COLUMNS) for _ in program.stages)
    tile: dict[str, Extent] = {a.name: 1 for a in program.axes}
    tile[form.scores.m] = rows
    guard = next((Guard(p, FEW_ROWS + 1, None) for p in program.params if m == symbol(p)), None)
    least = sizes.least(m)
    if guard is None and (least is None or least <= FEW_ROWS):
        return None  # how many rows there are can only be asked of a parameter
    kernel = Kernel(program, Tiling(tuple(tile.items()), stages, (), guard))
    if calls and least is not None and least > FEW_ROWS:
        return Kernel(program, replace(kernel.tiling, guard=None))
    return kernel


def _rows(program: TileProgram, batch: Sequence[str], most: int | None, sizes: Sizes) -> int:
    """The larger tile where there are enough rows for all multiprocessors."""
    small, large = ROWS
    if most is None:
        return large
    tiles = -(-most // large)
    for axis in batch:
        tiles *= sizes.most(program.axis[axis].extent) or 1
    return large if tiles >= TASKS else small
