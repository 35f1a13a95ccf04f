"""emit_contract: a matrix product or a convolution as register tiles, with any prologue on its operands and any epilogue.

Loop order, outermost first: batch axes; chunks of rows, whose part of A is addressed, or computed into scratch, once;
groups of panels; blocks of a deep sum, whose part of A is copied together where it is scattered; panels of B; register
tiles. A register tile never masks anything: it computes rows and columns past the end as copies of others, and nobody
reads them (see contract_epilogue.py for where results go).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from fusec.errors import BugError
from fusec.ir.dim import minimum, substitute
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.chunk import CHUNK_ROWS
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_dot import emit_dot, is_dot
from fusec.kernels.cpu.contract_dots import DotShape, add_up, emit_dot_taps, emit_dots
from fusec.kernels.cpu.contract_epilogue import Epilogue
from fusec.kernels.cpu.contract_form import Contraction, contraction
from fusec.kernels.cpu.contract_pairs import pair_shape
from fusec.kernels.cpu.contract_panels import RightSide
from fusec.kernels.cpu.contract_rows import LeftSide, Rows
from fusec.kernels.cpu.contract_tile import TileShape, emit_taps, emit_tile, smaller_rows
from fusec.kernels.cpu.vector import register_type
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Stage

FEW_ROWS = 16
"""Rows that share a panel where register tiles have one row."""
GROUP_COLUMNS = 64
"""Columns that an epilogue works on at once: long enough rows for it, few enough for the results to stay near."""
LONG = 64
"""Products from which on a register tile takes long enough to fetch what comes next."""
DEEP_GROUPS = 4
"""Groups that are worked on at once where the sum is cut into blocks: they share what is copied of A."""


def emit_contract(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Emit a stage at the builder's position, for the current tile. BugError where the stage is no contraction."""
    form = contraction(stage)
    if form is None:
        raise BugError(f"{ctx.program.name}: a stage is no contraction and needs a nest")
    if is_dot(ctx.program, form, ctx.isa):
        emit_dot(ctx, form)
        return
    _Contract(ctx, form, tiling).emit()


def panel_width(tiling: StageTiling, lanes: int, dtype: DType) -> int:
    """Columns of a panel: whole vectors of the accumulator's dtype."""
    return tiling.vectors * lanes * 4 // dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Group:
    """Columns that are worked on at once, and whether their results may leave registers through the epilogue."""

    start: Value
    end: Value
    whole: Value | None


