"""Rows of an image that the next row of windows will add, fetched meanwhile.

Points side by side read a line of each of their pixels, then the next one of each: no processor foresees what comes then. So
where an image does not stay in the second level cache, every vector along the lane asks for its share of the rows below. From
memory, depthwise windows over 112 x 112 pixels of 96 channels at a stride of two take 0.7 of the time (AVX2, Zen 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.ir.dim import Dim, Extent, linear, product, substitute, symbol
from fusec.ir.expr import Load
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.contract_tile import fetch
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.vector import memory_type
from fusec.tile.program import Operand, Stage

LINE = 64
"""Bytes that come at once."""
MOST_LINES = 8
"""Lines that a vector asks for at most: loads of what is at hand wait for them."""
LARGE = 512 << 10
"""Bytes of an image of which no few rows are left in the second level cache when they are needed."""


@dataclass(frozen=True, slots=True)
class RowsBelow:
    """Where the rows that an input's next windows add begin for a block of points, and elements of each per lane."""

    operand: Operand
    places: tuple[Extent, ...]
    elements: int

    def fetch(self, point: Point) -> None:
        """Ask for the share of the vector at hand: together, vectors along the lane cover the rows."""
        b, element, size = point.b, memory_type(self.operand.dtype), self.operand.dtype.itemsize
        starts = [b.gep(point.ctx.storage(self.operand.name).pointer, point.extent(p), element) for p in self.places]
        is_large = b.compare("sgt", point.extent(product(self.operand.shape)), b.i64(LARGE // size))

        def share() -> Sequence[Value]:
            for start in starts:
                first = b.gep(start, b.mul(point.bases[0], b.i64(self.elements)), element)
                for i in range(0, self.elements * point.lanes, LINE // size):
                    fetch(b, b.gep(first, b.i64(i), element))
            return []

        b.when(is_large, share)


def rows_below(point: Point, stage: Stage, points: str, count: int) -> list[RowsBelow]:
    """What `count` windows side by side along an axis fetch, of each input that a stage's folds read so."""
    found = (_below(point, stage, x, points, count) for x in dict.fromkeys(stage.loads()))
    return [r for r in found if r is not None]


def _below(point: Point, stage: Stage, x: Load, points: str, count: int) -> RowsBelow | None:
    """None where lines do not lie behind each other along the lane, or no axis outside moves windows down."""
    operand = point.ctx.program.operand.get(x.operand)
    folds = {a.name: a.extent for a in stage.folds}
    if operand is None or operand.role != "input":
        return None
    offset: Extent = 0
    row: tuple[str, str, int] | None = None
    across = 0
    for i, d in zip(x.index, operand.shape, strict=True):
        if not isinstance(i, int | Dim):
            return None
        offset = offset * d + i
        split = linear(i, stage.axis_names)
        steps = {} if split is None else split[1]
        step = next(iter(steps.values()), 0)
        windows = [f for f in folds if isinstance(i, Dim) and f in i.symbols]
        if len(steps) != 1 or len(windows) != 1 or not isinstance(step, int):
            continue
        if points in steps:
            across = step
        else:
            row = next(iter(steps)), windows[0], step
    split = linear(offset, [point.lane])
    if row is None or split is None or split[1].get(point.lane) != 1:
        return None
    axis, window, down = row
    if not 0 < count * across * down * point.lanes * operand.dtype.itemsize <= MOST_LINES * LINE:
        return None
    first = dict.fromkeys(folds, 0) | {axis: symbol(axis) + 1}
    places = tuple(substitute(split[0], first | {window: folds[window] - 1 - k}) for k in range(down))
    return RowsBelow(operand, places, count * across)
