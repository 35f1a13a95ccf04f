"""The ranges of a nest's loops, of axes that were split into rows and columns too."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.merged import Split, join


class Ranges:
    """Half-open ranges by axis, computed where they are first asked for: in front of the axis' loop."""

    def __init__(self, point: Point, splits: Sequence[Split]) -> None:
        self.point = point
        self.splits = splits
        self._known: dict[str, tuple[Value, Value]] = {}

    def of(self, axis: str) -> tuple[Value, Value]:
        """The range of an axis in this tile; of columns in the row at hand."""
        if axis not in self._known:
            split = next((s for s in self.splits if axis in (s.row, s.column)), None)
            self._known[axis] = self.point.ctx.bounds(axis) if split is None else self._split(split, axis == split.row)
        return self._known[axis]

    def _split(self, s: Split, rows: bool) -> tuple[Value, Value]:
        b = self.point.b
        low, high = self.of(s.axis)
        columns = b.smax(self.point.extent(s.columns), b.i64(1))
        if rows:
            last = b.op("udiv", b.add(high, b.sub(columns, b.i64(1))), columns)
            return b.op("udiv", low, columns), last
        start = b.mul(self.point.extent(join(self.splits, s.row)), columns)
        return b.smax(b.sub(low, start), b.i64(0)), b.smin(b.sub(high, start), columns)
