"""emit_nest: one stage with its points shared out among the threads of the block.

Templates: "points", a thread computes whole points; "warp", the lanes of a warp share the folds of a point; "block", all
threads share the folds of a point; "columns", lanes are points along the lane axis and the warps share their folds. Consecutive
threads take neighbours along the lane axis, or along the last fold axis. Points that must follow each other are a loop of the
thread, the warp or the block that computes them: what one stores the next one sees. The merge of a fold follows the same tree
whatever the grid is, so results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.ir.expr import TRANSCENDENTAL, Expr, Prim, Ref
from fusec.ir.expr import walk as parts_of
from fusec.kernels.cuda.abi import THREADS, WARP
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.fold import Accumulator
from fusec.kernels.cuda.vectors import Vectors, find_vectors, fold_vectors
from fusec.kernels.cuda.walk import Span, walk, walk_several
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Fold, Let, Stage, Statement

SHARES = {"warp": ("fx_lane()", WARP), "block": ("fx_thread()", THREADS), "columns": ("fx_warp()", THREADS // WARP)}
"""Template -> the first step of a fold that a thread takes, and how many there are from one to its next."""
FOLLOWING = {"warp": "fx_warp_barrier();", "block": "fx_barrier();"}
"""Template -> what stands between points that follow each other."""
LOADS = 4
"""Vectors that a thread should have under way: with 512 threads on a multiprocessor that is 32 KiB."""
MOST_WORK = 48
"""Operations of a body up to which it is written out for several points."""
TRANSCENDENTAL_WORK = 8


def emit_nest(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Write a stage for the current tile."""
    with ctx.writer.block("", pinned=True):
        _Nest(ctx, stage, tiling).emit()


