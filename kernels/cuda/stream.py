"""emit_stream: attention with the positions going by in blocks, so that scores never leave shared memory.

Loop order: batch axes; blocks of positions. The scores of a tile of rows and a block come from one product template, get what
the program does to them (scale, mask) and become powers of e, a warp per row; another product multiplies them with the values
and adds to what earlier blocks gave, scaled down where the largest score of a row has grown. Blocks that a causal mask hides
from all rows of the tile are not computed. Where the values are 16-bit floats, so are the powers that they are multiplied
with; their sum is not rounded.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from fusec.errors import BugError
from fusec.ir.dim import Extent, substitute, symbol
from fusec.ir.expr import Ref, cast
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import Contraction
from fusec.kernels.cpu.stream_form import Attention, after_factor, attention
from fusec.kernels.cuda.context import Context, Storage
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.product import ALIGNMENT, SUM, Product
from fusec.kernels.cuda.product_shapes import NARROW, STREAMED, tensor_dtype, unwidened
from fusec.kernels.cuda.product_source import Source, find_source
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Let, TileProgram

BLOCK = 128
"""Positions that go by at once."""
PITCH = BLOCK + 4
"""Floats from one row's scores to the next: rows begin in different banks."""
COLUMNS = 64
"""Of the block tiles of both products."""
ROWS = (32, 64)
SUM_BYTES = 32 << 10
"""Sums of a tile that may lie in shared memory; larger ones, and those of unknown size, lie in scratch memory."""
_BLOCK, _LAST = "stream_block", "stream_last"


def products(
    program: TileProgram, rows: int
) -> tuple[Attention, tuple[Contraction, ...], tuple[StageTiling, ...]] | None:
    """The form, its two products and their tilings for tiles of some rows; None where the program cannot be streamed."""
    form = attention(program)
    if form is None or form.scores.dtype is not DType.F32 or rows not in ROWS:
        return None
    kind = unwidened(form.values.right)
    powers = cast(cast(form.values.left, kind), DType.F32) if kind in NARROW else form.values.left
    both = form.scores, replace(form.values, left=powers)
    return form, both, tuple(StageTiling(_engine(f), f.n, rows, COLUMNS) for f in both)


def _engine(form: Contraction) -> str:
    return "mma" if tensor_dtype(form) in NARROW else "simt"


def emit_stream(ctx: Context, tiling: StageTiling) -> None:
    """Write all stages of a program for the current tile. BugError where it is no attention."""
    found = products(ctx.program, tiling.rows)
    if found is None:
        raise BugError(f"{ctx.program.name}: the program is no attention and cannot be streamed")
    form, both, tilings = found
    with ctx.writer.block("", pinned=True):
        _Stream(ctx, form, tiling.rows, Part(ctx, both[0], tilings[0]), Part(ctx, both[1], tilings[1])).emit()


class Part(Product):
    """A product of a block of positions; its columns, its fold and what becomes of its sums are told."""

    simt = STREAMED
    base = ""
    """What the index of the fold counts from, where that is not 0."""

    def write(self, shared: str, rows: str, columns: str, steps: str, done: str) -> None:
        """The call of the template."""
        left = find_source(self.point, self.form, self.form.left, self.form.m, self.shape.left)
        right = find_source(self.point, self.form, self.form.right, self.form.n, self.shape.right)
        a, b = self.source(left, "left"), self.source(right, "right")
        call = f"fx_product_{self.tiling.template}<{', '.join(map(str, self.shape.arguments))}>"
        self.w.line(f"{call}({shared}, {rows}, {columns}, fx_fold<0>{{{{{steps}}}, {{}}}}, {a}, {b}, {done});")

    def source(self, source: Source, stem: str) -> str:
        """The functions of an operand."""
        outer, k = self.w.name("i"), self.w.name("k")
        function = self.w.name(stem)
        with self.w.function(f"const auto {function} = [&](fx_int {outer})"):
            self.point.place(source.outer, outer)
            with self.w.function(f"return [=](const auto&, fx_int {k}) -> {source.result}"):
                self.point.place(self.form.k.name, f"({self.base} + {k})" if self.base else k)
                self.w.line(f"return {source.value()};")
        return source.make(function)

    def epilogue(self) -> str:
        """What the program does to a sum at (row, column), as the name of a function."""
        form = self.form
        body = (Let(form.fold, cast(Ref(SUM, form.dtype), form.result)), *form.epilogue)
        return self.point.epilogue("done", (form.m, form.n), SUM, form.dtype, body)


