"""The right side of a contraction: B in panels, `width` columns wide and stored product by product.

Weights lie in panels already; of anything else, a panel at a time is packed into scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, ceildiv, linear, symbol
from fusec.ir.expr import cast
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import before_widening, panel_load, plain_load, row_major
from fusec.kernels.cpu.contract_pack import clear_panel, pack_transposed
from fusec.kernels.layout import Layout
from fusec.tile.program import Store


@dataclass(frozen=True, slots=True)
class _Stored:
    """A weight in panels: the address of its first one, its columns in whole panels, and where column 0 lies in them."""

    operand: str
    shift: Extent


class RightSide:
    """B, at any batch index and column."""

    def __init__(self, state: ContractContext, along_sum: bool = False) -> None:
        self.s = state
        self._stored = None if along_sum else self._lies_in_panels()
        self._in_place = along_sum
        size = state.form.steps * (state.shape.width * state.shape.panels * state.form.dtype.itemsize)
        self._room = None if self._stored or along_sum else state.ctx.scratch(size)

    def _lies_in_panels(self) -> _Stored | None:
        form, ctx = self.s.form, self.s.ctx
        operand, load = panel_load(form), plain_load(before_widening(form, form.right))
        if operand is None or load is None:
            return None
        rank, panels = len(ctx.program.operand[operand].shape), Layout.paired if form.pairs else Layout.panels
        if ctx.kernel.layouts[operand] != panels(rank, self.s.shape.width):
            return None
        return _Stored(operand, load[1][-1] - symbol(form.n))

    @property
    def is_stored(self) -> bool:
        """Whether panels lie in memory already."""
        return self._stored is not None

    def first(self, low: Value) -> Value:
        """The column at which the first panel begins that holds column `low`: a tile may begin inside one."""
        b = self.s.b
        if self._stored is None:
            return low
        width, shift = b.i64(self.s.shape.width), self.s.value(self._stored.shift)
        return b.sub(b.mul(b.op("udiv", b.add(low, shift), width), width), shift)

    def panels(self, n: Value, n_end: Value) -> list[Value]:
        """The panels from column n on, as many as a register tile takes; those past the end repeat the last one."""
        s, b, shape = self.s, self.s.b, self.s.shape
        if self._in_place:
            return self._columns(n, n_end)
        if self._stored is not None:
            return self._stored_panels(self._stored, n)
        if self._room is None:
            raise BugError("panels need scratch memory")
        if shape.panels == 1:
            self._pack(self._room, n, n_end)
            return [self._room]
        size = b.mul(s.ctx.slot(s.form.steps), b.i64(shape.width))
        with b.loop(b.i64(0), b.i64(shape.panels), hint="pack") as loop:
            place = b.gep(self._room, b.mul(loop.index, size), shape.element)
            self._pack(place, b.add(n, b.mul(loop.index, b.i64(shape.width))), n_end)
        return [b.gep(self._room, b.mul(b.i64(p), size), shape.element) for p in range(shape.panels)]

    def behind(self, n: Value) -> tuple[Value, Value] | None:
        """The end of the panel behind the one at column n, in the first row of a B that is packed from rows in memory, and
        the distance of these rows; None where it does not lie so."""
        s, form, load = self.s, self.s.form, plain_load(self.s.form.right)
        if self._stored or self._in_place or form.taps or form.pairs or load is None:
            return None
        storage = s.ctx.storage(load[0])
        split = linear(storage.offset(load[1]), [form.n, form.k.name])
        if storage.dtype is not form.dtype or split is None or split[1].get(form.n) != 1:
            return None
        end = s.b.add(n, s.b.i64(2 * s.shape.width * s.shape.panels - 1))
        place = s.b.gep(s.pointer(storage.pointer, split[0]), end, s.shape.element)
        return place, s.value(split[1].get(form.k.name, 0))

    def _columns(self, n: Value, n_end: Value) -> list[Value]:
        """The columns from n on, as many as a vector has lanes; those past the end repeat the last one."""
        b, (base, stride) = self.s.b, self.along_sum()
        last = b.sub(n_end, b.i64(1))
        columns = [b.smin(b.add(n, b.i64(j)), last) for j in range(self.s.shape.width)]
        return [b.gep(base, b.mul(j, stride), self.s.shape.element) for j in columns]

    def along_sum(self) -> tuple[Value, Value]:
        """The first column of B and the distance to the next one, where columns are contiguous along the sum."""
        found = self._transposed()
        if found is None:
            raise BugError(f"{self.s.ctx.program.name}: the columns of B are not contiguous")
        return found

    def _stored_panels(self, stored: _Stored, n: Value) -> list[Value]:
        s, b, width = self.s, self.s.b, self.s.shape.width
        storage, load = s.ctx.storage(stored.operand), plain_load(before_widening(s.form, s.form.right))
        if load is None:
            raise BugError("packed weights are plain loads")
        operand = s.ctx.program.operand[stored.operand]
        panels, steps = ceildiv(operand.shape[-1], width), ceildiv(operand.shape[-2], 2 if s.form.pairs else 1)
        batch: Extent = 0
        for i, d in zip(load[1][:-2], operand.shape, strict=False):
            batch = batch * d + i
        base = s.pointer(storage.pointer, batch * (panels * steps * width), s.shape.panel_element)
        last = b.mul(b.sub(s.ctx.slot(panels), b.i64(1)), b.i64(width))
        n = b.add(n, s.value(stored.shift))
        out = []
        for p in range(s.shape.panels):
            column = b.smin(b.add(n, b.i64(p * width)), last) if p else n
            out.append(b.gep(base, b.mul(column, s.ctx.slot(steps)), s.shape.panel_element))
        return out

    def _pack(self, place: Value, n: Value, n_end: Value) -> None:
        """Columns [n, n + width) of B into a panel, zeros past the end."""
        s, b, form = self.s, self.s.b, self.s.form
        depth, width = s.ctx.slot(form.depth), s.shape.width
        end = b.smin(b.add(n, b.i64(width)), n_end)
        full = b.compare("eq", b.sub(end, n), b.i64(width))
        if form.pairs:
            full = b.op("and", full, b.compare("eq", b.op("and", depth, b.i64(1)), b.i64(0)))
        clear_panel(b, s.shape, place, s.ctx.slot(form.steps), unless=full)
        source = self._transposed()
        if source is not None:
            b.when(b.compare("slt", n, end), lambda: pack_transposed(b, s.shape, source, place, n, end, depth))
            return
        name = s.name("right")
        start = s.bind("panel", n)

        def offset(i: Sequence[Extent]) -> Extent:
            k, column = row_major(i[:-1], form.folds), i[-1] - start
            return (k // 2 * width + column) * 2 + k % 2 if form.pairs else k * width + column

        shape = (*(a.extent for a in form.folds), s.ctx.program.axis[form.n].extent)
        dtype = DType.I16 if form.pairs else form.dtype
        s.ctx.add_storage(name, Storage(place, dtype, shape, offset))
        axes = (*(a.name for a in form.folds), form.n)
        with s.range(form.n, n, end):
            right = cast(before_widening(form, form.right), dtype)
            s.compute(axes, form.n, Store(name, tuple(symbol(a) for a in axes), right))

    def _transposed(self) -> tuple[Value, Value] | None:
        """Base and column stride of a B that is a plain load, contiguous along the sum and not along n."""
        load, form = plain_load(self.s.form.right), self.s.form
        if load is None or self.s.ctx.storage(load[0]).dtype is not form.dtype:
            return None
        storage = self.s.ctx.storage(load[0])
        split = linear(storage.offset(load[1]), [form.n, *(a.name for a in form.folds)])
        if split is None or split[1].get(form.n, 0) in (0, 1):
            return None
        rest, steps = split
        along: Extent = 1
        for a in reversed(form.folds):
            if steps.get(a.name) != along:
                return None
            along = along * a.extent
        return self.s.pointer(storage.pointer, rest), self.s.value(steps[form.n])
