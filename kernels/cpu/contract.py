"""emit_contract: a matrix product or a convolution as register tiles, with any prologue on its operands and any epilogue.

Loop order, outermost first: batch axes; chunks of rows, whose part of A is addressed, or computed into scratch, once;
groups of panels; panels of B; register tiles. A group's results go to a small tile in scratch, where the epilogue, an
ordinary loop nest, picks them up: so a register tile never masks anything. It computes rows and columns past the end as
copies of others, and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.dim import Extent, symbol
from fusec.ir.expr import Load, cast
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context, Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import Contraction, contraction
from fusec.kernels.cpu.contract_panels import RightSide
from fusec.kernels.cpu.contract_rows import LeftSide, Rows
from fusec.kernels.cpu.contract_tile import TileShape, emit_taps, emit_tile
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.cpu.vector import register_type
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Let, Stage

CHUNK_ROWS = 96
"""Rows that share a panel before the next one is read: their part of A should stay in the second level cache."""
GROUP_COLUMNS = 64
"""Columns that an epilogue works on at once: long enough rows for it, few enough for the results to stay near."""


def emit_contract(ctx: Context, stage: Stage, tiling: StageTiling) -> None:
    """Emit a stage at the builder's position, for the current tile. BugError where the stage is no contraction."""
    form = contraction(stage)
    if form is None:
        raise BugError(f"{ctx.program.name}: a stage is no contraction and needs a nest")
    _Contract(ctx, form, tiling).emit()


def panel_width(tiling: StageTiling, lanes: int, dtype: DType) -> int:
    """Columns of a panel: whole vectors of the accumulator's dtype."""
    return tiling.vectors * lanes * 4 // dtype.itemsize


class _Contract:
    """The loops of one contraction."""

    def __init__(self, ctx: Context, form: Contraction, tiling: StageTiling) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.form = form
        lanes = ctx.isa.lanes * 4 // form.dtype.itemsize
        rows = tiling.rows if form.m else 1
        self.shape = TileShape(rows, tiling.vectors, lanes, register_type(form.dtype), ctx.isa.fma)
        self.s = ContractContext(ctx, form, self.shape)
        self.span = self.shape.width * self.shape.panels
        self.group = max(1, GROUP_COLUMNS // self.span) * self.span
        self.chunk = rows * max(1, min(16, CHUNK_ROWS // rows)) if form.m else 1
        self.left = LeftSide(self.s, self.chunk)
        self.right = RightSide(self.s)
        self.results = ctx.scratch(self.chunk * self.group * form.dtype.itemsize)

    def emit(self) -> None:
        """Batch axes outermost."""
        self.left.prepare()
        self._batches(self.form.batch)

    def _batches(self, axes: Sequence[str]) -> None:
        if not axes:
            self._chunks()
            return
        low, high = self.ctx.bounds(axes[0])
        with self.b.loop(low, high, hint=axes[0]) as loop:
            self.s.batch[axes[0]] = loop.index
            with self.s.range(axes[0], loop.index, self.b.add(loop.index, self.b.i64(1))):
                self._batches(axes[1:])

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
            end = b.smin(b.add(loop.index, b.i64(self.group)), high)
            self.s.bind("group", loop.index)
            with b.loop(loop.index, end, self.span, hint="panel") as panel:
                panels = self.right.panels(panel.index, high)
                self._tiles(rows, panels, m, m_end, b.sub(panel.index, loop.index))
            with self.s.range(self.form.n, b.smax(loop.index, low), end):
                self._epilogue()

    def _tiles(self, rows: Rows, panels: Sequence[Value], m: Value, m_end: Value, column: Value) -> None:
        b, shape = self.b, self.shape
        with b.loop(m, m_end, shape.rows, hint="rows") as loop:
            if rows.taps is not None:
                table = b.gep(rows.pointer, b.sub(loop.index, m), "i64")
                totals = emit_taps(b, shape, table, rows.row, rows.taps, rows.step, panels, rows.depth)
            else:
                pointers = self._pointers(rows, loop.index, b.sub(m_end, b.i64(1)))
                totals = emit_tile(b, shape, pointers, rows.step, panels, b.i64(shape.width), rows.depth)
            first = b.add(b.mul(b.sub(loop.index, m), b.i64(self.group)), column)
            for i, total in enumerate(totals):
                r, c = divmod(i, shape.vectors * shape.panels)
                place = b.add(first, b.i64(r * self.group + c * shape.lanes))
                b.store(total, b.gep(self.results, place, shape.element), min(64, shape.lanes * shape.itemsize))

    def _pointers(self, rows: Rows, m: Value, last: Value) -> list[Value]:
        """The rows of a register tile from m on; those past the last one repeat it."""
        b, out = self.b, []
        for r in range(self.shape.rows):
            at = b.add(m, b.i64(r))
            at = b.smin(at, last) if r else at
            out.append(b.gep(rows.pointer, b.mul(at, rows.row), self.shape.element))
        return out

    def _epilogue(self) -> None:
        """Lets and stores over the chunk's rows and the group's columns, reading the product from its tile."""
        s, form, group = self.s, self.form, self.group
        name, column = s.name("results"), symbol(s.name("group"))
        row: Extent = symbol(s.name("chunk")) if form.m else 0
        index = tuple(symbol(a) for a in (form.m, form.n) if a)

        def offset(i: Sequence[Extent]) -> Extent:
            return i[-1] - column + ((i[0] - row) * group if form.m else 0)

        shape = tuple(self.ctx.program.axis[a].extent for a in (form.m, form.n) if a)
        self.ctx.add_storage(name, Storage(self.results, form.dtype, shape, offset))
        result = Let(form.fold, cast(Load(name, index, form.dtype), form.result))
        axes = (*form.batch, *((form.m,) if form.m else ()), form.n)
        emit_nest(self.ctx, Stage(axes, (), (result, *form.epilogue)), StageTiling("nest", form.n))