class _Nest:
    """The loops of one stage."""

    def __init__(self, ctx: Context, stage: Stage, tiling: StageTiling) -> None:
        self.ctx, self.stage, self.w = ctx, stage, ctx.writer
        shares = stage.folds and not (stage.ordered() and tiling.template not in FOLLOWING)
        self.template = tiling.template if shares else "points"
        self.point = Point(ctx)
        self.point.changing = stage.scattered
        self.inner: list[Expr] = []
        self.lane = tiling.lane
        self.first = "fx_lane() == 0" if self.template == "warp" else "fx_thread() == 0"

    def emit(self) -> None:
        """Points first, folds inside."""
        ordered = self.stage.ordered()
        names = [a for a in self.stage.axis_names if a not in ordered]
        if self.lane in names and self.template in ("points", "columns"):
            names = [a for a in names if a != self.lane] + [self.lane]
        spans = [Span(a, *self.ctx.bounds(a)) for a in names]
        if self.template == "points":
            self._points(spans, ordered)
        elif self.template == "warp":
            with walk(self.point, spans, "fx_warp()", THREADS // WARP):
                self._ordered(list(ordered))
        elif self.template == "block" or not spans:
            with walk(self.point, spans, "0", 1):
                self._ordered(list(ordered))
        else:
            self._columns(spans)

    def _columns(self, spans: list[Span]) -> None:
        """Groups of neighbours, a lane each; lanes beyond the end repeat the first one and store nothing."""
        *outer, last = spans
        with walk(self.point, outer, "0", 1):
            group, name, there = (self.w.name(n) for n in ("group", f"{last.axis}_", "there"))
            header = f"for (fx_int {group} = {last.low}; {group} < {last.high}; {group} += {WARP})"
            with self.w.block(header, guard=f"{last.low} < {last.high}"):
                self.w.line(f"const bool {there} = {group} + fx_lane() < {last.high};")
                self.w.line(f"const fx_int {name} = {there} ? {group} + fx_lane() : {group};")
                self.point.place(last.axis, name)
                self.first = f"{there} && fx_warp() == 0"
                self._body(self.stage.body)

    def _points(self, spans: list[Span], ordered: Sequence[str]) -> None:
        vectors = None if ordered or not spans else find_vectors(self.point, self.stage, spans[-1].axis)
        if vectors is not None:
            spans = self._vectors(spans, vectors)
        with walk(self.point, spans, "fx_thread()", THREADS):
            self._ordered(list(ordered))

    def _vectors(self, spans: list[Span], vectors: Vectors) -> list[Span]:
        """The points that are moved as vectors; what is left of the spans."""
        *outer, last = spans
        border = self._border(last, vectors)
        groups = Span(last.axis, last.low, border, vectors.width)
        copies = self._copies(vectors)
        if copies == 1:
            with walk(self.point, [*outer, groups], "fx_thread()", THREADS) as names:
                self._lanes(last.axis, names[last.axis], vectors, self.point.depth)
            return [*outer, Span(last.axis, border, last.high)]
        main = self.point
        with walk_several(main, [*outer, groups], "fx_thread()", THREADS, copies) as places:
            depth = main.depth
            for place in places:
                self.point = Point(self.ctx)
                for axis, name in place.names.items():
                    self.point.place(axis, name)
                with self.w.block(f"if ({place.there})" if place.there else "", late=True):
                    self._lanes(last.axis, place.names[last.axis], vectors, depth)
        self.point = main
        return [*outer, Span(last.axis, border, last.high)]

    def _border(self, span: Span, vectors: Vectors) -> str:
        """The name of the index up to which a span is taken in vectors: its start where they are not possible."""
        border = self.w.name("border")
        whole = f"{span.low} + ({span.high} - {span.low}) / {vectors.width} * {vectors.width}"
        ready = " && ".join(vectors.conditions(self.point, span.low)) or "true"
        self.w.line(f"const fx_int {border} = {ready} ? {whole} : {span.low};")
        return border

    def _lanes(self, axis: str, base: str, vectors: Vectors, outside: int) -> None:
        with self.point.lanes(axis, base, vectors.width, vectors.operands, outside):
            self._body(self.stage.body)

    def _copies(self, vectors: Vectors) -> int:
        """How many vectors of points a thread takes at a time: enough loads under way, of short bodies."""
        work = sum(TRANSCENDENTAL_WORK if x.name in TRANSCENDENTAL else 1 for x in self._primitives())
        loads = vectors.moved - len(self.stage.stores)
        return 1 if work > MOST_WORK or loads < 1 else max(1, LOADS // loads)

    def _primitives(self) -> list[Prim]:
        return [x for e in self.stage.expressions() for x in parts_of(e) if isinstance(x, Prim)]

    def _ordered(self, axes: list[str]) -> None:
        """Loops over axes whose points must follow each other, then the point."""
        if not axes:
            self._body(self.stage.body)
            return
        with self.point.loop(axes[0], *self.ctx.bounds(axes[0])):
            self._ordered(axes[1:])
            if len(axes) == 1 and self.template in FOLLOWING:
                self.w.line(FOLLOWING[self.template])

    # ---- one point of the stage axes

    def _body(self, body: Sequence[Statement]) -> None:
        waiting = list(body)
        self.inner.clear()
        while waiting:
            group, waiting = self._next_folds(waiting)
            if group:
                self._fold(group)
                continue
            if self.template == "points":
                self.point.run(waiting)
                return
            with self.w.block(f"if ({self.first})", pinned=True):
                self.point.run(waiting)
            return

    def _next_folds(self, body: list[Statement]) -> tuple[list[Fold], list[Statement]]:
        """The folds that can run in one pass, after the lets before them; those that read their results come later."""
        group: list[Fold] = []
        later: list[Statement] = []
        names: set[str] = set()
        folds = any(isinstance(s, Fold) for s in body)
        for s in body:
            if folds and isinstance(s, Let) and not _mentions(s.value, names):
                self._define(s, before=not group)
            elif isinstance(s, Fold) and not any(_mentions(a, names) for a in s.args):
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
            self.point.value(e)

    def _fold(self, group: list[Fold]) -> None:
        folds = [Accumulator(self.point, f) for f in group]
        for f in folds:
            f.start()
        if self.template == "points":
            self._loops([a.name for a in self.stage.folds], folds)
        else:
            self._shared_fold(folds)
            for f in folds:
                f.merge(self.template)
        for f in folds:
            f.finish()
        self.inner.clear()

    def _shared_fold(self, folds: list[Accumulator]) -> None:
        """The folds of a point, dealt out to the threads that share it: vectors, then what is left."""
        spans = [Span(a.name, *self.ctx.bounds(a.name)) for a in self.stage.folds]
        start, step = SHARES[self.template]
        *outer, last = spans
        terms = [e for f in folds for e in f.terms]
        vectors = None if self.template == "columns" else fold_vectors(self.point, terms, last.axis)
        if vectors is not None:
            border = self._border(last, vectors)
            groups = Span(last.axis, last.low, border, vectors.width)
            with walk(self.point, [*outer, groups], start, step) as names:
                base = names[last.axis]
                with self.point.lanes(last.axis, base, vectors.width, vectors.operands, self.point.depth):
                    self._step(folds)
            spans = [*outer, Span(last.axis, border, last.high)]
        with walk(self.point, spans, start, step):
            self._step(folds)

    def _loops(self, axes: list[str], folds: list[Accumulator]) -> None:
        if not axes:
            self._step(folds)
            return
        with self.point.loop(axes[0], *self.ctx.bounds(axes[0])):
            self._loops(axes[1:], folds)

    def _step(self, folds: list[Accumulator]) -> None:
        for e in self.inner:
            self.point.value(e)
        for f in folds:
            f.step()


def _mentions(e: Expr, names: set[str]) -> bool:
    return any(isinstance(x, Ref) and x.name in names for x in parts_of(e))
