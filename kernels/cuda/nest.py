"""emit_nest: one stage with its points shared out among the threads of the block.

Templates: "points", a thread computes whole points; "warp", the lanes of a warp share the folds of a point; "block", all
threads share the folds of a point. Consecutive threads take neighbours along the lane axis, or along the last fold axis. The
merge of a fold follows the same tree whatever the grid is, so results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.ir.expr import Expr, Ref
from fusec.ir.expr import walk as parts_of
from fusec.kernels.cuda.abi import THREADS, WARP
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.fold import Accumulator
from fusec.kernels.cuda.vectors import Vectors, find_vectors
from fusec.kernels.cuda.walk import Span, walk
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Fold, Let, Stage, Statement


def emit_nest(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Write a stage for the current tile."""
    with ctx.writer.block("", pinned=True):
        _Nest(ctx, stage, tiling).emit()


class _Nest:
    """The loops of one stage."""

    def __init__(self, ctx: Context, stage: Stage, tiling: StageTiling) -> None:
        self.ctx, self.stage, self.w = ctx, stage, ctx.writer
        self.template = tiling.template if stage.folds and not stage.ordered() else "points"
        self.point = Point(ctx)
        self.point.changing = stage.scattered
        self.inner: list[Expr] = []
        self.lane = tiling.lane

    def emit(self) -> None:
        """Points first, folds inside."""
        ordered = self.stage.ordered()
        names = [a for a in self.stage.axis_names if a not in ordered]
        if self.lane in names and self.template == "points":
            names = [a for a in names if a != self.lane] + [self.lane]
        spans = [Span(a, *self.ctx.bounds(a)) for a in names]
        if self.template == "points":
            self._points(spans, ordered)
        elif self.template == "warp":
            with walk(self.point, spans, "fx_warp()", THREADS // WARP):
                self._body(self.stage.body)
        else:
            with walk(self.point, spans, "0", 1):
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
        border = self.w.name("border")
        whole = f"{last.low} + ({last.high} - {last.low}) / {vectors.width} * {vectors.width}"
        ready = " && ".join(vectors.conditions(self.point, last.low)) or "true"
        self.w.line(f"const fx_int {border} = {ready} ? {whole} : {last.low};")
        groups = Span(last.axis, last.low, border, vectors.width)
        with (
            walk(self.point, [*outer, groups], "fx_thread()", THREADS) as names,
            self.point.lanes(last.axis, names[last.axis], vectors.width, vectors.operands),
        ):
            self._body(self.stage.body)
        return [*outer, Span(last.axis, border, last.high)]

    def _ordered(self, axes: list[str]) -> None:
        """Loops over axes whose points must follow each other, then the point."""
        if not axes:
            self._body(self.stage.body)
            return
        with self.point.loop(axes[0], *self.ctx.bounds(axes[0])):
            self._ordered(axes[1:])

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
            first = "fx_lane()" if self.template == "warp" else "fx_thread()"
            with self.w.block(f"if ({first} == 0)", pinned=True):
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
            spans = [Span(a.name, *self.ctx.bounds(a.name)) for a in self.stage.folds]
            start, step = ("fx_lane()", WARP) if self.template == "warp" else ("fx_thread()", THREADS)
            with walk(self.point, spans, start, step):
                self._step(folds)
            for f in folds:
                f.merge(block=self.template == "block")
        for f in folds:
            f.finish()
        self.inner.clear()

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
