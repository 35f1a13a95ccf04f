"""emit_scan: running sums and products whose lines are the work of a block each; and which programs are such.

The programs are those of `fusec/lower/ordered.py`: the last stage goes along a line and carries a sum, element by element. All
that a block needs to know stands in it; a stage of blocks of elements before it does the same for the front part of the line.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, substitute, symbol
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref, cast, replace_axes
from fusec.ir.types import DType
from fusec.kernels.cuda.abi import THREADS, WARP
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.fold import evaluate
from fusec.kernels.cuda.scalar import literal, value_type
from fusec.kernels.cuda.walk import Span, walk
from fusec.tile.program import Fold, Let, Stage, Store, TileProgram

TEMPLATE = "scan"
ITEMS = 4
"""Elements that a thread takes at a time."""
LINE, SUM = "scan_place", "@sum"
"""The place in a line, and the sum up to there, in the expressions of a form."""
JOINS = {"add": "sum", "mul": "prod"}
"""What joins two partial results -> the fold that does the same."""


@dataclass(frozen=True, slots=True)
class Running:
    """Lines along `axes`, of `count` elements `x`, which `join` joins beginning with `start`; `store` takes the results."""

    axes: tuple[str, ...]
    count: Extent
    x: Expr
    start: Const
    join: str
    exclusive: bool
    store: Store

    @property
    def dtype(self) -> DType:
        """What is carried along a line."""
        return self.start.dtype


def running(program: TileProgram) -> Running | None:
    """A program as running sums, or None."""
    if not 2 <= len(program.stages) <= 3:
        return None
    begin, *front, step = program.stages
    form = _stepped(program, begin, step)
    if form is None or not front:
        return form
    return form if _same(form, front[0]) else None


def _stepped(program: TileProgram, begin: Stage, step: Stage) -> Running | None:
    """What the last stage does with every element of the line, those before its own included."""
    match begin.body, step.body:
        case (
            (Store(zero, _, Const() as start),),
            (
                Let(old, Load(carried, here)),
                Let(new, Prim(join, (Ref(before), x))),
                Store(_, index, shown) as store,
                Store(kept, there, Ref(after)),
            ),
        ):
            ordered = step.ordered()
            if (zero, kept, before, after) != (carried, carried, old, new) or here != there or join not in JOINS:
                return None
            if len(ordered) != 1 or step.folds or program.operand[carried].role != "local":
                return None
            results = {cast(Ref(n, start.dtype), program.operand[store.operand].dtype): n for n in (old, new)}
            if shown not in results or any(isinstance(i, Expr) for i in index):
                return None
            (line,) = ordered
            count, offset = _whole(program, line)
            place = {line: symbol(LINE) - offset}
            value = cast(Ref(SUM, start.dtype), program.operand[store.operand].dtype)
            moved = tuple(substitute(i, place) for i in index if not isinstance(i, Expr))
            axes = tuple(a for a in step.axis_names if a != line)
            element = replace_axes(x, place)
            return Running(axes, count, element, start, join, results[shown] == old, Store(store.operand, moved, value))
    return None


def _whole(program: TileProgram, line: str) -> tuple[Extent, Extent]:
    """How long a line is, and where in it the last stage begins: behind the blocks of the stage before."""
    extent = program.axis[line].extent
    front = program.stages[1:-1]
    if not front or len(front[0].folds) != 1:
        return extent, 0
    blocks = [a for a in front[0].ordered() if a in program.axis]
    offset: Extent = program.axis[blocks[0]].extent * front[0].folds[0].extent if blocks else 0
    return extent + offset, offset


def _same(form: Running, front: Stage) -> bool:
    """Whether a stage of blocks sums what the last stage would sum one by one."""
    ordered = front.ordered()
    if len(ordered) != 1 or len(front.folds) != 1 or not isinstance(size := front.folds[0].extent, int):
        return False
    block, fold = symbol(ordered[0]) * size, front.folds[0].name
    element = replace_axes(form.x, {LINE: block + symbol(fold)})
    match front.body:
        case (
            Let(old, Load()),
            Fold(inner, some, (Prim("where", (Prim(order, (Index(e), Index(place))), chosen, other)),)),
            Fold(total, every, (x,)),
            Store(operand, index, Prim() | Ref() as shown),
            Store(_, _, Prim(join, (Ref(before), Ref(added)))),
        ):
            held = form.dtype
            upto = Prim(form.join, (Ref(old, held), Ref(inner, held)), held)
            at = tuple(substitute(i, {LINE: block + place}) for i in form.store.index if not isinstance(i, Expr))
            return (
                (some, every, join) == (JOINS[form.join], JOINS[form.join], form.join)
                and (order, str(e)) == ("lt" if form.exclusive else "le", fold)
                and (chosen, x, other) == (element, element, form.start)
                and (before, added) == (old, total)
                and shown == cast(upto, form.store.value.dtype)
                and (operand, index) == (form.store.operand, at)
            )
    return False


def emit_scan(ctx: Context) -> None:
    """Write all stages of a program for the current tile. BugError where it is none of running sums."""
    form = running(ctx.program)
    if form is None:
        raise BugError(f"{ctx.program.name}: the program has no running sums and cannot be scanned")
    w, point = ctx.writer, Point(ctx)
    kind = value_type(form.dtype)
    with w.block("", pinned=True):
        memory = ctx.merging(THREADS // WARP * max(form.dtype.itemsize, 4))
        join = w.name("join")
        refs = {n: n for n in "ab"}
        joined = evaluate(Prim(form.join, (Ref("a", form.dtype), Ref("b", form.dtype)), form.dtype), refs)
        w.line(f"const auto {join} = []({kind} a, {kind} b) -> {kind} {{ return {joined}; }};")
        with walk(point, [Span(a, *ctx.bounds(a)) for a in form.axes], "0", 1):
            load = point.element("load", [LINE], form.x)
            store = point.epilogue("store", [LINE], SUM, form.dtype, (form.store,))
            arguments = f"{kind}, {ITEMS}, {'true' if form.exclusive else 'false'}"
            count, start = ctx.slot(form.count), literal(form.dtype, form.start.value)
            w.line(f"fx_scan<{arguments}>({memory}, {count}, {start}, {load}, {store}, {join});")
