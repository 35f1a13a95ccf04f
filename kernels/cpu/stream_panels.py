"""Keys and values of a streamed attention in panels: those of a block, packed once for all rows of a tile.

Weights may lie in panels already; then nothing is packed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fusec.ir.dim import Extent, ceildiv, linear, symbol
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import panel_load, plain_load
from fusec.kernels.cpu.contract_pack import pack_transposed
from fusec.kernels.cpu.contract_panels import RightSide
from fusec.kernels.layout import Layout
from fusec.tile.program import Store


class _Panels(ABC):
    """B of one of the two products, a block at a time."""

    def __init__(self, state: ContractContext, elements: Extent) -> None:
        self.s, self.b, self.shape = state, state.b, state.shape
        self.width = state.shape.width
        self.stored = RightSide(state) if self._lies_in_panels() else None
        self.room = Value("ptr", "null") if self.stored else state.ctx.scratch(elements * state.form.dtype.itemsize)
        self.begin = state.b.i64(0)

    def pack(self, n: Value, n_end: Value) -> None:
        """What the positions [n, n_end) read."""
        self.begin = n
        if self.stored is None:
            self._pack(n, n_end)

    @abstractmethod
    def _pack(self, n: Value, n_end: Value) -> None: ...

    def _lies_in_panels(self) -> bool:
        operand = panel_load(self.s.form)
        if operand is None:
            return False
        rank = len(self.s.ctx.program.operand[operand].shape)
        return self.s.ctx.kernel.layouts[operand] == Layout.panels(rank, self.width)

    def compute(self, place: Value, offset: Extent) -> None:
        """Compute a part of B into a panel."""
        s, name = self.s, self.s.name("right")
        axes = (s.form.k.name, s.form.n)
        extents = tuple(s.ctx.program.axis[a].extent for a in axes)
        s.ctx.add_storage(name, Storage(place, s.form.dtype, extents, lambda _: offset))
        s.compute(axes, s.form.n, Store(name, tuple(symbol(a) for a in axes), s.form.right))

    def contiguous(self, along: str, across: str) -> tuple[Value, Value] | None:
        """Base of B and its stride across, where it is a plain load that is contiguous along one of its axes."""
        s = self.s
        load = plain_load(s.form.right)
        if load is None or s.ctx.storage(load[0]).dtype is not s.form.dtype:
            return None
        storage = s.ctx.storage(load[0])
        split = linear(storage.offset(load[1]), [along, across])
        if split is None or split[1].get(along) != 1 or split[1].get(across, 0) in (0, 1):
            return None
        return s.pointer(storage.pointer, split[0]), s.value(split[1][across])


class Keys(_Panels):
    """B of the scores: its columns are positions, a block of them exists at once."""

    def __init__(self, state: ContractContext, block: int) -> None:
        super().__init__(state, state.form.depth * block)

    def _pack(self, n: Value, n_end: Value) -> None:
        """The keys of positions [n, n_end)."""
        s, b, form = self.s, self.b, self.s.form
        source, depth = self.contiguous(form.k.name, form.n), s.ctx.slot(form.depth)
        with b.loop(n, n_end, self.width, hint="keys") as loop:
            place = b.gep(self.room, b.mul(b.sub(loop.index, n), depth), self.shape.element)
            end = b.smin(b.add(loop.index, b.i64(self.width)), n_end)
            if source is None:
                begin = s.bind("panel", loop.index)
                with s.range(form.n, loop.index, end):
                    self.compute(place, symbol(form.k.name) * self.width + symbol(form.n) - begin)
            else:
                pack_transposed(b, self.shape, source, place, loop.index, end, depth)

    def panel(self, n: Value, n_end: Value) -> Value:
        """The panel of the keys from position n on."""
        if self.stored is not None:
            return self.stored.panels(n, n_end)[0]
        offset = self.b.mul(self.b.sub(n, self.begin), self.s.ctx.slot(self.s.form.depth))
        return self.b.gep(self.room, offset, self.shape.element)


class Values(_Panels):
    """B of the second product: it is summed over positions, a block of them exists at once, in all columns."""

    def __init__(self, state: ContractContext, block: int) -> None:
        width = state.shape.width
        self.block = block
        self.columns = state.ctx.program.axis[state.form.n].extent
        super().__init__(state, ceildiv(self.columns, width) * (width * block))

    def _pack(self, n: Value, n_end: Value) -> None:
        """The values of positions [n, n_end)."""
        s, b, form = self.s, self.b, self.s.form
        begin, columns = s.bind("block", n), s.ctx.slot(self.columns)
        source = self.contiguous(form.n, form.k.name)
        with b.loop(b.i64(0), columns, self.width, hint="values") as loop:
            place, at = b.gep(self.room, b.mul(loop.index, b.i64(self.block)), self.shape.element), loop.index
            end = b.smin(b.add(at, b.i64(self.width)), columns)
            start = s.bind("panel", at)

            def compute() -> Sequence[Value]:
                with s.range(form.k.name, n, n_end), s.range(form.n, at, end):
                    self.compute(place, (symbol(form.k.name) - begin) * self.width + symbol(form.n) - start)
                return []

            if source is None:
                compute()
            else:
                full = b.compare("eq", b.sub(end, at), b.i64(self.width))
                rows = (b.gep(source[0], at, self.shape.element), source[1])
                b.when(full, lambda: self._copied(rows, place, n, n_end))
                b.when(b.op("xor", full, Value("i1", "true")), compute)

    def panel(self, column: Value) -> Value:
        """The panel of the values from a column on, at the block's first position."""
        b = self.b
        if self.stored is not None:
            place = self.stored.panels(column, column)[0]
            return b.gep(place, b.mul(self.begin, b.i64(self.width)), self.shape.element)
        return b.gep(self.room, b.mul(column, b.i64(self.block)), self.shape.element)

    def _copied(self, source: tuple[Value, Value], place: Value, n: Value, n_end: Value) -> Sequence[Value]:
        """A whole panel of values that lie row by row."""
        b, shape = self.b, self.shape
        base, pitch = source
        with b.loop(n, n_end, hint="copy") as loop:
            line = b.gep(base, b.mul(loop.index, pitch), shape.element)
            to = b.gep(place, b.mul(b.sub(loop.index, n), b.i64(self.width)), shape.element)
            for v in range(shape.vectors):
                at = b.i64(v * shape.lanes)
                place_of = b.gep(to, at, shape.element)
                b.store(b.load(shape.type, b.gep(line, at, shape.element)), place_of, shape.lanes * shape.itemsize)
        return []
