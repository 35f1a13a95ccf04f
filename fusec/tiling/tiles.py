"""Tile extents, as polynomials of a program's parameters: enough work to pay for a task, little enough to share out.

A tile should take 5 to 50 us and keep what it touches twice in the first or second level cache. The scheduler joins
tiles into runs; so a tile may be small, and is so where that costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusec.ir.dim import Dim, Extent, floordiv, maximum, minimum, product, symbols_of
from fusec.kernels.cpu.contract_form import Contraction
from fusec.kernels.cpu.merged import columns_of
from fusec.kernels.cpu.short_rows import short_rows
from fusec.kernels.cpu.squares import turned_axis
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Axis, TileProgram
from fusec.tiling.product import product_tiles, uses

TILE_BYTES = 32 << 10
"""What a tile of rows or of a map reads and writes: the first level cache."""
SQUARE = 64
"""Rows and columns of a transpose's tile: 32 KiB in and out together."""
LINE = 64
"""Elements that a map's tile is a multiple of, along the lane."""


def tile_extents(
    program: TileProgram, stages: Sequence[StageTiling], forms: Sequence[Contraction | None]
) -> tuple[tuple[str, Extent], ...]:
    """Axis -> tile extent, for the task axes in order."""
    products = [(s, f) for s, f in zip(stages, forms, strict=True) if f is not None and s.template == "contract"]
    if products:
        return product_tiles(program, products)
    return _plain_tiles(program, stages)


def _plain_tiles(program: TileProgram, stages: Sequence[StageTiling]) -> tuple[tuple[str, Extent], ...]:
    """From the innermost task axis outwards: as many points as fit into the budget of bytes, and whole rows of images."""
    out: list[tuple[str, Extent]] = []
    inner: dict[str, Extent] = {}
    square = _square(program, stages)
    for axis in reversed(program.axes):
        size = maximum(1, bytes_per_step(program, axis.name, inner))
        unit = _unit(program, stages, axis)
        tile: Extent = unit * maximum(1, floordiv(TILE_BYTES, size * unit))
        if axis.name in square:
            tile = SQUARE
        out.append((axis.name, 1 if axis.sequential else tile))
        inner[axis.name] = maximum(1, minimum(SQUARE, axis.extent) if axis.name in square else axis.extent)
    return tuple(reversed(out))


def _square(program: TileProgram, stages: Sequence[StageTiling]) -> set[str]:
    """The two task axes of a transpose: tiles are square, so that what is read in columns stays in the first cache."""
    for stage, tiling in zip(program.stages, stages, strict=True):
        turned = turned_axis(program, stage, tiling.lane) if tiling.rows > 1 else ""
        names = {a.name for a in program.axes}
        if turned and tiling.lane in names and turned in names:
            return {turned, tiling.lane}
    return set()


def _unit(program: TileProgram, stages: Sequence[StageTiling], axis: Axis) -> Extent:
    """What a tile along an axis is a multiple of: lines of memory, the rows that were merged into it, or all of the axis
    where windows are computed side by side along it."""
    if any(t.lane == axis.name for t in stages):
        return LINE
    for stage, tiling in zip(program.stages, stages, strict=True):
        rows = short_rows(program, stage, tiling.lane) if tiling.template == "nest" and tiling.rows == 1 else None
        if rows is not None and rows.outer == axis.name:
            return LINE
        columns = columns_of(stage, axis.name)
        if columns is not None:
            return maximum(1, columns)
        if tiling.rows > 1 and turned_axis(program, stage, tiling.lane) == axis.name:
            return tiling.rows
        if tiling.rows > 1 and stage.folds and [a for a in stage.axis_names if a != tiling.lane][-1] == axis.name:
            return maximum(1, axis.extent)
    return 1


def bytes_per_step(program: TileProgram, axis: str, inner: Mapping[str, Extent]) -> Extent:
    """Bytes that one more index of an axis reads and writes, the axes inside in full, of operands that depend on them."""
    task = {a.name for a in program.axes}
    counted = {axis, *inner}
    seen: dict[str, Extent] = {}
    for stage in program.stages:
        accesses = [(x.operand, x.index) for x in stage.loads()] + [(s.operand, s.index) for s in stage.stores]
        for name, index in accesses:
            operand = program.operand[name]
            mentioned = {a for i in index if isinstance(i, Dim) for a in symbols_of(i) & task}
            if axis not in mentioned:
                continue
            own = [d for d, i in zip(operand.shape, index, strict=True) if not isinstance(i, int) and not uses(i, task)]
            extents = [inner[a] for a in sorted(mentioned & counted - {axis})]
            seen[name] = product([*own, *extents]) * operand.dtype.itemsize
    total: Extent = 0
    for n in seen.values():
        total = total + n
    return total
