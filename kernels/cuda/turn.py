"""Stages that read along one axis and write along another: squares of 32 by 32 elements are turned in shared memory.

Lanes go along the axis that loads are contiguous in while a square is filled, and along the axis of the stores while its
elements are used; both times a warp reaches whole lines of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear, product
from fusec.ir.expr import Expr, Load, walk
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.scalar import element_type, to_memory
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Fold, Let, Stage, Store, TileProgram

SIDE = 32
ROWS = 8
"""Warps of a block: so many rows of a square are filled at a time."""
MOST_SQUARES = 4


def turned_axis(program: TileProgram, stage: Stage, lane: str) -> str:
    """The axis along which loads are contiguous that are not along the lane; "" where no stage of this kind helps."""
    if stage.folds or stage.scattered or not lane:
        return ""
    found = [a for x in _plain_loads(program, stage) if (a := _other_axis(program, stage, x, lane))]
    axes = list(dict.fromkeys(found))
    return axes[0] if len(axes) == 1 and len(set(found)) <= MOST_SQUARES else ""


def _plain_loads(program: TileProgram, stage: Stage) -> list[Load]:
    return [
        x
        for x in stage.loads()
        if program.operand[x.operand].role not in ("scalar", "local") and all(isinstance(i, int | Dim) for i in x.index)
    ]


def _other_axis(program: TileProgram, stage: Stage, x: Load, lane: str) -> str:
    if _step(program, x, lane) in (0, 1):
        return ""
    return next((a for a in stage.axis_names if a != lane and _step(program, x, a) == 1), "")


def _step(program: TileProgram, x: Load, axis: str) -> Extent | None:
    """Elements between neighbours along an axis; None where they are not the same everywhere."""
    shape = program.operand[x.operand].shape
    total: Extent = 0
    for d, i in enumerate(x.index):
        if not isinstance(i, int | Dim):
            return None
        split = linear(i, [axis])
        if split is None:
            return None
        total = total + split[1].get(axis, 0) * product(shape[d + 1 :])
    return total


@dataclass(frozen=True, slots=True)
class _Square:
    """A load whose values are turned, and the name of the square that holds them."""

    load: Load
    name: str


def emit_turn(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Write a stage for the current tile."""
    with ctx.writer.block("", pinned=True):
        _Turn(ctx, stage, tiling.lane).emit()


class _Turn:
    def __init__(self, ctx: Context, stage: Stage, lane: str) -> None:
        self.ctx, self.stage, self.w = ctx, stage, ctx.writer
        self.lane = lane
        self.other = turned_axis(ctx.program, stage, lane)
        if not self.other:
            raise BugError(f"{ctx.program.name}: a stage has nothing to turn along {lane!r}")

    def emit(self) -> None:
        """Squares one after the other, all threads in each."""
        squares = self._squares()
        outer = [a for a in self.stage.axis_names if a not in (self.lane, self.other)]
        fill, use = Point(self.ctx), Point(self.ctx)
        self._loops(outer, [fill, use], squares)

    def _squares(self) -> list[_Square]:
        point = Point(self.ctx)
        loads = list(dict.fromkeys(x for e in self._expressions(point) for x in walk(e) if self._is_turned(x)))
        out = []
        for x in loads:
            if isinstance(x, Load):
                element, name = element_type(x.dtype), self.w.name("square")
                memory = self.ctx.shared(SIDE * (SIDE + 1) * x.dtype.itemsize)
                self.w.line(f"{element}(*const {name})[{SIDE + 1}] = ({element}(*)[{SIDE + 1}]){memory};")
                out.append(_Square(x, name))
        return out

    def _expressions(self, point: Point) -> list[Expr]:
        """All expressions of the stage with lets written out, as the point knows them."""
        out: list[Expr] = []
        for s in self.stage.body:
            match s:
                case Let():
                    out.append(point.define(s))
                case Store(_, _, value, _):
                    out.append(point.intern(value))
                case Fold():
                    raise BugError("a stage with folds is not turned")
        return out

    def _is_turned(self, x: Expr) -> bool:
        program = self.ctx.program
        if not isinstance(x, Load) or program.operand[x.operand].role in ("scalar", "local"):
            return False
        plain = all(isinstance(i, int | Dim) for i in x.index)
        return plain and _other_axis(program, self.stage, x, self.lane) == self.other

    def _loops(self, axes: list[str], points: list[Point], squares: list[_Square]) -> None:
        if axes:
            low, high = self.ctx.bounds(axes[0])
            name = self.w.name(f"{axes[0]}_")
            with self.w.block(f"for (fx_int {name} = {low}; {name} < {high}; {name}++)", guard=f"{low} < {high}"):
                for point in points:
                    point.place(axes[0], name)
                self._loops(axes[1:], points, squares)
            return
        names = {}
        for axis in (self.other, self.lane):
            low, high = self.ctx.bounds(axis)
            names[axis] = self.w.name(f"{axis}_"), low, high
        (p, p_low, p_high), (q, q_low, q_high) = names[self.other], names[self.lane]
        with (
            self.w.block(f"for (fx_int {p} = {p_low}; {p} < {p_high}; {p} += {SIDE})"),
            self.w.block(f"for (fx_int {q} = {q_low}; {q} < {q_high}; {q} += {SIDE})"),
        ):
            fill, use = points
            self._pass(fill, squares, (self.other, p, p_high), (self.lane, q, q_high), filling=True)
            self.w.line("fx_barrier();")
            self._pass(use, squares, (self.lane, q, q_high), (self.other, p, p_high), filling=False)
            self.w.line("fx_barrier();")

    def _pass(
        self,
        point: Point,
        squares: list[_Square],
        across: tuple[str, str, str],
        down: tuple[str, str, str],
        *,
        filling: bool,
    ) -> None:
        """Fill the squares, or use them: lanes go along `across`, warps along `down`. (axis, start of the square, end)"""
        number, row, column = self.w.name("r"), self.w.name("row"), "fx_lane()"
        if filling:
            for s in squares:
                self.w.line(f"{element_type(s.load.dtype)} {s.name}_row[{SIDE // ROWS}] = {{}};")
        with self._rows(number, row):
            for axis, start, at in ((across[0], across[1], column), (down[0], down[1], row)):
                name = self.w.name(f"{axis}_")
                self.w.line(f"const fx_int {name} = {start} + {at};")
                point.place(axis, name)
            inside = " && ".join(f"{point.axis_name(a)} < {end}" for a, _, end in (across, down))
            with self.w.block(f"if ({inside})", pinned=True):
                if filling:
                    for s in squares:
                        value = to_memory(point.value(point.intern(s.load)), s.load.dtype)
                        self.w.line(f"{s.name}_row[{number}] = {value};")
                else:
                    self._expressions(point)
                    for s in squares:
                        point.give(s.load, f"{s.name}[{column}][{row}]")
                    point.run(self.stage.body)
        if filling:  # all loads are under way before the first of them is waited for
            with self._rows(number, row):
                for s in squares:
                    self.w.line(f"{s.name}[{row}][{column}] = {s.name}_row[{number}];")

    @contextmanager
    def _rows(self, number: str, row: str) -> Iterator[None]:
        """A loop over the rows of a square that a warp takes, which the compiler writes out."""
        header = f"FX_UNROLL for (int {number} = 0; {number} < {SIDE // ROWS}; {number}++)"
        with self.w.block(header, pinned=True, wrapped=False):
            self.w.line(f"const int {row} = fx_warp() + {ROWS} * {number};")
            yield