class _Contract:
    """The loops of one contraction."""

    def __init__(self, ctx: Context, form: Contraction, tiling: StageTiling) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.form = form
        lanes = ctx.isa.lanes * 4 // form.dtype.itemsize
        rows = tiling.rows if form.m else 1
        self.dots = tiling.vectors if tiling.lane == form.k.name else 0
        """Columns, where both sides are vectors along the sum (contract_dots.py)."""
        element = register_type(form.dtype)
        self.shape: TileShape
        if self.dots:
            self.shape = DotShape(rows, 1, lanes, element, ctx.isa.fma)
        elif form.pairs:
            self.shape = pair_shape(ctx, form, rows, tiling.vectors)
        else:
            self.shape = TileShape(rows, tiling.vectors, lanes, element, ctx.isa.fma)
        self.s = ContractContext(ctx, form, self.shape)
        self.span = self.shape.width * self.shape.panels
        self.chunk = 1
        if form.m:
            self.chunk = CHUNK_ROWS // rows * rows if rows > 1 else FEW_ROWS
        self.left = LeftSide(self.s, self.chunk)
        self.right = RightSide(self.s, along_sum=self.dots > 0)
        self.deep = self.left.is_deep() if self.right.is_stored else 0
        group = max(1, GROUP_COLUMNS // self.span) * self.span
        pitch = group + group * (DEEP_GROUPS - 1) * minimum(1, self.deep)
        self.epilogue = Epilogue(self.s, pitch, self.chunk)
        self.group = ctx.slot(pitch)

    def emit(self) -> None:
        """Batch axes outermost."""
        self.left.prepare()
        if self.form.m and self.form.batch and self.left.is_shared():
            self._shared()
        else:
            self._batches(self.form.batch, self._chunks)

    def _shared(self) -> None:
        """Chunks outermost: all batch indices share what tells where their rows lie."""
        b = self.b
        low, high = self.ctx.bounds(self.form.m)
        with b.loop(low, high, self.chunk, hint="chunk") as loop, ExitStack() as stack:
            end = b.smin(b.add(loop.index, b.i64(self.chunk)), high)
            self.s.bind("chunk", loop.index)
            stack.enter_context(self.s.range(self.form.m, loop.index, end))
            first = {a: self.ctx.bounds(a)[0] for a in self.form.batch}
            with ExitStack() as there:
                for a, at in first.items():
                    self.s.batch[a] = at
                    there.enter_context(self.s.range(a, at, b.add(at, b.i64(1))))
                rows = self.left.rows(loop.index, end)
            self._batches(self.form.batch, lambda: self._columns(self.left.moved(rows, first), loop.index, end))

    def _batches(self, axes: Sequence[str], inside: Callable[[], None]) -> None:
        if not axes:
            inside()
            return
        low, high = self.ctx.bounds(axes[0])
        with self.b.loop(low, high, hint=axes[0]) as loop:
            self.s.batch[axes[0]] = loop.index
            with self.s.range(axes[0], loop.index, self.b.add(loop.index, self.b.i64(1))):
                self._batches(axes[1:], inside)

    def _chunks(self) -> None:
        b = self.b
        if not self.form.m:
            self._columns(self.left.rows(b.i64(0), b.i64(1)), b.i64(0), b.i64(1))
            return
        low, high = self.ctx.bounds(self.form.m)
        with b.loop(low, high, self.chunk, hint="chunk") as loop:
            end = b.smin(b.add(loop.index, b.i64(self.chunk)), high)
            self.s.bind("chunk", loop.index)
            with self.s.range(self.form.m, loop.index, end):
                self._columns(self.left.rows(loop.index, end), loop.index, end)

    def _columns(self, rows: Rows, m: Value, m_end: Value) -> None:
        b, (low, high) = self.b, self.ctx.bounds(self.form.n)
        with b.loop(self.right.first(low), high, self.group, hint="group") as loop:
            end = b.smin(b.add(loop.index, self.group), high)
            self.s.bind("group", loop.index)
            group = _Group(loop.index, end, self._is_whole(loop.index, low, end))
            if self.deep == 0:
                self._block(rows, (m, m_end), group, None)
            else:
                count = b.smax(rows.count, b.i64(1))
                with b.loop(b.i64(0), count, rows.block, hint="block") as block:
                    part = self.left.part(rows, block.index, (m, m_end), b.sub(end, loop.index))
                    if group.whole is not None:
                        last = b.compare("sge", b.add(block.index, rows.block), count)
                        group = replace(group, whole=b.op("and", group.whole, last))
                    self._block(part, (m, m_end), group, block.index)
            with self.s.range(self.form.n, b.smax(loop.index, low), end):
                self._rest(loop.index, low, end)

    def _is_whole(self, start: Value, low: Value, end: Value) -> Value | None:
        """Whether the columns of a group are those of whole panels; None where results go through memory anyway."""
        if not self.epilogue.in_registers:
            return None
        b = self.b
        rest = b.op("urem", b.sub(end, start), b.i64(self.span))
        return b.op("and", b.compare("eq", rest, b.i64(0)), b.compare("sge", start, low))

    def _rest(self, start: Value, low: Value, end: Value) -> None:
        """The epilogue of a group whose results went through memory."""
        whole = self._is_whole(start, low, end)
        if whole is None:
            self.epilogue.from_memory()
            return

        def run() -> Sequence[Value]:
            self.epilogue.from_memory()
            return []

        self.b.when(self.b.op("xor", whole, Value("i1", "true")), run)

    def _block(self, rows: Rows, span: tuple[Value, Value], group: _Group, at: Value | None) -> None:
        """One block of the sum, from its product number `at` on (None: all of it), for a group of columns."""
        b, (_, high) = self.b, self.ctx.bounds(self.form.n)
        steps = [b.mul(b.i64(r), rows.row) for r in range(1, self.shape.rows)] if rows.taps is None else []

        def tile(shape: TileShape, m: Value, n: Value, panels: Sequence[Value]) -> None:
            column, size = b.sub(n, group.start), shape.rows * shape.columns

            def places() -> Sequence[Value]:
                return self.epilogue.places(b.sub(m, span[0]), column)[:size]

            behind = self.right.behind(n) if rows.taps is None else None
            ahead: tuple[Sequence[Value], Value | None] = self._ahead(rows, panels[-1], span, (m, column)), None
            if behind is not None:
                ahead = self._next_panel(behind, rows, span, m), behind[1]
            totals = self._tile(shape, rows, steps, panels, m, span, self._sums(shape, places, at), ahead)
            self._put(totals, places, (m, span[1]), n, group.whole)

        def panels_at(n: Value) -> list[Value]:
            panels = self.right.panels(n, high)
            if at is None:
                return panels
            skip = b.mul(b.mul(at, rows.products), b.i64(self.shape.width))
            return [b.gep(p, skip, self.shape.panel_element) for p in panels]

        smaller = self._smaller()
        border = span[1] if smaller is None else self._border(span, smaller)
        with b.loop(group.start, group.end, self.span, hint="panel") as panel:
            panels = panels_at(panel.index)
            with b.loop(span[0], border, self.shape.rows, hint="rows") as row:
                tile(self.shape, row.index, panel.index, panels)
            if smaller is not None:
                with b.loop(border, span[1], smaller.rows, hint="last") as row:
                    tile(smaller, row.index, panel.index, panels)

    def _smaller(self) -> TileShape | None:
        """The register tile of the last rows, where their number is known and they need one of their own."""
        if self.dots or not self.form.m:
            return None
        count, guard = self.ctx.program.axis[self.form.m].extent, self.ctx.kernel.tiling.guard
        if guard is not None and guard.low == guard.high:
            count = substitute(count, {guard.param: guard.low})
        few = smaller_rows(count, self.shape.rows, self.shape.vectors) if isinstance(count, int) else 0
        return replace(self.shape, rows=few) if few else None

    def _border(self, span: tuple[Value, Value], smaller: TileShape) -> Value:
        """The row from which on smaller tiles take the rest: none, one or two of them, whatever computes the fewest rows for
        nothing."""
        b, rows, few = self.b, self.shape.rows, smaller.rows
        count = b.sub(span[1], span[0])
        left = b.op("urem", count, b.i64(rows))
        two = b.select(b.compare("sle", left, b.i64(2 * few - rows)), b.add(left, b.i64(rows)), left)
        none = b.op("or", b.compare("eq", left, b.i64(0)), b.compare("sgt", left, b.i64(few)))
        return b.sub(span[1], b.smin(count, b.select(none, b.i64(0), two)))

    def _ahead(self, rows: Rows, panel: Value, span: tuple[Value, Value], at: tuple[Value, Value]) -> list[Value]:
        """What to fetch during the register tile at row `at[0]` of the panel at column `at[1]` of the group: a share of the
        panel that follows in memory, and of the rows that follow, if these lie behind each other.

        A tile fetches a line for every `unroll` of them, so as many neighbouring tiles share a stretch of memory. Rows are
        fetched by tasks of the last columns alone: before them the next task reads the same rows, which those that follow
        would drive out of the second level cache (512 x 3072 x 768: 3 to 5 % of the time on Zen 4).
        """
        b, shape = self.b, self.shape
        line = b.i64(64 // shape.itemsize)
        dense = rows.taps is None and rows.row.text == self.ctx.slot(self.form.depth).text and rows.step.text == "1"
        has_rows = dense and shape.row_element == shape.element
        if not self.right.is_stored:
            return []

        def places() -> list[Value]:
            tile = b.op("udiv", b.sub(at[0], span[0]), b.i64(shape.rows))
            following = b.gep(panel, b.mul(self.ctx.slot(self.form.steps), b.i64(shape.width)), shape.panel_element)
            out = [b.gep(following, b.mul(b.smin(tile, b.i64(shape.unroll - 1)), line), shape.panel_element)]
            if has_rows:
                out.append(self._rows_ahead(rows, span, at, tile, out[0]))
            return out

        return b.when(b.compare("sge", rows.depth, b.i64(LONG)), places, [panel] * (1 + has_rows))

    def _rows_ahead(
        self, rows: Rows, span: tuple[Value, Value], at: tuple[Value, Value], tile: Value, otherwise: Value
    ) -> Value:
        """The place in the rows that follow, for the `tile`th register tile of a panel, where the task has the last columns."""
        b, shape = self.b, self.shape
        line = b.i64(64 // shape.itemsize)
        tiles = b.op("udiv", b.add(b.sub(span[1], span[0]), b.i64(shape.rows - 1)), b.i64(shape.rows))
        number = b.add(b.mul(b.op("udiv", at[1], b.i64(self.span)), tiles), tile)
        # a tile's stretch holds as many rows as a panel columns, or what there is of them
        stretch = b.mul(b.op("udiv", number, b.i64(shape.unroll)), b.mul(rows.depth, b.i64(shape.width)))
        place = b.add(stretch, b.mul(b.op("urem", number, b.i64(shape.unroll)), line))
        last = b.mul(b.sub(span[1], span[0]), rows.row)
        following = b.gep(rows.pointer, b.mul(span[1], rows.row), shape.element)
        following = b.gep(following, b.smin(place, last), shape.element)
        (_, high), extent = self.ctx.bounds(self.form.n), self.ctx.program.axis[self.form.n].extent
        return b.select(b.compare("sge", high, self.ctx.slot(extent)), following, otherwise)

    def _next_panel(self, behind: tuple[Value, Value], rows: Rows, span: tuple[Value, Value], m: Value) -> list[Value]:
        """What to fetch of the rows that the next panel is packed from, each of which may lie on a page of its own."""
        b, shape, (place, step) = self.b, self.shape, behind

        def places() -> list[Value]:
            tile = b.op("udiv", b.sub(m, span[0]), b.i64(shape.rows))
            return [b.gep(place, b.mul(b.smin(tile, b.i64(shape.unroll - 1)), step), shape.element)]

        return b.when(b.compare("sge", rows.depth, b.i64(LONG)), places, [place])

    def _tile(
        self,
        shape: TileShape,
        rows: Rows,
        steps: Sequence[Value],
        panels: Sequence[Value],
        m: Value,
        span: tuple[Value, Value],
        start: Sequence[Value],
        ahead: tuple[Sequence[Value], Value | None],
    ) -> list[Value]:
        b = self.b
        if self.dots:
            return self._dots(rows, steps, panels[: self.dots], m, span)
        if rows.taps is not None:
            table = b.gep(rows.pointer, b.sub(m, span[0]), "i64")
            return emit_taps(
                b, shape, table, rows.row, rows.taps, rows.step, panels, rows.depth, start, ahead[0], rows.shift
            )
        pointers = self._pointers(shape, rows, steps, m, span[1])
        return emit_tile(b, shape, pointers, rows.step, panels, b.i64(shape.width), rows.depth, start, *ahead)

    def _dots(
        self, rows: Rows, steps: Sequence[Value], ends: Sequence[Value], m: Value, span: tuple[Value, Value]
    ) -> list[Value]:
        b, shape, columns = self.b, self.shape, self.dots
        if rows.taps is not None:
            table = b.gep(rows.pointer, b.sub(m, span[0]), "i64")
            totals = emit_dot_taps(b, shape, columns, table, rows.row, rows.taps, ends, rows.depth, rows.shift)
        else:
            pointers = self._pointers(shape, rows, steps, m, span[1])
            zeros = [shape.zero] * (shape.rows * columns)
            totals = emit_dots(b, shape, columns, pointers, ends, rows.depth, zeros)
        return add_up(b, shape, columns, totals)

    def _sums(self, shape: TileShape, places: Callable[[], Sequence[Value]], at: Value | None) -> list[Value]:
        """What a register tile starts from: zeros, or the sums of the blocks before."""
        b = self.b
        zeros = [shape.zero] * (shape.rows * shape.columns)
        if at is None:
            return zeros
        load = partial(b.load, shape.type, align=shape.alignment)
        return b.when(b.compare("sgt", at, b.i64(0)), lambda: [load(p) for p in places()], zeros)

    def _put(
        self,
        totals: Sequence[Value],
        places: Callable[[], Sequence[Value]],
        rows: tuple[Value, Value],
        n: Value,
        whole: Value | None,
    ) -> None:
        """A register tile's results: into the tile of results, or through the epilogue at once."""
        b = self.b

        def store() -> None:
            for place, total in zip(places(), totals, strict=True):
                b.store(total, place, self.shape.alignment)

        if whole is None:
            store()
            return
        b.either(whole, lambda: self.epilogue.from_registers(totals, *rows, n), store)

    def _pointers(self, shape: TileShape, rows: Rows, steps: Sequence[Value], m: Value, end: Value) -> list[Value]:
        """The rows of a register tile from m on, `steps` behind the first; those past the last one repeat it."""
        b = self.b
        first = b.gep(rows.pointer, b.mul(m, rows.row), shape.row_element)
        if shape.rows == 1:
            return [first]
        last = b.sub(b.sub(end, b.i64(1)), m)

        def clamped() -> list[Value]:
            return [b.mul(b.smin(b.i64(r), last), rows.row) for r in range(1, shape.rows)]

        offsets = b.when(b.compare("slt", last, b.i64(shape.rows - 1)), clamped, steps[: shape.rows - 1])
        return [first, *(b.gep(first, x, shape.row_element) for x in offsets)]
