"""The register tile of a contraction: rows of A times panels of B, accumulated in vector registers.

All the arithmetic of a matrix product happens here. B comes in panels, `width` columns wide and stored k by k, so
that each step loads whole aligned vectors; A comes as one pointer per row and a step per k. In which order an element
is summed depends on the register tile alone, never on where in the matrix it lies: results do not depend on how a
matrix is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.kernels.cpu.builder import Builder, Value, constant, vector

UNROLL = 4
"""Steps over k per iteration: pays for the loop, and for row pointers that do not fit into registers."""
CROWDED = 22
"""From this many accumulators on only half as many steps: LLVM loads all of B first, and would spill accumulators."""
STREAMS = 8
"""Accumulators that keep both multipliers busy while each addition waits for the one before it."""


def smaller_rows(count: int, rows: int, vectors: int) -> int:
    """Rows of a second tile for the last of so many rows, of which the first would compute up to five of six for nothing: as
    many as keep multipliers busy and sum in the same order. 0 where it computes no fewer."""
    few = rows * 2 // 3
    return few if rows % 3 == 0 and few * vectors >= STREAMS and 0 < count % rows <= few else 0


def padded_rows(count: int, rows: int, vectors: int) -> int:
    """How many rows tiles compute for so many: the last ones may be one or two smaller tiles."""
    left, few = count % rows, smaller_rows(count, rows, vectors)
    if not few:
        return -(-count // rows) * rows
    return count - left + (2 * few - rows if left <= 2 * few - rows and count > rows else few)


@dataclass(frozen=True, slots=True)
class TileShape:
    """`rows` by `vectors` accumulators per panel, each of `lanes` elements of an LLVM type."""

    rows: int
    vectors: int
    lanes: int
    element: str
    fma: bool

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """How many panels a tile works on at once: few rows alone would leave multipliers idle."""
        return 2 if self.rows * self.vectors <= STREAMS // 2 else 1

    @property
    def columns(self) -> int:
        """Vectors per row, of all panels."""
        return self.vectors * self.panels

    @property
    def zero(self) -> Value:
        """An accumulator of nothing."""
        return constant(self.type, 0.0 if self.is_float else 0)

    @property
    def sums(self) -> int:
        """Over how many partial sums a tile deals its steps, for the same reason."""
        return 2 if self.rows * self.vectors * self.panels < STREAMS else 1

    @property
    def unroll(self) -> int:
        """Steps over k per iteration, a power of two."""
        return UNROLL if self.rows * self.vectors * self.panels <= CROWDED else UNROLL // 2

    @property
    def is_float(self) -> bool:
        """Floats, and not integers that wrap."""
        return self.element in ("float", "double")

    @property
    def type(self) -> str:
        """The LLVM type of an accumulator."""
        return vector(self.lanes, self.element)

    @property
    def alignment(self) -> int:
        """Of vectors in scratch and in packed panels."""
        return min(64, self.lanes * self.itemsize)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return {"float": 4, "double": 8, "i32": 4, "i64": 8}[self.element]

    @property
    def panel_element(self) -> str:
        """What a step's column of B is in memory."""
        return self.element

    @property
    def row_element(self) -> str:
        """What the distance between rows of A is counted in."""
        return self.element

    def factor(self, b: Builder, place: Value) -> Value:
        """An element of A in all lanes."""
        return b.splat(b.load(self.element, place), self.lanes)

    def column(self, b: Builder, place: Value, packed: bool) -> Value:
        """A vector of B. Packed panels start at 64 bytes and their rows are whole vectors; others may start anywhere."""
        return b.load(self.type, place, self.alignment if packed else self.itemsize)

    def multiply_add(self, b: Builder, x: Value, y: Value, total: Value) -> Value:
        """x * y + total: fused where the level has the instruction."""
        if not self.is_float:
            return b.op("add", b.op("mul", x, y), total)
        if self.fma:
            return b.intrinsic("llvm.fma", x, y, total)
        return b.op("fadd", b.op("fmul", x, y), total)


