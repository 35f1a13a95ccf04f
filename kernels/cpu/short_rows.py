"""Short rows: a last axis of two to six elements and the axis around it as one lane.

    y[i, j] = a[i] * b[j] + c[i, j]     with j: 3; lanes run over m = i*3 + j

Rows of three elements would leave most of a vector empty. Over both axes, what is stored is contiguous; what depends on
one of them is loaded once for as many vectors as make whole rows, and spread by a shuffle whose places are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from fusec.ir.dim import Dim, Extent, linear, product, symbols_of
from fusec.ir.expr import Expr, Index, Load, Ref, walk
from fusec.kernels.cpu.builder import Value, vector
from fusec.kernels.cpu.vector import memory_type
from fusec.tile.program import Let, Stage, TileProgram, is_expr

if TYPE_CHECKING:
    from fusec.kernels.cpu.access import Access
    from fusec.kernels.cpu.expression import Point

SIZES = (2, 3, 4, 6)
"""Elements of a row: few vectors make whole rows of them."""


@dataclass(frozen=True, slots=True)
class ShortRows:
    """The axis over the rows, the one within a row, and its extent. Tiles hold whole rows: tiles.py sees to that."""

    outer: str
    inner: str
    size: int

    @property
    def lane(self) -> str:
        """The name of both as one axis."""
        return f"{self.outer}.{self.inner}"

    def vectors(self, lanes: int) -> int:
        """How many vectors hold whole rows."""
        return lcm(lanes, self.size) // lanes


def short_rows(program: TileProgram, stage: Stage, lane: str) -> ShortRows | None:
    """The rows that a stage's lane axis makes with another one, where every access fits; None where there are none."""
    if stage.folds or not lane or lane in stage.ordered() or not stage.stores:
        return None
    size = program.axis[lane].extent
    if not isinstance(size, int) or size not in SIZES:
        return None
    if any(
        name not in program.operand
        for name in (*(x.operand for x in stage.loads()), *(s.operand for s in stage.stores))
    ):
        return None  # part of a contraction, whose storage is its own
    for outer in stage.axis_names:
        if outer != lane and outer not in stage.ordered() and _fits(program, stage, outer, lane, size):
            return ShortRows(outer, lane, size)
    return None


def _fits(program: TileProgram, stage: Stage, outer: str, inner: str, size: int) -> bool:
    for store in stage.stores:
        operand, index = store.operand, store.index
        steps = _steps(program, operand, index, outer, inner)
        if store.partial or steps != (size, 1) or _is_cut(program, operand, index, inner):
            return False
    varying, rows = set[str](), {outer, inner}
    spread = False

    def varies(e: Expr) -> bool:
        return any(
            (isinstance(x, Ref) and x.name in varying) or (isinstance(x, Load) and _moves(x, rows)) for x in walk(e)
        )

    for s in stage.body:
        for e in Stage((), (), (s,)).expressions():
            for x in walk(e):
                if isinstance(x, Index) and symbols_of(x.value) & rows:
                    return False
                if not isinstance(x, Load):
                    continue
                steps = _steps(program, x.operand, x.index, outer, inner)
                if any(is_expr(i) and varies(i) for i in x.index if not isinstance(i, int | Dim)) or steps is None:
                    return False
                if steps != (0, 0) and x.fill is not None:
                    return False
                if steps not in ((0, 0), (1, 0), (0, 1), (size, 1)) or _is_cut(program, x.operand, x.index, inner):
                    return False
                spread |= steps in ((1, 0), (0, 1))
        if isinstance(s, Let) and varies(s.value):
            varying.add(s.name)
    return spread  # else the axes would be one already, and nothing is to be spread


def _moves(x: Load, axes: set[str]) -> bool:
    return any(bool(symbols_of(i) & axes) for i in x.index if isinstance(i, int | Dim))


def _is_cut(program: TileProgram, operand: str, index: Sequence[Extent | Expr], inner: str) -> bool:
    """Whether an operand holds a tile's part of the rows only, whose size is no number."""
    from fusec.kernels.cpu.joined import lent_by_outputs

    if program.operand[operand].role != "local" or operand in lent_by_outputs(program):
        return False
    task = {a.name for a in program.axes}
    return any(isinstance(i, Dim) and bool(symbols_of(i) & task & {inner}) for i in index)


def _steps(
    program: TileProgram, operand: str, index: Sequence[Extent | Expr], outer: str, inner: str
) -> tuple[Extent, Extent] | None:
    """Elements between neighbours along both axes, in the row-major operand; None where that is no number."""
    shape = program.operand[operand].shape
    total: Extent = 0
    for d, i in enumerate(index):
        if isinstance(i, int | Dim):
            total = total + i * product(shape[d + 1 :])
    return steps_of(total, outer, inner)


def steps_of(offset: Extent, outer: str, inner: str) -> tuple[Extent, Extent] | None:
    """The coefficients of both axes; None where the offset is not affine in them."""
    split = linear(offset, [outer, inner])
    return None if split is None else (split[1].get(outer, 0), split[1].get(inner, 0))


def load_spread(point: Point, a: Access, make: Callable[[Extent], Value], copy: int) -> Value | None:
    """One of the vectors of whole rows, of an access that follows one of the axes; None where it does not, or where the
    vectors are no whole rows. `make` gives the address of an offset."""
    rows = point.rows
    if rows is None or point.mask is not None:
        return None
    steps, split = steps_of(a.offset, rows.outer, rows.inner), linear(a.offset, [rows.outer, rows.inner])
    if steps not in ((1, 0), (0, 1)) or split is None or a.name in point.changing:
        return None
    b, lanes, element = point.b, point.lanes, memory_type(a.storage.dtype)
    group = rows.vectors(lanes)
    part = copy % group
    places = range(lanes * part, lanes * (part + 1))
    if steps == (0, 1):
        level = point.fact_of(split[0])[0]
        key = ("row", a.name, a.offset)
        row = point.once(
            level, key, lambda: b.load(vector(rows.size, element), make(split[0]), a.storage.dtype.itemsize)
        )
        return point.once(level, (*key, part), lambda: b.shuffle(row, None, [m % rows.size for m in places]))
    first = copy - part

    def load() -> Value:
        at = b.op("udiv", point.bases[first], b.i64(rows.size), "exact")
        kept = vector(lanes * group // rows.size, element)
        return b.load(kept, b.gep(make(split[0]), at, element), a.storage.dtype.itemsize)

    column = point.once(point.depth, ("rows", a.name, a.offset, first), load)
    return b.shuffle(column, None, [m // rows.size for m in places])
