"""The left side of a contraction: where the register tile finds the rows of A.

Rows that are affine in m are reached by arithmetic. Those of a convolution are not (an image's row ends, a window leaves
the image), so a table in scratch holds their addresses, one per tap and row; what lies outside the image is a row of
zeros. Anything that is no plain load is computed into scratch first.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, linear, minimum, product, substitute, symbol, symbols_of
from fusec.ir.expr import Expr, Index, Load, prim
from fusec.ir.types import DType
from fusec.kernels.cpu import access
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import axes_of, direct_load, row_major
from fusec.kernels.cpu.expression import Point
from fusec.tile.program import Axis, Store

ADDRESS = 8
"""Bytes of an entry of a table."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of A for a chunk: `depth` elements, `step` apart, per tap.

    Without taps, row m begins at `pointer + m * row`. With them `pointer` is a table: the address of a row's part
    for a tap is entry `tap * row + (m - first row of the chunk)`, valid for whole register tiles.
    """

    pointer: Value
    row: Value
    step: Value
    depth: Value
    taps: Value | None = None


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
        source = self._source(self.s.form.left)
        if source is None or source.inside is None:
            return
        size = product(a.extent for a in source.dense) * self.s.form.dtype.itemsize
        self._zeros = self.s.ctx.scratch(size)
        b = self.s.b
        b.call_void("llvm.memset.p0.i64", self._zeros, Value("i8", "0"), self.s.ctx.slot(size), Value("i1", "false"))

    def rows(self, m: Value, m_end: Value) -> Rows:
        """The rows of a chunk, at the current batch index."""
        source = self._source(self.s.form.left) or self._computed()
        affine = linear(source.offset, [self.s.form.m])
        if affine is not None and not source.taps and source.inside is None:
            pointer = self.s.pointer(source.storage.pointer, affine[0])
            return self._rows(source, pointer, self.s.value(affine[1].get(self.s.form.m, 0)))
        return self._tabulated(source, m, m_end)

    def _rows(self, source: _Source, pointer: Value, row: Value, taps: Value | None = None) -> Rows:
        depth = self.s.ctx.slot(product(a.extent for a in source.dense))
        return Rows(pointer, row, self.s.value(source.step), depth, taps)

    # ---- what a load looks like from the register tile

    def _source(self, e: Expr) -> _Source | None:
        """A load that registers can take as it is, along at least one dense axis; None for anything else."""
        load, form = direct_load(e), self.s.form
        if load is None or not isinstance(e, Load) or self.s.ctx.storage(load[0]).dtype is not form.dtype:
            return None
        found = access.plan(Point(self.s.ctx), e.operand, e.index, e.fill)
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

    # ---- the table

    def _tabulated(self, source: _Source, m: Value, m_end: Value) -> Rows:
        s, b, form = self.s, self.s.b, self.s.form
        count = product(a.extent for a in source.taps)
        if self._table is None:
            self._table = s.ctx.scratch(count * (self.chunk * ADDRESS))
        base = s.bind("base", b.convert("ptrtoint", source.storage.pointer, "i64"))
        first, end = s.bind("chunk", m), s.bind("end", m_end)
        place = row_major(source.taps) * self.chunk + symbol(form.m) - first
        name = s.name("table")
        shape = (form_extent(s, form.m), *(a.extent for a in source.taps))
        s.ctx.add_storage(name, Storage(self._table, DType.I64, shape, lambda _: place))
        address: Expr = Index(base + source.offset * form.dtype.itemsize)
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
            s.compute(axes, "", Store(name, tuple(symbol(a) for a in axes), value))
        return self._rows(source, self._table, b.i64(self.chunk), s.ctx.slot(count))

    # ---- A in scratch

    def _computed(self) -> _Source:
        """Compute the chunk's part of A into scratch, row by row."""
        s, form, depth = self.s, self.s.form, self.s.form.depth
        m = minimum(self.chunk, s.most(form.m)) if form.m else 1
        if self._copy is None:
            self._copy = s.ctx.scratch(m * depth * form.dtype.itemsize)
        axes = (*((form.m,) if form.m else ()), *(a.name for a in form.folds))
        index: tuple[Extent, ...] = tuple(symbol(a) for a in axes)
        origin = symbol(s.name("chunk")) if form.m else 0
        place = form.place + ((symbol(form.m) - origin) * depth if form.m else 0)
        name = s.name("left")
        shape = (*((m,) if form.m else ()), *(a.extent for a in form.folds))
        s.ctx.add_storage(name, Storage(self._copy, form.dtype, shape, lambda _: place))
        s.compute(axes, form.k.name, Store(name, index, form.left))
        source = self._source(Load(name, index, form.dtype))
        if source is None:
            raise BugError("what was computed into scratch has an address")
        return source


def form_extent(s: ContractContext, axis: str) -> Extent:
    """The whole extent of an axis."""
    return s.ctx.program.axis[axis].extent