class _Stream:
    """One attention being written."""

    def __init__(self, ctx: Context, form: Attention, rows: int, scores: Part, values: Part) -> None:
        self.ctx, self.w, self.form, self.rows = ctx, ctx.writer, form, rows
        self.scores, self.values = scores, values
        self.factor = Point(ctx)
        self.start, self.end = ctx.bounds(form.scores.m)
        self.height = f"({self.end} - {self.start})"
        self.width: Extent = ctx.program.axis[form.values.n].extent
        self.panels = ctx.shared(max(p.shape.shared for p in (scores, values)), ALIGNMENT)
        self.held = self._floats("held", ctx.shared(rows * PITCH * 4))
        self.top, self.total, self.shrink = (self._floats(n, ctx.shared(rows * 4)) for n in ("top", "total", "shrink"))
        size = self.width * rows * 4
        fits = isinstance(size, int) and size <= SUM_BYTES
        self.sums = self._floats("sums", ctx.shared(size) if fits and isinstance(size, int) else ctx.scratch(size))

    def _floats(self, stem: str, address: str) -> str:
        name = self.w.name(stem)
        self.w.line(f"float* const {name} = (float*){address};")
        return name

    def emit(self) -> None:
        """Batch axes outermost."""
        with ExitStack() as stack:
            for axis in self.form.scores.batch:
                name, (low, high) = self.w.name(f"{axis}_"), self.ctx.bounds(axis)
                header = f"for (fx_int {name} = {low}; {name} < {high}; {name}++)"
                stack.enter_context(self.w.block(header, pinned=True))
                for point in (self.scores.point, self.values.point, self.factor):
                    point.place(axis, name)
            self._rows()

    def _rows(self) -> None:
        w, size = self.w, f"(long long){self.height} * {self.ctx.slot(self.width)}"
        w.line(f"fx_stream_start({self.sums}, {size}, {self.top}, {self.total}, {self.rows});")
        w.line("fx_barrier();")
        end, block = self._seen(), w.name("block")
        with w.block(f"for (fx_int {block} = 0; {block} < {end}; {block} += {BLOCK})", pinned=True):
            self._block(block, end)
        self._finish()

    def _seen(self) -> str:
        """Where the positions end that some row of the tile sees."""
        all_of_them = self.ctx.slot(self.ctx.program.axis[self.form.axis].extent)
        if self.form.seen is None:
            return all_of_them
        point, last, end = self.scores.point, self.w.name("last"), self.w.name("end")
        self.w.line(f"const fx_int {last} = {self.end} - 1;")
        point.place(_LAST, last)
        seen = point.extent(substitute(self.form.seen, {self.form.scores.m: symbol(_LAST)}))
        self.w.line(f"const fx_int {end} = fx_least((fx_int)({seen}), (fx_int){all_of_them});")
        return end

    def _block(self, block: str, end: str) -> None:
        w, form = self.w, self.form
        stop, rows = w.name("stop"), f"fx_range{{{self.start}, {self.end}}}"
        w.line(f"const fx_int {stop} = fx_least((fx_int)({block} + {BLOCK}), (fx_int){end});")
        for part in (self.scores, self.values):
            part.point.place(_BLOCK, block)
        self.values.base = block
        m, n = symbol(form.scores.m), symbol(form.axis)
        offset = (m - symbol(f"start_{form.scores.m}")) * PITCH + n - symbol(_BLOCK)
        for name in (form.held, form.powers):
            shape = self.ctx.program.operand[name].shape
            self.ctx.add_storage(name, Storage(self.held, DType.F32, shape, lambda _: offset))
        depth = self.ctx.slot(form.scores.depth)
        columns = f"fx_range{{{block}, {stop}}}"
        self.scores.write(self.panels, rows, columns, depth, f"fx_each_sum({self.scores.epilogue()})")
        w.line("fx_barrier();")
        clean = "true" if form.clean else "false"
        state = f"{self.top}, {self.total}, {self.shrink}"
        w.line(f"fx_stream_powers<{clean}>({self.held}, {PITCH}, {self.height}, {stop} - {block}, {state});")
        w.line("fx_barrier();")
        width = self.ctx.slot(self.width)
        self.values.write(self.panels, rows, f"fx_range{{0, {width}}}", f"{stop} - {block}", self._added(width))

    def _added(self, width: str) -> str:
        """The function that adds a sum to what earlier blocks gave."""
        name, at, row = self.w.name("added"), self.w.name("at"), self.w.name("row")
        with self.w.function(f"const auto {name} = [&](fx_int m, fx_int e, float sum) -> void"):
            self.w.line(f"const int {row} = (int)(m - {self.start});")
            self.w.line(f"float* const {at} = {self.sums} + ((long long){row} * {width} + e);")
            self.w.line(f"*{at} = *{at} * {self.shrink}[{row}] + sum;")
        return f"fx_each_sum({name})"

    def _total(self, row: str) -> str:
        """The sum of a row's powers: NaN where it saw none of the positions, 0 where there are none."""
        extent = self.ctx.program.axis[self.form.axis].extent
        total = f"fx_stream_total({self.top}[{row}], {self.total}[{row}])"
        return total if isinstance(extent, int) else f"{self.ctx.slot(extent)} == 0 ? 0.0f : {total}"

    def _finish(self) -> None:
        """What the program makes of the sums: a factor per row, then the results."""
        w, form = self.w, self.form
        body = after_factor(form)
        factor = self.factor.epilogue("factor", (form.scores.m,), form.total, DType.F32, body)
        w.line("fx_barrier();")
        row, i = w.name("row"), w.name("i")
        with w.block(f"for (int {row} = fx_thread(); {row} < {self.height}; {row} += FX_THREADS)", pinned=True):
            w.line(f"{factor}({self.start} + {row}, {self._total(row)});")
        w.line("fx_barrier();")
        done, width = self.values.epilogue(), self.ctx.slot(self.width)
        count = f"(long long){self.height} * {width}"
        with w.block(f"for (long long {i} = fx_thread(); {i} < {count}; {i} += FX_THREADS)", pinned=True):
            w.line(f"{done}({self.start} + (fx_int)({i} / {width}), (fx_int)({i} % {width}), {self.sums}[{i}]);")
        w.line("fx_barrier();")
