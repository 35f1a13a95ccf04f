"""The left side of a contraction: where the register tile finds the rows of A.

Rows that are affine in m are reached by arithmetic. Those of a convolution are not (an image's row ends, a window leaves
the image), so a table in scratch holds their addresses, one per tap and row; what lies outside the image is a row of
zeros. Anything that is no plain load is computed into scratch first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fusec.errors import BugError
from fusec.ir.dim import Extent, ceildiv, floordiv, linear, maximum, minimum, product, substitute, symbol, symbols_of
from fusec.ir.expr import Expr, Index, Load, cast, prim
from fusec.ir.types import DType
from fusec.kernels.cpu import access
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import axes_of, before_widening, direct_load, row_major
from fusec.kernels.cpu.expression import Point
from fusec.tile.program import Axis, Store

BLOCK = 2048
"""Products of a sum that are taken at once: so much of A's rows and of a panel stays in the second level cache. Streams
from there keep up: on Zen blocks for the first level gain nothing."""
WAYS = 8
"""Lines of the first level cache that may lie at one address modulo FAR; register tiles of more rows evict their own."""
FAR = 4096
"""Bytes from row to row above which the rows of such a tile are copied together."""
MANY_COLUMNS = 128
"""Columns that pay for copying the rows."""
ADDRESS = 8
"""Bytes of an entry of a table."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of A for a chunk: `depth` elements, `step` apart, per tap.

    Without taps, row m begins at `pointer + m * row`. With them `pointer` is a table: the address of a row's part
    for a tap is entry `tap * row + (m - first row of the chunk)`, valid for whole register tiles.

    A deep sum is cut into blocks of `block` taps, or of as many elements where there are none, out of `count`; each of them
    stands for `products` products.
    """

    pointer: Value
    row: Value
    step: Value
    depth: Value
    taps: Value | None
    count: Value
    block: Value
    products: Value
    shift: Value | None = None
    """Elements that every address of the table is to be moved by: one table serves several batch indices."""


@dataclass(frozen=True, slots=True)
class _Source:
    """How a load reaches A: taps that remain, the axes merged into one dense one, and the condition of being inside."""

    storage: Storage
    taps: tuple[Axis, ...]
    dense: tuple[Axis, ...]
    step: Extent
    offset: Extent
    inside: Expr | None


class LeftSide:
    """A, at any batch index and chunk of rows."""

    def __init__(self, state: ContractContext, chunk: int) -> None:
        self.s = state
        self.chunk = chunk
        self._copy: Value | None = None
        self._table: Value | None = None
        self._zeros: Value | None = None

    def prepare(self) -> None:
        """Once per tile, before anything else: zeros for what lies outside."""
        source = self._direct()
        if source is None or source.inside is None:
            return
        size = (product(a.extent for a in source.dense) + self._reach(source)) * self.s.form.dtype.itemsize
        self._zeros = self.s.ctx.scratch(size)
        b = self.s.b
        b.call_void("llvm.memset.p0.i64", self._zeros, Value("i8", "0"), self.s.ctx.slot(size), Value("i1", "false"))

    def rows(self, m: Value, m_end: Value) -> Rows:
        """The rows of a chunk, at the current batch index."""
        source = self._direct() or self._computed()
        affine = linear(source.offset, [self.s.form.m])
        if affine is not None and not self._is_table(source):
            pointer = self.s.pointer(source.storage.pointer, affine[0], self.s.shape.row_element)
            return self._rows(source, pointer, self.s.value(affine[1].get(self.s.form.m, 0)))
        return self._tabulated(source, m, m_end)

    def is_shared(self) -> bool:
        """Whether one table serves all batch indices of a tile, since these only move its addresses."""
        source = self._direct()
        return source is not None and self._is_table(source) and bool(self._moves(source))

    def _moves(self, source: _Source) -> dict[str, Extent]:
        """How far each batch axis moves the addresses; empty where they do not move as one."""
        axes, own = self.s.form.batch, {self.s.form.m, *(a.name for a in source.taps)}
        split = linear(source.offset, axes)
        if split is None or (source.inside is not None and axes_of(source.inside) & set(axes)):
            return {}
        return {} if any(symbols_of(x) & own for x in split[1].values()) else split[1]

    def _reach(self, source: _Source) -> Extent:
        """How far addresses are moved at most: rows of zeros reach as far."""
        total: Extent = 0
        for a, step in self._moves(source).items():
            total = total + step * (self.s.most(a) - 1)
        return total

    def moved(self, rows: Rows, since: Mapping[str, Value]) -> Rows:
        """The rows at the current batch index, of a table that was made at another one."""
        source, b, s = self._direct(), self.s.b, self.s
        if source is None:
            raise BugError("only what is loaded has a table")
        shift = b.i64(0)
        for a, step in self._moves(source).items():
            shift = b.add(shift, b.mul(b.sub(s.batch[a], since[a]), s.value(step)))
        return replace(rows, shift=shift)

    def is_deep(self) -> Extent:
        """Positive where the sum has more than one block."""
        source = self._direct()
        if source is None:
            return 0
        count, block = self._blocks(source)
        return floordiv(maximum(count, 1) - 1, block)

    def part(self, rows: Rows, first: Value, span: tuple[Value, Value], columns: Value) -> Rows:
        """The rows `span` of one block of the sum, from tap or element `first` on, for so many columns."""
        b = self.s.b
        left = b.smin(rows.block, b.sub(rows.count, first))
        if rows.taps is not None:
            return replace(rows, pointer=b.gep(rows.pointer, b.mul(first, rows.row), "i64"), taps=left)
        pointer = b.gep(rows.pointer, b.mul(first, rows.step), self.s.shape.element)
        return self._together(replace(rows, pointer=pointer, depth=left), span, columns)

    def _together(self, rows: Rows, span: tuple[Value, Value], columns: Value) -> Rows:
        """Rows that are far apart, each on a page of its own, copied next to each other, where enough columns read them."""
        b, shape = self.s.b, self.s.shape
        if (
            self.s.form.pairs
            or shape.rows <= WAYS
            or rows.step.text != "1"
            or (rows.row.is_constant and int(rows.row.text) * shape.itemsize < FAR)
        ):
            return rows
        pitch = b.add(rows.block, b.i64(64 // shape.itemsize))  # no power of two: rows would share sets of the cache
        if self._copy is None:
            size = self._block_extent() + 64 // shape.itemsize
            self._copy = self.s.ctx.scratch(size * (self.chunk * shape.itemsize))
        copy = self._copy

        def together() -> list[Value]:
            with b.loop(*span, hint="copy") as loop:
                source = b.gep(rows.pointer, b.mul(loop.index, rows.row), shape.element)
                to = b.gep(copy, b.mul(b.sub(loop.index, span[0]), pitch), shape.element)
                size = b.mul(rows.depth, b.i64(shape.itemsize))
                b.call_void("llvm.memcpy.p0.p0.i64", to, source, size, Value("i1", "false"))
            return [b.gep(copy, b.mul(b.sub(b.i64(0), span[0]), pitch), shape.element), pitch]

        far = b.compare("sge", rows.row, b.i64(FAR // shape.itemsize))
        worth = b.op("and", far, b.compare("sge", columns, b.i64(MANY_COLUMNS)))
        pointer, row = b.when(worth, together, [rows.pointer, rows.row])
        return replace(rows, pointer=pointer, row=row)

    def _block_extent(self) -> Extent:
        source = self._direct()
        if source is None:
            raise BugError("only what is loaded has blocks")
        return self._blocks(source)[1]

    def _blocks(self, source: _Source) -> tuple[Extent, Extent]:
        """How many taps there are (steps of the sum, where there are none) and how many make a block."""
        depth = self._steps(source)
        if self._is_table(source):
            return product(a.extent for a in source.taps), maximum(1, floordiv(BLOCK, maximum(1, depth)))
        return depth, maximum(1, 4 * ceildiv(ceildiv(depth, maximum(1, ceildiv(depth, BLOCK))), 4))

    def _rows(self, source: _Source, pointer: Value, row: Value) -> Rows:
        slot, depth = self.s.ctx.slot, self._steps(source)
        count, block = self._blocks(source)
        table = self._is_table(source)
        return Rows(
            pointer,
            row,
            self.s.value(source.step),
            slot(depth),
            slot(count) if table else None,
            slot(count),
            slot(block),
            slot(depth if table else 1),
        )

    def _steps(self, source: _Source) -> Extent:
        """Steps of the sum within a tap."""
        return ceildiv(product(a.extent for a in source.dense), 2 if self.s.form.pairs else 1)

    # ---- what a load looks like from the register tile

    @property
    def _dtype(self) -> DType:
        """What rows must consist of."""
        return DType.I16 if self.s.form.pairs else self.s.form.dtype

    def _direct(self) -> _Source | None:
        """The left side itself, where registers can take it as it lies: pairs must not reach over the end of a row of an
        operand, nor from one tap into the next."""
        left = before_widening(self.s.form, self.s.form.left)
        source = self._source(left)
        if source is None or not self.s.form.pairs or not isinstance(left, Load):
            return source
        dense = product(a.extent for a in source.dense)
        whole = isinstance(dense, int) and dense % 2 == 0
        local = left.operand in self.s.ctx.program.operand and self.s.ctx.program.operand[left.operand].role == "local"
        return source if source.step == 1 and (whole or (local and not source.taps)) else None

    def _source(self, e: Expr) -> _Source | None:
        """A load that registers can take as it is, along at least one dense axis; None for anything else."""
        load, form = direct_load(e), self.s.form
        if load is None or not isinstance(e, Load) or self.s.ctx.storage(load[0]).dtype is not self._dtype:
            return None
        found = access.plan(Point(self.s.ctx), e.operand, e.index, e.fill is not None)
        guarded = frozenset[str]() if found.inside is None else axes_of(found.inside)
        names = [a.name for a in form.folds]
        split = linear(found.offset, names)
        if split is None or form.k.name in guarded:
            return None
        steps = {a: split[1].get(a, 0) for a in names}
        own = {form.m, *names} - {""}
        if any(symbols_of(x) & own for x in steps.values()):
            return None
        dense, step = [form.k], steps[form.k.name]
        taps = list(form.taps)
        while taps and taps[-1].name not in guarded:
            if steps[taps[-1].name] != step * product(a.extent for a in dense):
                break
            dense.insert(0, taps.pop())
        if (found.inside is not None and step != 1) or (not form.m and (taps or found.inside is not None)):
            return None
        offset = substitute(found.offset, {a.name: 0 for a in dense})
        return _Source(found.storage, tuple(taps), tuple(dense), step, offset, found.inside)

    def _is_table(self, source: _Source) -> bool:
        return bool(source.taps) or source.inside is not None or linear(source.offset, [self.s.form.m]) is None

    # ---- the table

    def _tabulated(self, source: _Source, m: Value, m_end: Value) -> Rows:
        s, b, form = self.s, self.s.b, self.s.form
        count = product(a.extent for a in source.taps)
        if self._table is None:
            self._table = s.ctx.scratch((count * self.chunk + s.ctx.isa.lanes) * ADDRESS)  # vectors reach past the end
        base = s.bind("base", b.convert("ptrtoint", source.storage.pointer, "i64"))
        first, end = s.bind("chunk", m), s.bind("end", m_end)

        def offset(i: Sequence[Extent]) -> Extent:
            return row_major(i[1:], source.taps) * self.chunk + i[0] - first

        name = s.name("table")
        shape = (form_extent(s, form.m), *(a.extent for a in source.taps))
        s.ctx.add_storage(name, Storage(self._table, DType.I64, shape, offset))
        address: Expr = Index(base + source.offset * self._dtype.itemsize)
        inside: Expr = prim("lt", Index(symbol(form.m)), Index(end))
        if source.inside is not None:
            if self._zeros is None:
                raise BugError("rows of zeros must be prepared")
            inside = prim("and", inside, source.inside)
            other: Expr = Index(s.bind("zeros", b.convert("ptrtoint", self._zeros, "i64")))
        else:
            other = Index(base + substitute(source.offset, {form.m: first} | {a.name: 0 for a in source.taps}))
        value = prim("where", inside, address, other)
        axes = (form.m, *(a.name for a in source.taps))
        rows = b.i64(s.shape.rows)
        padded = b.mul(b.op("udiv", b.add(b.sub(m_end, m), b.i64(s.shape.rows - 1)), rows), rows)
        with s.range(form.m, m, b.add(m, padded)):
            s.compute_rows((*axes[1:], form.m), Store(name, tuple(symbol(a) for a in axes), value))
        return self._rows(source, self._table, b.i64(self.chunk))

    # ---- A in scratch

    def _computed(self) -> _Source:
        """Compute the chunk's part of A into scratch, row by row."""
        s, form, dtype = self.s, self.s.form, self._dtype
        m = minimum(self.chunk, s.most(form.m)) if form.m else 1
        pitch = 2 * form.steps if form.pairs else form.depth
        if self._copy is None:
            self._copy = s.ctx.scratch(m * pitch * dtype.itemsize)
        axes = (*((form.m,) if form.m else ()), *(a.name for a in form.folds))
        index: tuple[Extent, ...] = tuple(symbol(a) for a in axes)
        origin = symbol(s.name("chunk")) if form.m else 0

        def offset(i: Sequence[Extent]) -> Extent:
            folds = i[len(i) - len(form.folds) :]
            return row_major(folds, form.folds) + ((i[0] - origin) * pitch if form.m else 0)

        name = s.name("left")
        shape = (*((m,) if form.m else ()), *(a.extent for a in form.folds))
        s.ctx.add_storage(name, Storage(self._copy, dtype, shape, offset))
        s.compute(axes, form.k.name, Store(name, index, cast(before_widening(form, form.left), dtype)))
        source = self._source(Load(name, index, dtype))
        if source is None:
            raise BugError("what was computed into scratch has an address")
        return source


def form_extent(s: ContractContext, axis: str) -> Extent:
    """The whole extent of an axis."""
    return s.ctx.program.axis[axis].extent
