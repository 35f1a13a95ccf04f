"""A contraction with a single column: rows of A times one vector, summed along k in the lanes of a register per row.

Panels would multiply as many columns of zeros as a register has lanes. As many rows as that are taken at once; their
registers are added up across, which leaves one register with a result per row, and the epilogue goes on along the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.dim import Extent, linear, minimum, product, symbol
from fusec.ir.expr import Load, cast
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context, Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import Contraction, direct_load, panel_load, plain_load
from fusec.kernels.cpu.contract_rows import LeftSide, Rows
from fusec.kernels.cpu.contract_tile import TileShape
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.cpu.vector import register_type
from fusec.kernels.kernel import StageTiling
from fusec.target import Isa
from fusec.tile.program import Let, Stage, TileProgram

CHUNK = 64
"""Rows whose addresses and results are in scratch at a time."""
MASKED = ("avx2", "avx512")
"""Levels that load the end of a row without touching what follows it."""


def is_dot(program: TileProgram, form: Contraction, isa: Isa) -> bool:
    """Whether a contraction has one column that lies along k in memory, and rows that do, too."""
    if isa.name not in MASKED or not form.m or program.axis[form.n].extent != 1:
        return False
    if form.dtype not in (DType.F32, DType.F64):
        return False
    load, column = direct_load(form.left), panel_load(form)
    if load is None or column is None or any(program.operand[n].dtype is not form.dtype for n in (load[0], column)):
        return False
    operand = program.operand[load[0]]
    total: Extent = 0
    if program.operand[column].shape[-1] != 1:
        return False
    for d, i in enumerate(load[1]):
        split = linear(i, [form.k.name])
        if split is None:
            return False
        total = total + split[1].get(form.k.name, 0) * product(operand.shape[d + 1 :])
    return total == 1


def emit_dot(ctx: Context, form: Contraction) -> None:
    """Emit such a stage at the builder's position, for the current tile."""
    _Dot(ctx, form).emit()


class _Dot:
    """The loops of one such contraction."""

    def __init__(self, ctx: Context, form: Contraction) -> None:
        self.ctx, self.b, self.form = ctx, ctx.b, form
        lanes = ctx.isa.lanes * 4 // form.dtype.itemsize
        self.shape = TileShape(lanes, 1, lanes, register_type(form.dtype), ctx.isa.fma)
        self.s = ContractContext(ctx, form, self.shape)
        self.left = LeftSide(self.s, CHUNK)
        self.results = ctx.scratch(CHUNK * form.dtype.itemsize)

    def emit(self) -> None:
        """Batch axes outermost, then chunks of rows."""
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
        low, high = self.ctx.bounds(self.form.m)
        with b.loop(low, high, CHUNK, hint="chunk") as loop:
            end = b.smin(b.add(loop.index, b.i64(CHUNK)), high)
            first = self.s.bind("chunk", loop.index)
            with self.s.range(self.form.m, loop.index, end):
                rows, column = self.left.rows(loop.index, end), self._column()
                with b.loop(loop.index, end, self.shape.rows, hint="rows") as row:
                    sums = self._across(self._sums(rows, column, row.index, (loop.index, end)))
                    place = b.gep(self.results, b.sub(row.index, loop.index), self.shape.element)
                    b.store(sums, place, self.shape.alignment)
                self._epilogue(first)

    def _column(self) -> Value:
        """The address of the column's first element."""
        load = plain_load(self.form.right)
        if load is None:
            raise BugError("a single column is a plain load")
        storage, folds = self.ctx.storage(load[0]), [a.name for a in self.form.folds]
        split = linear(storage.offset(load[1]), [self.form.n, *folds])
        if split is None:
            raise BugError("a single column lies along k")
        return self.s.pointer(storage.pointer, split[0])

    def _sums(self, rows: Rows, column: Value, m: Value, span: tuple[Value, Value]) -> list[Value]:
        """A register of partial sums for each of the rows from m on."""
        b, shape = self.b, self.shape
        zeros = [shape.zero] * shape.rows
        if rows.taps is None:
            last = b.sub(span[1], b.i64(1))
            numbers = [b.smin(b.add(m, b.i64(r)), last) for r in range(shape.rows)]
            lines = [b.gep(rows.pointer, b.mul(n, rows.row), shape.element) for n in numbers]
            return self._along(lines, column, rows.depth, zeros)
        table = b.gep(rows.pointer, b.sub(m, span[0]), "i64")
        with b.loop(b.i64(0), rows.taps, 1, zeros, "tap") as loop:
            entry = b.gep(table, b.mul(loop.index, rows.row), "i64")
            lines = [b.load("ptr", b.gep(entry, b.i64(r), "i64")) for r in range(shape.rows)]
            part = b.gep(column, b.mul(loop.index, rows.depth), shape.element)
            loop.next = self._along(lines, part, rows.depth, loop.carried)
        return list(loop.results)

    def _along(self, lines: Sequence[Value], column: Value, depth: Value, start: Sequence[Value]) -> list[Value]:
        """Add the products of `depth` elements: whole vectors, then what is left."""
        b, shape = self.b, self.shape

        def step(k: Value, totals: Sequence[Value], mask: Value | None) -> list[Value]:
            def load(line: Value) -> Value:
                place = b.gep(line, k, shape.element)
                if mask is None:
                    return b.load(shape.type, place, shape.itemsize)
                return b.masked_load(shape.type, place, mask, shape.zero)

            y = load(column)
            return [shape.multiply_add(b, load(line), y, t) for line, t in zip(lines, totals, strict=True)]

        whole = b.op("and", depth, b.i64(-shape.lanes))
        with b.loop(b.i64(0), whole, shape.lanes, start, "k") as loop:
            loop.next = step(loop.index, loop.carried, None)

        def rest() -> list[Value]:
            left = b.splat(b.convert("trunc", b.sub(depth, whole), "i32"), shape.lanes)
            return step(whole, loop.results, b.compare("slt", b.iota(shape.lanes, "i32"), left))

        return b.when(b.compare("slt", whole, depth), rest, loop.results)

    def _across(self, parts: Sequence[Value]) -> Value:
        """One register whose lane r is the sum of the lanes of register r."""
        b, lanes, size = self.b, self.shape.lanes, 1
        parts = list(parts)
        while len(parts) > 1:
            low = [_lane(i, size, lanes, 0) for i in range(lanes)]
            high = [_lane(i, size, lanes, 1) for i in range(lanes)]
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [b.op("fadd", b.shuffle(x, y, low), b.shuffle(x, y, high)) for x, y in pairs]
            size *= 2
        return parts[0]

    def _epilogue(self, first: Extent) -> None:
        """What becomes of the results, along the rows."""
        s, form = self.s, self.form
        name, most = s.name("results"), minimum(CHUNK, s.most(form.m))
        s.ctx.add_storage(name, Storage(self.results, form.dtype, (most,), lambda i: i[0] - first))
        result = Let(form.fold, cast(Load(name, (symbol(form.m),), form.dtype), form.result))
        stage = Stage((*form.batch, form.n, form.m), (), (result, *form.epilogue))
        emit_nest(s.ctx, stage, StageTiling("nest", form.m))


def _lane(i: int, size: int, lanes: int, half: int) -> int:
    """Where lane i of a sum of two registers comes from, in the first or second half of each group of `2 * size` lanes.

    Lanes within a group of `size` belong to different rows; groups of even number stem from the first register.
    """
    group, within = divmod(i, size)
    pair, second = divmod(group, 2)
    return second * lanes + (2 * pair + half) * size + within
