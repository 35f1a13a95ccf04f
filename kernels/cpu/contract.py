"""emit_contract: a matrix product as register tiles, with any prologue on its operands and any epilogue on its result.

Loop order, outermost first: batch axes; chunks of rows, whose part of A is computed once into scratch unless it is a
plain load; groups of panels; panels of B, read where the weight is packed in panels, else packed into scratch;
register tiles. A group's results go to a small tile in scratch, where the epilogue, an ordinary loop nest, picks them
up: so a register tile never masks anything. It computes rows and columns past the end as copies of the last ones, and
nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, linear, minimum, product, symbol
from fusec.ir.expr import Expr, Load, cast
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context, Storage
from fusec.kernels.cpu.contract_form import Contraction, contraction, panel_load, plain_load
from fusec.kernels.cpu.contract_pack import clear_panel, pack_transposed
from fusec.kernels.cpu.contract_tile import TileShape, emit_tile
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.cpu.vector import register_type
from fusec.kernels.kernel import StageTiling
from fusec.kernels.layout import Layout
from fusec.tile.program import Let, Stage, Store

CHUNK_ROWS = 96
"""Rows that share a panel before the next one is read: their part of A should stay in the second level cache."""
GROUP_COLUMNS = 64
"""Columns that an epilogue works on at once: long enough rows for it, few enough for the results to stay near."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A as the register tile reads it: element (m, k) is at `pointer + m * row + k * step`, all at the current index."""

    pointer: Value
    row: Value
    step: Value


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
    """One contraction being emitted."""

    def __init__(self, ctx: Context, form: Contraction, tiling: StageTiling) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.form = form
        lanes = ctx.isa.lanes * 4 // form.dtype.itemsize
        self.shape = TileShape(
            tiling.rows if form.m else 1, tiling.vectors, lanes, register_type(form.dtype), ctx.isa.fma
        )
        self.width = self.shape.width
        self.span = self.width * self.shape.panels
        self.group = max(1, GROUP_COLUMNS // self.span) * self.span
        self.chunk = self.shape.rows * max(1, min(16, CHUNK_ROWS // self.shape.rows)) if form.m else 1
        self.depth = ctx.program.axis[form.k.name].extent
        self.k_end = ctx.slot(self.depth)
        self.id = len(ctx.symbols)
        self.batch: dict[str, Value] = {}
        self.point = Point(ctx)
        self.results = ctx.scratch(self.chunk * self.group * form.dtype.itemsize)
        panels = panel_load(form)
        self.packed = panels if panels and self._lies_in_panels(panels) else None
        self.panel = None if self.packed else ctx.scratch(self.depth * self.span * form.dtype.itemsize)
        self.left: Value | None = None

    def _lies_in_panels(self, operand: str) -> bool:
        rank = len(self.ctx.program.operand[operand].shape)
        return self.ctx.kernel.layouts[operand] == Layout.panels(rank, self.width)

    # ---- loops

    def emit(self) -> None:
        """Batch axes outermost."""
        self._batches(self.form.batch)

    def _batches(self, axes: Sequence[str]) -> None:
        if not axes:
            self._chunks()
            return
        low, high = self.ctx.bounds(axes[0])
        with self.b.loop(low, high, hint=axes[0]) as loop:
            self.batch[axes[0]] = loop.index
            with self._range(axes[0], loop.index, self.b.add(loop.index, self.b.i64(1))):
                self._batches(axes[1:])

    def _chunks(self) -> None:
        if not self.form.m:
            self._columns(self._rows(), self.b.i64(0), self.b.i64(1))
            return
        low, high = self.ctx.bounds(self.form.m)
        with self.b.loop(low, high, self.chunk, hint="chunk") as loop:
            end = self.b.smin(self.b.add(loop.index, self.b.i64(self.chunk)), high)
            self.ctx.symbols[self._name("chunk")] = loop.index
            with self._range(self.form.m, loop.index, end):
                self._columns(self._rows(), loop.index, end)

    def _columns(self, rows: Rows, m: Value, m_end: Value) -> None:
        low, high = self.ctx.bounds(self.form.n)
        first = low
        if self.packed is not None:  # a tile may begin inside a panel
            width = self.b.i64(self.width)
            first = self.b.mul(self.b.op("udiv", low, width), width)
        with self.b.loop(first, high, self.group, hint="group") as loop:
            end = self.b.smin(self.b.add(loop.index, self.b.i64(self.group)), high)
            self.ctx.symbols[self._name("group")] = loop.index
            with self.b.loop(loop.index, end, self.span, hint="panel") as panel:
                places = self._panels(panel.index, high)
                self._tiles(rows, places, m, m_end, self.b.sub(panel.index, loop.index))
            with self._range(self.form.n, self.b.smax(loop.index, low), end):
                self._epilogue()

    def _tiles(self, rows: Rows, panels: Sequence[Value], m: Value, m_end: Value, column: Value) -> None:
        b, shape = self.b, self.shape
        last = b.sub(m_end, b.i64(1))
        element = shape.element
        with b.loop(m, m_end, shape.rows, hint="rows") as loop:
            pointers = []
            for r in range(shape.rows):
                at = b.add(loop.index, b.i64(r))
                at = b.smin(at, last) if r else at
                pointers.append(b.gep(rows.pointer, b.mul(at, rows.row), element))
            totals = emit_tile(b, shape, pointers, rows.step, panels, b.i64(self.width), self.k_end)
            first = b.add(b.mul(b.sub(loop.index, m), b.i64(self.group)), column)
            for i, total in enumerate(totals):
                r, c = divmod(i, shape.vectors * shape.panels)
                place = b.add(first, b.i64(r * self.group + c * shape.lanes))
                b.store(total, b.gep(self.results, place, element), min(64, shape.lanes * shape.itemsize))

    # ---- A

    def _rows(self) -> Rows:
        """Where the rows of A lie, at the current batch index and chunk; computed into scratch where they must be."""
        found = self._addressed(self.form.left)
        if found is not None:
            return found
        form = self.form
        m = minimum(self.chunk, self._most(form.m)) if form.m else 1
        if self.left is None:
            self.left = self.ctx.scratch(m * self.depth * form.dtype.itemsize)
        k, depth = symbol(form.k.name), self.depth
        index: tuple[Extent, ...] = (symbol(form.m), k) if form.m else (k,)
        origin = symbol(self._name("chunk")) if form.m else 0

        def offset(i: Sequence[Extent]) -> Extent:
            return (i[0] - origin) * depth + i[1] if form.m else i[0]

        name = self._name("left")
        self.ctx.add_storage(name, Storage(self.left, form.dtype, (m, depth) if form.m else (depth,), offset))
        self._compute((*((form.m,) if form.m else ()), form.k.name), form.k.name, Store(name, index, form.left))
        rows = self._addressed(Load(name, index, form.dtype))
        if rows is None:
            raise BugError("what was computed into scratch has an address")
        return rows

    def _addressed(self, e: Expr) -> Rows | None:
        """A plain load that is affine in m and k, of elements that registers take as they are."""
        load = plain_load(e)
        if load is None or self.ctx.storage(load[0]).dtype is not self.form.dtype:
            return None
        storage, form = self.ctx.storage(load[0]), self.form
        split = linear(storage.offset(load[1]), [form.m, form.k.name])
        if split is None:
            return None
        rest, by = split
        base = self.b.gep(storage.pointer, self._value(rest), self.shape.element)
        return Rows(base, self._value(by.get(form.m, 0)), self._value(by.get(form.k.name, 0)))

    def _most(self, axis: str) -> Extent:
        return symbol(f"tile_{axis}") if axis in self.ctx.task_axes else self.ctx.program.axis[axis].extent

    # ---- B

    def _panels(self, n: Value, n_end: Value) -> list[Value]:
        """The panels from column n on, as many as a register tile takes; those past the end repeat the last one."""
        b, panels = self.b, self.shape.panels
        if self.packed is not None:
            return self._packed_panels(self.packed, n)
        if self.panel is None:
            raise BugError("panels need scratch memory")
        size = b.mul(self.k_end, b.i64(self.width))
        if panels == 1:
            self._pack(self.panel, n, n_end)
            return [self.panel]
        with b.loop(b.i64(0), b.i64(panels), hint="pack") as loop:
            place = b.gep(self.panel, b.mul(loop.index, size), self.shape.element)
            self._pack(place, b.add(n, b.mul(loop.index, b.i64(self.width))), n_end)
        return [b.gep(self.panel, b.mul(b.i64(p), size), self.shape.element) for p in range(panels)]

    def _packed_panels(self, operand: str, n: Value) -> list[Value]:
        b = self.b
        storage, load = self.ctx.storage(operand), plain_load(self.form.right)
        if load is None:
            raise BugError("packed weights are plain loads")
        stored = self.ctx.kernel.layouts[operand].shape(self.ctx.program.operand[operand].shape)
        strides = [product(stored[d + 1 :]) for d in range(len(stored))]
        batch: Extent = 0
        for i, stride in zip(load[1][:-2], strides, strict=False):
            batch = batch + i * stride
        base = b.gep(storage.pointer, self._value(batch), self.shape.element)
        count = self.ctx.slot(stored[-3])
        last = b.mul(b.sub(count, b.i64(1)), b.i64(self.width))
        out = []
        for p in range(self.shape.panels):
            column = b.smin(b.add(n, b.i64(p * self.width)), last) if p else n
            out.append(b.gep(base, b.mul(column, self.ctx.slot(stored[-2])), self.shape.element))
        return out

    def _pack(self, place: Value, n: Value, n_end: Value) -> None:
        """Columns [n, n + width) of B into a panel, zeros past the end."""
        b, form = self.b, self.form
        end = b.smin(b.add(n, b.i64(self.width)), n_end)
        full = b.compare("eq", b.sub(end, n), b.i64(self.width))
        clear_panel(b, self.shape, place, self.k_end, unless=full)
        source = self._transposed()
        if source is not None:
            b.when(b.compare("slt", n, end), lambda: pack_transposed(b, self.shape, source, place, n, end, self.k_end))
            return
        name, width = self._name("right"), self.width
        start = symbol(self._name("panel"))
        self.ctx.symbols[self._name("panel")] = n

        def offset(i: Sequence[Extent]) -> Extent:
            return i[0] * width + i[1] - start

        k, extent = form.k.name, self.ctx.program.axis[form.n].extent
        self.ctx.add_storage(name, Storage(place, form.dtype, (self.depth, extent), offset))
        with self._range(form.n, n, end):
            self._compute((k, form.n), form.n, Store(name, (symbol(k), symbol(form.n)), form.right))

    def _transposed(self) -> tuple[Value, Value] | None:
        """Base and column stride of a B that is a plain load, contiguous along k and not along n."""
        load, form = plain_load(self.form.right), self.form
        if load is None or self.ctx.storage(load[0]).dtype is not form.dtype:
            return None
        storage = self.ctx.storage(load[0])
        split = linear(storage.offset(load[1]), [form.n, form.k.name])
        if split is None or split[1].get(form.k.name) != 1 or split[1].get(form.n, 0) in (0, 1):
            return None
        base = self.b.gep(storage.pointer, self._value(split[0]), self.shape.element)
        return base, self._value(split[1][form.n])

    # ---- around the product

    def _epilogue(self) -> None:
        """Lets and stores over the chunk's rows and the group's columns, reading the product from its tile."""
        form, group = self.form, self.group
        name, column = self._name("results"), symbol(self._name("group"))
        row: Extent = symbol(self._name("chunk")) if form.m else 0
        index = tuple(symbol(a) for a in (form.m, form.n) if a)

        def offset(i: Sequence[Extent]) -> Extent:
            return i[-1] - column + ((i[0] - row) * group if form.m else 0)

        shape = tuple(self.ctx.program.axis[a].extent for a in (form.m, form.n) if a)
        self.ctx.add_storage(name, Storage(self.results, form.dtype, shape, offset))
        result = Let(form.fold, cast(Load(name, index, form.dtype), form.result))
        axes = (*form.batch, *((form.m,) if form.m else ()), form.n)
        emit_nest(self.ctx, Stage(axes, (), (result, *form.epilogue)), StageTiling("nest", form.n))

    def _compute(self, axes: tuple[str, ...], lane: str, store: Store) -> None:
        stage = Stage((*self.form.batch, *axes), (), (store,))
        emit_nest(self.ctx, stage, StageTiling("nest", lane))

    # ---- values

    def _value(self, x: Extent) -> Value:
        """An offset or a stride at the current batch index."""
        self.point.place(self.batch)
        return self.point.value(self.point.interner.index(x))

    def _name(self, what: str) -> str:
        return f"{what}.{self.id}"

    @contextmanager
    def _range(self, axis: str, low: Value, high: Value) -> Iterator[None]:
        """Narrow what an axis runs over for a while."""
        starts, ends = self.ctx.starts, self.ctx.ends
        before = (starts[axis], ends[axis]) if axis in starts else None
        starts[axis], ends[axis] = low, high
        yield
        if before is None:
            del starts[axis], ends[axis]
        else:
            starts[axis], ends[axis] = before
