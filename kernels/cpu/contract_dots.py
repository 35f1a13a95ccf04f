"""The register tile of products with few columns: rows of A times columns of B, both vectors along the sum.

With the columns as lanes most of a vector would stay empty. Here every accumulator is one element of the result, summed
in as many parts as a vector has lanes; the parts are added up in the end, for all columns of a row together. Both sides
are read as they lie in memory where they are contiguous along the sum: nothing is packed. A long row beside many columns
that come with the run goes so as well, as many columns at a time as a vector has lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.kernels.cpu.builder import Builder, Value
from fusec.kernels.cpu.contract_tile import TileShape

GROUP_BYTES = 16
"""What shuffles work within at one instruction each."""
MOST = 8
"""Columns, and rows, of such a tile at most."""


@dataclass(frozen=True, slots=True)
class DotShape(TileShape):
    """A register tile whose result is one vector per row, of all columns."""

    @property
    def panels(self) -> int:
        """All columns are one panel."""
        return 1


def dot_rows(columns: int, registers: int) -> int:
    """Rows of a tile: accumulators, one side of a step and an element of the other fill the registers."""
    return max(r for r in range(1, MOST + 1) if r == 1 or r * columns + min(r, columns) + 1 <= registers)


def emit_dots(
    b: Builder,
    shape: TileShape,
    columns: int,
    rows: Sequence[Value],
    ends: Sequence[Value],
    count: Value,
    start: Sequence[Value],
) -> list[Value]:
    """The accumulators, row by row, after `count` more products: column j of B begins at `ends[j]`."""
    lanes, element = shape.lanes, shape.element

    def step(k: Value, mask: Value | None, totals: Sequence[Value]) -> list[Value]:
        def load(pointer: Value) -> Value:
            at = b.gep(pointer, k, element)
            if mask is None:
                return b.load(shape.type, at, shape.itemsize)
            return b.masked_load(shape.type, at, mask, shape.zero)

        out = list(totals)
        held, passing = (rows, ends) if len(rows) < columns else (ends, rows)
        kept = [load(p) for p in held]
        for i, p in enumerate(passing):
            x = load(p)
            for j, y in enumerate(kept):
                at = j * columns + i if held is rows else i * columns + j
                out[at] = shape.multiply_add(b, x, y, out[at])
        return out

    whole = b.op("and", count, b.i64(-lanes))
    with b.loop(b.i64(0), whole, lanes, start, "k") as loop:
        loop.next = step(loop.index, None, loop.carried)
    if whole.is_constant and whole == count:
        return list(loop.results)

    def rest() -> list[Value]:
        left = b.splat(b.convert("trunc", b.sub(count, whole), "i32"), lanes)
        return step(whole, b.compare("slt", b.iota(lanes, "i32"), left), loop.results)

    return list(b.when(b.compare("slt", whole, count), rest, loop.results))


def emit_dot_taps(
    b: Builder,
    shape: TileShape,
    columns: int,
    table: Value,
    pitch: Value,
    taps: Value,
    ends: Sequence[Value],
    depth: Value,
    shift: Value | None = None,
) -> list[Value]:
    """The same over taps: row r begins `shift` elements from entry `tap * pitch + r` of the table."""
    with b.loop(b.i64(0), taps, 1, [shape.zero] * (shape.rows * columns), "tap") as loop:
        line = b.gep(table, b.mul(loop.index, pitch), "i64")
        rows = [b.load("ptr", b.gep(line, b.i64(r), "i64")) for r in range(shape.rows)]
        rows = rows if shift is None else [b.gep(p, shift, shape.element) for p in rows]
        places = [b.gep(p, b.mul(loop.index, depth), shape.element) for p in ends]
        loop.next = emit_dots(b, shape, columns, rows, places, depth, loop.carried)
    return list(loop.results)


def add_up(b: Builder, shape: TileShape, columns: int, totals: Sequence[Value]) -> list[Value]:
    """A vector per row with the sum of accumulator j in lane j; lanes past the columns hold anything."""
    return [_sums(b, shape, totals[r * columns : (r + 1) * columns]) for r in range(shape.rows)]


def _sums(b: Builder, shape: TileShape, parts: Sequence[Value]) -> Value:
    """Pairs of neighbours within groups of lanes are added first, then groups: every column in the same order."""
    lanes = shape.lanes
    group = min(lanes, GROUP_BYTES // shape.itemsize)
    add = "fadd" if shape.is_float else "add"
    out: list[Value] = []
    for first in range(0, len(parts), group):
        some = list(parts[first : first + group])
        some += [some[-1]] * (group - len(some))
        while len(some) > 1:
            some = [_pairs(b, add, group, x, y) for x, y in zip(some[::2], some[1::2], strict=True)]
        total = some[0]
        while total.lanes > group:
            half = total.lanes // 2
            total = b.op(add, b.shuffle(total, None, range(half)), b.shuffle(total, None, range(half, 2 * half)))
        out.append(total)
    if len(out) == 1:
        return b.shuffle(out[0], None, [min(i, group - 1) for i in range(lanes)])
    while len(out) < lanes // group:
        out.append(out[-1])
    while len(out) > 1:
        out = [b.shuffle(x, y, range(2 * x.lanes)) for x, y in zip(out[::2], out[1::2], strict=True)]
    return out[0]


def _pairs(b: Builder, add: str, group: int, x: Value, y: Value) -> Value:
    """Sums of two neighbours: in each group of lanes those of x, then those of y."""
    n = x.lanes
    starts = range(0, n, group)
    even = [g + p if p < group else n + g + p - group for g in starts for p in range(0, 2 * group, 2)]
    return b.op(add, b.shuffle(x, y, even), b.shuffle(x, y, [i + 1 for i in even]))
