"""What becomes of the product: lets and stores, from registers where they are short, else from a tile of results.

From registers a result never touches memory before it is final, which counts where sums are short. It takes whole panels;
what a tile has of others, and longer epilogues, go through the tile of results and an ordinary loop nest. So does what is
stored column by column, as an image with its channels in front is: squares of the tile are turned around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.ir.dim import Extent, symbol
from fusec.ir.expr import TRANSCENDENTAL, Load, Prim, cast, walk
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_form import stores_columns
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Let, Stage, Store

SHORT = 8
"""Operations and loads of an epilogue that runs from registers: it is written out for each row of a register tile."""
SHORT_SUM = 512
"""Products from which on a sum takes so long that the way through memory does not show."""


class Epilogue:
    """The statements after the product, for a group of columns."""

    def __init__(self, state: ContractContext, pitch: Extent, chunk: int) -> None:
        self.s = state
        self.pitch = pitch
        self.row = state.ctx.slot(pitch)
        self.results = state.ctx.scratch(pitch * (chunk * state.form.dtype.itemsize))
        self.turned = stores_columns(state.ctx.program, state.form)
        self.in_registers = self._is_short() and not self.turned
        self._point = Point(state.ctx, state.form.n, state.shape.lanes)

    def _is_short(self) -> bool:
        form = self.s.form
        if form.result is not form.dtype or (isinstance(form.depth, int) and form.depth > SHORT_SUM):
            return False
        cost = 0
        for s in form.epilogue:
            parts = list(walk(s.value)) if isinstance(s, Let | Store) else []
            cost += isinstance(s, Store) + sum(isinstance(x, Prim | Load) for x in parts)
            if any(isinstance(x, Prim) and x.name in TRANSCENDENTAL for x in parts):
                return False
        return cost <= SHORT

    # ---- from registers

    def from_registers(self, totals: Sequence[Value], m: Value, m_end: Value, n: Value) -> None:
        """Store the results of whole rows of a register tile, those below `m_end`; all of its columns exist."""
        b, shape = self.s.b, self.s.shape
        rows = len(totals) // shape.columns
        bases = [b.add(n, b.i64(c * shape.lanes)) for c in range(shape.columns)]
        writes = []
        for r in range(rows):
            own = totals[r * shape.columns : (r + 1) * shape.columns]
            writes.append((b.i64(r), self._row_of(b.add(m, b.i64(r)), bases, own)))

        def all_rows() -> None:
            for _, write in writes:
                write()

        def some_rows() -> None:
            left = b.sub(m_end, m)
            for r, write in writes[:-1]:
                b.when(b.compare("slt", r, left), write)

        if rows == 1:
            all_rows()
        else:
            b.either(b.compare("sle", b.add(m, b.i64(rows)), m_end), all_rows, some_rows)

    def _row_of(self, m: Value, bases: Sequence[Value], totals: Sequence[Value]) -> Callable[[], Sequence[Value]]:
        form, point = self.s.form, self._point

        def write() -> Sequence[Value]:
            point.place(self.s.batch | ({form.m: m} if form.m else {}))
            point.at_lanes(bases)
            point.bind(form.fold, *totals)
            point.run(form.epilogue)
            return []

        return write

    # ---- from memory

    def places(self, row: Value, column: Value) -> list[Value]:
        """Where the sums of the largest register tile lie that begins at a row and a column of the tile of results."""
        b, shape, out = self.s.b, self.s.shape, list[Value]()
        first = b.add(b.mul(row, self.row), column)
        for r in range(shape.rows):
            line = b.gep(self.results, b.add(first, b.mul(b.i64(r), self.row)), shape.element)
            out += [b.gep(line, b.i64(c * shape.lanes), shape.element) for c in range(shape.columns)]
        return out

    def from_memory(self) -> None:
        """Run over the current ranges of rows and columns, reading the product from the tile of results."""
        s, form, pitch = self.s, self.s.form, self.pitch
        name, column = s.name("results"), symbol(s.name("group"))
        row: Extent = symbol(s.name("chunk")) if form.m else 0
        index = tuple(symbol(a) for a in (form.m, form.n) if a)

        def offset(i: Sequence[Extent]) -> Extent:
            return i[-1] - column + ((i[0] - row) * pitch if form.m else 0)

        shape = tuple(s.ctx.program.axis[a].extent for a in (form.m, form.n) if a)
        s.ctx.add_storage(name, Storage(self.results, form.dtype, shape, offset))
        result = Let(form.fold, cast(Load(name, index, form.dtype), form.result))
        axes = (*form.batch, *((form.m,) if form.m else ()), form.n)
        stage = Stage(axes, (), (result, *form.epilogue))
        if self.turned:
            emit_nest(s.ctx, stage, StageTiling("nest", form.m, s.ctx.isa.lanes), turned=form.n)
        else:
            emit_nest(s.ctx, stage, StageTiling("nest", form.n))