def emit_tile(
    b: Builder,
    shape: TileShape,
    rows: Sequence[Value],
    step: Value,
    panels: Sequence[Value],
    panel_step: Value,
    count: Value,
    start: Sequence[Value],
    ahead: Sequence[Value] = (),
    ahead_step: Value | None = None,
) -> list[Value]:
    """The accumulators of one tile, row by row, panel by panel, after `count` steps from `start`.

    `rows` point at A's first element per row, `step` elements before the next. `panels` point at B's first vectors,
    which lie `panel_step` elements apart. What lies `ahead` is fetched into the second level cache meanwhile: one line per
    iteration, as far apart as the iterations' rows of a panel, or of another matrix with `ahead_step` elements from row to
    row.
    """
    size = len(start)
    carried = [*start, *[shape.zero] * (size * (shape.sums - 1))]

    def advance(lines: Sequence[Value], bases: Sequence[Value], u: int, totals: Sequence[Value]) -> list[Value]:
        columns = []
        for p in bases:
            line = b.gep(p, b.mul(panel_step, b.i64(u)), shape.panel_element)
            for v in range(shape.vectors):
                place = b.gep(line, b.i64(v * shape.lanes), shape.panel_element)
                columns.append(shape.column(b, place, panel_step.text == str(shape.width)))
        out = list[Value]()
        for r, line in enumerate(lines):
            place = b.gep(line, b.mul(step, b.i64(u)), shape.element)
            x = shape.factor(b, place)
            for c, column in enumerate(columns):
                out.append(shape.multiply_add(b, x, column, totals[r * len(columns) + c]))
        return out

    def places(k: Value) -> tuple[list[Value], list[Value]]:
        down, across = b.mul(k, panel_step), b.mul(k, step)
        return [b.gep(r, across, shape.element) for r in rows], [b.gep(p, down, shape.panel_element) for p in panels]

    if count.is_constant:
        whole = b.i64(int(count.text) // shape.unroll * shape.unroll)
    else:
        whole = b.op("and", count, b.i64(-shape.unroll))
    with b.loop(b.i64(0), whole, shape.unroll, carried, "k") as loop:
        totals = list(loop.carried)
        lines, bases = places(loop.index)
        for p in ahead:
            fetch(b, b.gep(p, b.mul(loop.index, ahead_step or panel_step), shape.panel_element))
        for u in range(shape.unroll):
            part = slice(u % shape.sums * size, (u % shape.sums + 1) * size)
            totals[part] = advance(lines, bases, u, totals[part])
        loop.next = totals
    ends = loop.results[:size]
    if whole != count:
        with b.loop(whole, count, 1, ends, "kleft") as rest:
            rest.next = advance(*places(rest.index), 0, rest.carried)
        ends = rest.results
    if shape.sums == 1:
        return list(ends)
    add = "fadd" if shape.is_float else "add"
    return [b.op(add, x, y) for x, y in zip(ends, loop.results[size:], strict=True)]


def emit_taps(
    b: Builder,
    shape: TileShape,
    table: Value,
    pitch: Value,
    taps: Value,
    step: Value,
    panels: Sequence[Value],
    depth: Value,
    start: Sequence[Value],
    ahead: Sequence[Value] = (),
    shift: Value | None = None,
) -> list[Value]:
    """The accumulators of one tile, summed over taps: row r begins `shift` elements from entry `tap * pitch + r` of the
    table."""
    size = b.mul(depth, b.i64(shape.width))
    with b.loop(b.i64(0), taps, 1, start, "tap") as loop:
        line = b.gep(table, b.mul(loop.index, pitch), "i64")
        rows = [b.load("ptr", b.gep(line, b.i64(r), "i64")) for r in range(shape.rows)]
        rows = rows if shift is None else [b.gep(p, shift, shape.row_element) for p in rows]
        places = [b.gep(p, b.mul(loop.index, size), shape.panel_element) for p in panels]
        further = [b.gep(p, b.mul(loop.index, size), shape.panel_element) for p in ahead]
        loop.next = emit_tile(b, shape, rows, step, places, b.i64(shape.width), depth, loop.carried, further)
    return list(loop.results)


def fetch(b: Builder, place: Value) -> None:
    """Ask for a line in the second level cache. Any address may be asked for."""
    b.call_void("llvm.prefetch.p0", place, Value("i32", "0"), Value("i32", "2"), Value("i32", "1"))
