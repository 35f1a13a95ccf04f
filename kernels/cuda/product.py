"""emit_product: a contraction stage as a call of one of the product templates in device/product*.cuh.

The text holds three things: A and B as functions of their row (or column) that give functions of the fold, and what becomes of
a sum. Templates, by `StageTiling.template`: "simt" (every thread multiplies), "mma" and "wgmma" (tensor cores), "gemv" (few
rows: B streams through once). `rows` and `vectors` of the tiling are the block's tile.
"""

from __future__ import annotations

from contextlib import ExitStack
from weakref import WeakKeyDictionary

from fusec.errors import BugError
from fusec.ir.expr import Ref, cast
from fusec.kernels.cpu.contract_form import Contraction, contraction
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.product_shapes import SIMT, shape_of
from fusec.kernels.cuda.product_source import Source, find_source
from fusec.kernels.cuda.scalar import value_type
from fusec.kernels.cuda.vectors import find_vectors
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Let, Stage, Statement

TEMPLATES = frozenset(["simt", "mma", "wgmma", "gemv"])
ALIGNMENT = 1024
"""Of the shared memory of a product: where the pattern of a 128-byte swizzle begins (PTX ISA, wgmma, "Matrix Descriptor
Format")."""
SUM = "@sum"
"""How bodies call the sum that a template hands them."""
_panels: WeakKeyDictionary[Context, str] = WeakKeyDictionary()


def emit_product(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Write a stage for the current tile. BugError where it is no contraction."""
    form = contraction(stage)
    if form is None:
        raise BugError(f"{ctx.program.name}: a stage with template {tiling.template!r} is no contraction")
    with ctx.writer.block("", pinned=True):
        Product(ctx, form, tiling).emit()


class Product:
    """The text of one product. `simt` are the block tiles of threads that multiply themselves."""

    simt = SIMT

    def __init__(self, ctx: Context, form: Contraction, tiling: StageTiling) -> None:
        self.ctx, self.form, self.w = ctx, form, ctx.writer
        self.tiling = tiling
        self.point = Point(ctx)
        self.shape = shape_of(form, tiling, self.simt)

    def emit(self) -> None:
        """Loops over the batch, then the product."""
        shared = _shared(self.ctx)
        with ExitStack() as stack:
            for axis in self.form.batch:
                stack.enter_context(self.point.loop(axis, *self.ctx.bounds(axis)))
            rows = self._range(self.form.m)
            columns = self._range(self.form.n)
            fold = self._fold()
            left = find_source(self.point, self.form, self.form.left, self.form.m, self.shape.left, self.shape.along)
            right = find_source(self.point, self.form, self.form.right, self.form.n, self.shape.right, self.shape.along)
            a, b = self._source(left, "left"), self._source(right, "right")
            done = self._done()
            call = f"fx_product_{self.tiling.template}<{', '.join(map(str, self.shape.arguments))}>"
            self.w.line(f"{call}({shared}, {rows}, {columns}, {fold}, {a}, {b}, {done});")

    def _range(self, axis: str) -> str:
        if not axis:
            return "fx_range{0, 1}"
        low, high = self.ctx.bounds(axis)
        return f"fx_range{{{low}, {high}}}"

    def _fold(self) -> str:
        taps = len(self.form.taps)
        extents = ", ".join(self.ctx.slot(a.extent) for a in self.form.folds)
        name = self.w.name("fold")
        self.w.line(f"const fx_fold<{taps}> {name} = {{{{{extents}}}, {{}}}};")
        return name

    # ---- A and B

    def _source(self, source: Source, stem: str) -> str:
        """Write the functions of an operand; the expression that makes its source."""
        outer = self.w.name("i")
        function, k = self.w.name(stem), self.w.name("k")
        with self.w.function(f"const auto {function} = [&](fx_int {outer})"):
            if source.outer:
                self.point.place(source.outer, outer)
            with self.w.function(f"return [=](const auto& fold, fx_int {k}) -> {source.result}"):
                for i, tap in enumerate(self.form.taps):
                    self.point.place(tap.name, f"fold.at[{i}]")
                self.point.place(self.form.k.name, k)
                self.w.line(f"return {source.value()};")
        return source.make(function)

    # ---- what becomes of a sum

    def _done(self) -> str:
        """The epilogue for single elements, and for vectors along the columns where these lie side by side."""
        form, point = self.form, self.point
        axes = (*form.batch, *((form.m,) if form.m else ()), form.n)
        body = (Let(form.fold, cast(Ref(SUM, form.dtype), form.result)), *form.epilogue)
        one = self._epilogue("1", body, frozenset())
        vectors = find_vectors(point, Stage(axes, (), body), form.n)
        if vectors is None:
            return f"fx_each_sum({one})"
        ready = " && ".join(vectors.conditions(point, self.ctx.bounds(form.n)[0])) or "true"
        many = self._epilogue(str(vectors.width), body, vectors.operands)
        return f"fx_vector_sums<{vectors.width}>({one}, {many}, {ready})"

    def _epilogue(self, width: str, body: tuple[Statement, ...], aligned: frozenset[str]) -> str:
        form, point = self.form, self.point
        function, m, n, x = (self.w.name(s) for s in ("done", "m", "n", "sum"))
        type_ = value_type(form.dtype)
        if aligned:
            type_ = f"const fx_vector<{type_}, {width}>&"
        with self.w.function(f"const auto {function} = [&](fx_int {m}, fx_int {n}, {type_} {x}) -> void"):
            if form.m:
                point.place(form.m, m)
            if not aligned:
                point.place(form.n, n)
                point.bind(SUM, x)
                point.run(body)
            else:
                with point.lanes(form.n, n, int(width), aligned):
                    if point.lane is None:
                        raise BugError("lanes have a name")
                    point.bind(SUM, f"{x}.at[{point.lane.name}]")
                    point.run(body)
        return function


def _shared(ctx: Context) -> str:
    """Shared memory for the stages of A and B; the products of a kernel take it in turn."""
    found = _panels.get(ctx)
    if found is None:
        size = 0
        for stage, tiling in zip(ctx.program.stages, ctx.kernel.tiling.stages, strict=True):
            form = contraction(stage) if tiling.template in TEMPLATES else None
            if form is not None:
                size = max(size, shape_of(form, tiling).shared)
        found = _panels[ctx] = ctx.shared(size, ALIGNMENT)
    return found
