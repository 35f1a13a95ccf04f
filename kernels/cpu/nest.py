"""emit_nest: one stage as a loop nest, vectorised along a stage axis (lanes are points) or a fold axis (lanes share a fold).

Loops run in the stage's order with the lane axis innermost, fold loops inside. Along the lane there are full vectors, a
few at a time, and then partial ones through masks: so an element's value depends neither on where in a row it lies nor on
how the tiles are split into runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.errors import BugError
from fusec.ir.expr import TRANSCENDENTAL, Expr, Prim, Ref, walk
from fusec.kernels.cpu.arg_extremes import in_two_passes
from fusec.kernels.cpu.blocks import Body, one_point, side_by_side
from fusec.kernels.cpu.builder import Value, constant
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.fold import Accumulator
from fusec.kernels.cpu.interior import interior
from fusec.kernels.cpu.joined import lent_by_outputs, stores_inside
from fusec.kernels.cpu.merged import split_merged
from fusec.kernels.cpu.powers import BELOW, BESIDE, bound_powers
from fusec.kernels.cpu.ranges import Ranges
from fusec.kernels.cpu.short_rows import short_rows
from fusec.kernels.cpu.squares import turned_axis
from fusec.kernels.cpu.window_rows import RowsBelow, rows_below
from fusec.kernels.cpu.windows import LARGEST, Range, windows
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Fold, Let, Stage, Statement

CHEAP = 12
"""Up to this many operations a body is short enough for loop overhead and the latency of additions to show."""
WIDE = 2
"""Registers per vector of a longer body. Its operations wait for each other, so several registers side by side keep the
units busy: a chain of three sigmoids runs in half the time with 2 x 2 registers (AVX2, Zen: 6.5 against 3.3 ms)."""
BROAD = 4
"""Stores from which on a body has enough independent work in one vector; more would only not fit into registers."""


def emit_nest(ctx: Context, stage: Stage, tiling: StageTiling, past_end: bool = False, turned: str = "") -> None:
    """Emit a stage at the builder's position, for the current tile.

    `past_end`, of 64-bit elements: lanes run along the rows that their axis is split into (merged.py), and the last vector of
    each may store past its end, where what belongs there is stored later. `turned` names the axis along which what is loaded
    is contiguous (squares.py), where that is no operand of the program.
    """
    Nest(ctx, stage, tiling, past_end, turned).emit()


COLUMNS, REST = 8, 2
"""Vectors of columns that are folded side by side, and those of what is left: a row far from the next one is read by whole
lines, four of them at a time (0.4 of the time of two lines for 64 rows of 16384 floats; AVX2, Zen)."""


class Nest:
    """One stage being emitted."""

    def __init__(
        self, ctx: Context, stage: Stage, tiling: StageTiling, past_end: bool = False, turned: str = ""
    ) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.lane = tiling.lane
        self.past_end = past_end
        self.lane_folds = self.lane in [a.name for a in stage.folds]
        if self.lane and not self.lane_folds and self.lane not in stage.axis_names:
            raise BugError(f"{ctx.program.name}: a stage has no axis {self.lane!r} to vectorise")
        keep = "" if past_end else self.lane
        self.stage, splits, new = split_merged(in_two_passes(stage), ctx.program.axis, keep)
        self.lane = next((s.column for s in splits if s.axis == self.lane), self.lane)
        self.stage = bound_powers(ctx.program, self.stage)
        self.broad = len(stage.stores) >= BROAD
        self.cheap = self._cost() <= CHEAP or self.broad
        self.rows = short_rows(ctx.program, self.stage, self.lane) if tiling.rows == 1 and not past_end else None
        apart = {self.lane}
        if self.rows is not None:
            apart = {self.rows.outer, self.rows.inner}
            self.lane = self.rows.lane
        self.lanes = ctx.isa.lanes * (1 if self.cheap or tiling.rows > 1 else WIDE) if tiling.lane else 0
        if past_end:
            self.lanes = ctx.isa.lanes // 2
        self.point = Point(ctx, self.lane, self.lanes)
        self.point.rows = self.rows
        self.point.extents |= new
        self.point.changing = stage.scattered
        self.windows = windows(ctx.program, self.stage, self.point.extents, self.lane)
        self.body = one_point(self.stage, self.windows, self._copies())
        self.axes = [a for a in self.stage.axis_names if a not in apart]
        self.turned = turned
        if not turned and tiling.rows > 1:
            self.turned = turned_axis(ctx.program, self.stage, self.lane)
        if self.turned in [s.row for s in splits]:
            self.turned = ""
        if self.turned:
            self.axes.sort(key=lambda a: a == self.turned)  # points are independent: any order of loops will do
        self.at_once = tiling.rows
        self.several = self._several(tiling.rows)
        self.below: list[RowsBelow] = []
        if self.several is not None and self.windows is not None:
            self.below = rows_below(self.point, self.stage, self.axes[-1], tiling.rows)
        self.stores = stores_inside(self.stage)
        self.ranges = Ranges(self.point, splits)
        self.inner: list[Expr] = []
        """Lets of the folds at hand that are computed inside their loops."""

    def _cost(self) -> int:
        """Operations of one point, roughly."""
        parts = (x for e in self.stage.expressions() for x in walk(e) if isinstance(x, Prim))
        return sum(20 if x.name in TRANSCENDENTAL or x.name in (BELOW, BESIDE) else 1 for x in parts)

    def _copies(self) -> int:
        """How many vectors are computed side by side."""
        if self.rows is not None:
            return max(2, self.rows.vectors(self.lanes))
        if not self.lane or self.broad:
            return 1
        if not self.stage.folds or not self.cheap:
            return 2
        return COLUMNS if self._sums_columns() else 4

    def _sums_columns(self) -> bool:
        """Whether points side by side are folded each for itself, with nothing else to keep in registers."""
        folds = [s for s in self.stage.body if isinstance(s, Fold)]
        return (
            not self.lane_folds
            and self.windows is None
            and len(folds) == 1
            and folds[0].monoid in ("sum", "max", "min")
        )

    def _several(self, count: int) -> tuple[Body, Range | None] | None:
        """The body for `count` points of the innermost scalar axis."""
        if count < 2 or not self.axes or not self.lane or self.lane_folds or not (self.stage.folds or self.turned):
            return None
        return side_by_side(self.stage, self.axes[-1], count, self.windows)

    def emit(self) -> None:
        """All loops over stage axes, and the body inside."""
        self._loops(self.axes, self._lane_loop if self.lane and not self.lane_folds else self._body)

    def _loops(self, axes: Sequence[str], inside: Callable[[], None]) -> None:
        if not axes:
            self.point.assume(self.body.inside)
            inside()
            return
        low, high = self.ranges.of(axes[0])
        if len(axes) == 1 and self.several is not None:
            self._blocks(axes[0], low, high, inside)
            return
        with self.b.loop(low, high, hint=axes[0]) as loop, self.point.inside(axes[0], loop):
            self._loops(axes[1:], inside)

    def _blocks(self, axis: str, low: Value, high: Value, inside: Callable[[], None]) -> None:
        """Several points at once wherever their windows are inside, one at a time elsewhere."""
        assert self.several is not None
        b, (block, interior), one = self.b, self.several, self.body
        count = b.i64(self.at_once)
        with b.loop(low, high, hint=axis) as loop, self.point.inside(axis, loop):
            first, last = interior or (0, LARGEST)
            end = b.smin(high, self.point.extent(last)) if interior else high
            fits = b.compare("sle", b.add(loop.index, count), end)
            if interior:
                fits = b.op("and", fits, b.compare("sge", loop.index, self.point.extent(first)))

            def run(body: Body) -> None:
                self.body = body
                self.point.assume(body.inside, body is block, self.turned if body is block else "")
                inside()

            b.either(fits, lambda: run(block), lambda: run(one))
            loop.step = b.select(fits, count, b.i64(1))

    def _lane_loop(self) -> None:
        """Independent lanes: full vectors, then partial ones."""

        def body(_: Sequence[Value]) -> list[Value]:
            self._body()
            return []

        inner = None if self.rows or self.past_end or self.point.turned else self._interior()
        if inner is None:
            self.lane_region([], body, body)
        else:
            self._two_ways(*inner)

    def _interior(self) -> tuple[Body, Range] | None:
        """The body for the interior of the lane axis, and where that is, if it differs from the body elsewhere."""
        return None if self.stores else interior(self.ctx.program, self.body, self.lane, self.point.extents)

    def _two_ways(self, inner: Body, where: Range) -> None:
        """The loop along the lane axis where vectors in its interior run another body: several of them at a time; others go
        one by one. The last one ends where the row does, and computes some points again, which stays inside more often than a
        partial one and needs no masks."""
        b, point, lanes, outer = self.b, self.point, self.lanes, self.body
        low, high = self._lane_bounds()
        size = b.sub(high, low)
        again = b.compare("sge", size, b.i64(lanes)) if self._may_repeat() else constant("i1", False)

        def run(body: Body, bases: Sequence[Value], mask: Value | None = None, left: Value | None = None) -> None:
            self.body = body
            point.assume(body.inside, point.shares_pointers, point.turned)
            point.at_lanes(bases, mask, left)
            self._body()

        def region() -> list[Value]:
            before, loops = b.block, b.new_block("lanes")
            b.jump(loops)
            b.enter(loops)
            with point.inside_lanes(before):
                first, last = (point.extent(x) for x in where)
                whole = b.select(again, high, b.add(low, self._multiple(size, lanes)))
                final, step = b.sub(whole, b.i64(lanes)), lanes * inner.copies
                end = b.smin(whole, last)
                with b.loop(low, whole, lanes, hint="full") as loop:
                    base = b.smin(loop.index, final)
                    bases = [b.add(base, b.i64(k * lanes)) for k in range(inner.copies)]
                    below = b.compare("sle", b.add(base, b.i64(step)), end)
                    fits = b.op("and", below, b.compare("sge", base, first))
                    b.either(fits, lambda: run(inner, bases), lambda: run(outer, bases[:1]))
                    loop.step = b.select(fits, b.i64(step), b.i64(lanes))
                with b.loop(whole, high, lanes, hint="part") as rest:
                    left = b.sub(high, rest.index)
                    run(outer, [rest.index], self._first_lanes(left), left)
            return []

        b.when(b.compare("slt", low, high), region, [])

    def _may_repeat(self) -> bool:
        """Whether a point may be computed twice: it reads nothing that the stage writes."""
        lent = lent_by_outputs(self.ctx.program)
        read = {lent.get(x.operand, x.operand) for x in self.stage.loads()}
        return not self.stage.scattered and read.isdisjoint(s.operand for s in self.stage.stores)

    def _first_lanes(self, count: Value) -> Value:
        """A mask of so many lanes."""
        b, lanes = self.b, self.lanes
        return b.compare("slt", b.iota(lanes, "i32"), b.splat(b.convert("trunc", count, "i32"), lanes))

    def lane_region(
        self,
        carried: Sequence[Value],
        full: Callable[[Sequence[Value]], list[Value]],
        partial: Callable[[Sequence[Value]], list[Value]],
    ) -> list[Value]:
        """The loops along the lane axis, threading carried values; nothing runs where the axis is empty."""
        b, point, lanes = self.b, self.point, self.lanes
        low, high = self._lane_bounds()

        def region() -> list[Value]:
            before, loops = b.block, b.new_block("lanes")
            b.jump(loops)
            b.enter(loops)
            with point.inside_lanes(before):
                if self.past_end:
                    with b.loop(low, high, lanes, carried, hint="full") as loop:
                        point.at_lanes([loop.index])
                        loop.next = full(loop.carried)
                    return list(loop.results)
                copies = self.body.copies
                border, states = low, list(carried)
                for beside in (copies, REST) if copies == COLUMNS else (copies,):
                    start, step = border, lanes * beside
                    border = b.add(low, self._multiple(b.sub(high, low), step))
                    with b.loop(start, border, step, states, hint="full") as loop:
                        point.at_lanes([b.add(loop.index, b.i64(k * lanes)) for k in range(beside)])
                        loop.next = full(loop.carried)
                    states = list(loop.results)
                with b.loop(border, high, lanes, states, hint="part") as rest:
                    left = b.sub(high, rest.index)
                    point.at_lanes([rest.index], self._first_lanes(left), left)
                    rest.next = partial(rest.carried)
            return list(rest.results)

        return b.when(b.compare("slt", low, high), region, carried)

    def _multiple(self, count: Value, step: int) -> Value:
        """The greatest multiple of `step` that is no more than `count`."""
        if step & (step - 1) == 0:
            return self.b.op("and", count, self.b.i64(-step))
        return self.b.mul(self.b.op("udiv", count, self.b.i64(step)), self.b.i64(step))

    def _lane_bounds(self) -> tuple[Value, Value]:
        if self.rows is None:
            return self.ranges.of(self.lane)
        low, high = (self.b.mul(x, self.b.i64(self.rows.size)) for x in self.ctx.bounds(self.rows.outer))
        return low, high

    # ---- one point of the stage axes (or one group of lanes)

    def _body(self) -> None:
        if self.several is not None and self.body is self.several[0] and self.point.mask is None:
            for rows in self.below:
                rows.fetch(self.point)
        waiting: list[Statement] = [s for s in self.body.statements if s not in self.stores]
        while waiting:
            group, waiting = self._next_folds(waiting)
            if group:
                self._run_folds(group)
                continue
            self.point.run(waiting)
            return

    def _next_folds(self, body: list[Statement]) -> tuple[list[Fold], list[Statement]]:
        """The folds that can run in one pass, after the lets before them; those that read their results come later."""
        group: list[Fold] = []
        later: list[Statement] = []
        names: set[str] = set()
        folds = any(isinstance(s, Fold) for s in body)
        for s in body:
            if folds and isinstance(s, Let) and not self._mentions(s.value, names):
                self._define(s, before=not group)
            elif isinstance(s, Fold) and not any(self._mentions(a, names) for a in s.args):
                group.append(s)
                names.add(s.name)
            else:
                later.append(s)
                if isinstance(s, Let | Fold):
                    names.add(s.name)
        return group, later

    def _define(self, let: Let, before: bool) -> None:
        """A let that folds may need: computed inside their loops if it mentions a fold axis, else ahead of them."""
        e = self.point.define(let)
        if self.point.interner.symbols(e) & {a.name for a in self.stage.folds}:
            self.inner.append(e)
        elif before:
            self.point.everywhere(e)

    def _mentions(self, e: Expr, names: set[str]) -> bool:
        return any(isinstance(x, Ref) and x.name in names for x in walk(e))

    def _run_folds(self, group: list[Fold]) -> None:
        folds = [Accumulator(self.point, f, self._shared(f), self.body.terms.get(f.name)) for f in group]
        if self.lane_folds:
            self._run_horizontal(folds)
        else:
            self._run_vertical(folds)
        self.inner.clear()

    def _shared(self, f: Fold) -> bool:
        """Whether a fold's states are scalars: nothing differs between lanes."""
        if not self.lane:
            return True
        symbols = (self.point.interner.symbols(self.point.intern(a)) for a in f.args)
        return not self.lane_folds and not any(self.lane in s for s in symbols)

    def _run_vertical(self, folds: list[Accumulator]) -> None:
        """Lanes (if any) are points: each keeps its own state."""
        copies = max(1, len(self.point.bases))
        start = [v for f in folds for v in f.start(copies)]

        def innermost(states: Sequence[Value]) -> list[Value]:
            return self._step(folds, states, copies)

        end = self._fold_loops(self.body.folds, start, innermost)
        for f, states in _deal(folds, end, copies):
            self.point.bind(f.fold.name, *f.finish(states))

    def _run_horizontal(self, folds: list[Accumulator]) -> None:
        """Lanes share the fold: several vectors of states, merged when all is read."""
        start = [v for f in folds for v in f.start(self.body.copies)]

        def full(states: Sequence[Value]) -> list[Value]:
            return self._step(folds, states, self.body.copies)

        def partial(states: Sequence[Value]) -> list[Value]:
            first = [v for f, own in _deal(folds, states, self.body.copies) for v in own[: f.width]]
            stepped = iter(self._step(folds, first, 1))
            out: list[Value] = []
            for f, own in _deal(folds, states, self.body.copies):
                out += [next(stepped) for _ in range(f.width)] + list(own[f.width :])
            return out

        outer = [a for a in self.body.folds if a != self.lane]
        end = self._fold_loops(outer, start, lambda states: self.lane_region(states, full, partial))
        for f, states in _deal(folds, end, self.body.copies):
            self.point.bind(f.fold.name, *f.finish(f.merge(states)))

    def _fold_loops(
        self, axes: Sequence[str], states: Sequence[Value], inside: Callable[[Sequence[Value]], list[Value]]
    ) -> list[Value]:
        if not axes:
            return inside(states)
        low, high = self._fold_bounds(axes[0])
        with self.b.loop(low, high, 1, states, hint=axes[0]) as loop, self.point.inside(axes[0], loop):
            loop.next = self._fold_loops(axes[1:], loop.carried, inside)
        return list(loop.results)

    def _fold_bounds(self, axis: str) -> tuple[Value, Value]:
        part = self.body.bounds.get(axis)
        if part is None:
            return self.ctx.bounds(axis)
        return self.point.extent(part[0]), self.point.extent(part[1])

    def _step(self, folds: list[Accumulator], states: Sequence[Value], copies: int) -> list[Value]:
        for e in self.inner:  # in their order, so that no expression is evaluated deeper than one let
            self.point.everywhere(e)
        self.point.run(self.stores)
        out: list[Value] = []
        for f, own in _deal(folds, states, copies):
            out += f.step(own)
        return out


def _deal(folds: list[Accumulator], states: Sequence[Value], copies: int) -> list[tuple[Accumulator, list[Value]]]:
    out, at = [], 0
    for f in folds:
        n = f.width * (1 if f.shared else copies)
        out.append((f, list(states[at : at + n])))
        at += n
    return out
