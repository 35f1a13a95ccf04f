"""What the parts of one contraction share while it is emitted: its form and register tile, and where the loops stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusec.ir.dim import Extent, symbol
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.contract_form import Contraction
from fusec.kernels.cpu.contract_tile import TileShape
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Stage, Store

COMPARES = 8
"""Lanes of the levels that compare vectors of 64-bit numbers in one instruction."""


class ContractContext:
    """One contraction being emitted."""

    def __init__(self, ctx: Context, form: Contraction, shape: TileShape) -> None:
        self.ctx = ctx
        self.b = ctx.b
        self.form = form
        self.shape = shape
        self.batch: dict[str, Value] = {}
        """The indices of the batch axes."""
        self._id = len(ctx.symbols)
        self._point = Point(ctx)

    def name(self, what: str) -> str:
        """A name that no other contraction of the kernel uses."""
        return f"{what}.{self._id}"

    def bind(self, what: str, value: Value) -> Extent:
        """Give a register a name, so that offsets may contain it."""
        self.ctx.symbols[self.name(what)] = value
        return symbol(self.name(what))

    def value(self, x: Extent) -> Value:
        """An offset or a stride at the current batch index."""
        self._point.place(self.batch)
        return self._point.value(self._point.interner.index(x))

    def pointer(self, base: Value, offset: Extent, element: str = "") -> Value:
        """The address `offset` elements (by default of the register tile) behind a base, at the current batch index."""
        return self.b.gep(base, self.value(offset), element or self.shape.element)

    def most(self, axis: str) -> Extent:
        """How many indices of an axis a tile has at most."""
        return symbol(f"tile_{axis}") if axis in self.ctx.task_axes else self.ctx.program.axis[axis].extent

    def compute(self, axes: tuple[str, ...], lane: str, store: Store) -> None:
        """Store something for all indices of some axes within their current ranges, at the current batch index."""
        stage = Stage((*self.form.batch, *axes), (), (store,))
        emit_nest(self.ctx, stage, StageTiling("nest", lane))

    def compute_rows(self, axes: tuple[str, ...], store: Store) -> None:
        """The same of 64-bit numbers, vectors along the image rows of the last axis: up to `isa.lanes` elements behind the
        last one are overwritten. Levels that compare no 64-bit vectors do it one by one."""
        stage, wide = Stage((*self.form.batch, *axes), (), (store,)), self.ctx.isa.lanes >= COMPARES
        emit_nest(self.ctx, stage, StageTiling("nest", axes[-1] if wide else ""), past_end=wide)

    @contextmanager
    def range(self, axis: str, low: Value, high: Value) -> Iterator[None]:
        """Narrow what an axis runs over for a while."""
        starts, ends = self.ctx.starts, self.ctx.ends
        before = (starts[axis], ends[axis]) if axis in starts else None
        starts[axis], ends[axis] = low, high
        yield
        if before is None:
            del starts[axis], ends[axis]
        else:
            starts[axis], ends[axis] = before
