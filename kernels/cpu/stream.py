"""emit_stream: attention with the positions going by in blocks, so that scores never leave the first level cache.

Loop order, outermost first: batch axes; blocks of positions, whose keys and values are packed into panels once for all rows
of the tile; chunks of rows. For a chunk, the scores of the block are computed on register tiles, get what the program does
to them (scale, mask), and become powers of e; the product with the values is added to what earlier blocks gave. Per row,
the largest score so far and the sum of the powers are kept; where the largest grows, what was summed is scaled down.
Blocks that a causal mask hides from a whole chunk are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusec.errors import BugError
from fusec.ir.dim import Extent, ceildiv, maximum, substitute, symbol
from fusec.ir.expr import Load, cast
from fusec.kernels.cpu.builder import Value, constant
from fusec.kernels.cpu.context import Context, Storage
from fusec.kernels.cpu.contract_context import ContractContext
from fusec.kernels.cpu.contract_rows import LeftSide, Rows
from fusec.kernels.cpu.contract_tile import TileShape, emit_taps, emit_tile
from fusec.kernels.cpu.floats import Floats
from fusec.kernels.cpu.math_exp import exp_below
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.cpu.stream_form import Attention, after_factor, attention
from fusec.kernels.cpu.stream_panels import Keys, Values
from fusec.kernels.cpu.vector import register_type
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Let, Stage

BLOCK = 256
"""Positions that go by at once at most: their keys and values, and the scores of a chunk, stay in cache."""
CHUNK_ROWS = 24
"""Rows whose scores exist at once."""
COPIES = 4
"""Vectors side by side, where one alone would wait for itself."""


def emit_stream(ctx: Context, tiling: StageTiling) -> None:
    """Emit all stages of a program at the builder's position, for the current tile. BugError where it is no attention."""
    form = attention(ctx.program)
    if form is None:
        raise BugError(f"{ctx.program.name}: the program is no attention and cannot be streamed")
    _Stream(ctx, form, tiling).emit()


class _Stream:
    """One attention being emitted."""

    def __init__(self, ctx: Context, form: Attention, tiling: StageTiling) -> None:
        self.ctx, self.b, self.form = ctx, ctx.b, form
        dtype = form.scores.dtype
        self.dtype = dtype
        lanes = ctx.isa.lanes * 4 // dtype.itemsize
        shape = TileShape(tiling.rows, tiling.vectors, lanes, register_type(dtype), ctx.isa.fma)
        self.shape = shape
        self.scores = ContractContext(ctx, form.scores, shape)
        self.scores.bind("own", self.b.i64(0))  # names of the two contractions are told apart by how many there are
        self.values = ContractContext(ctx, form.values, shape)
        self.chunk = shape.rows * max(1, CHUNK_ROWS // shape.rows)
        self.block = -(-BLOCK // shape.width) * shape.width
        self.pitch = self.block + shape.width
        self.m, self.n, self.e = form.scores.m, form.axis, form.values.n
        rows = ceildiv(symbol(f"tile_{self.m}"), self.chunk) * self.chunk
        self.depth = form.scores.depth
        self.width: Extent = ceildiv(ctx.program.axis[self.e].extent, shape.width) * shape.width
        size = dtype.itemsize
        self.held = ctx.scratch(self.chunk * self.pitch * size)
        self.keys, self.panels = Keys(self.scores, self.block), Values(self.values, self.block)
        self.sums = ctx.scratch(rows * self.width * size)
        self.top, self.total = ctx.scratch(rows * size), ctx.scratch(rows * size)
        self.shrink = ctx.scratch(self.chunk * size)
        self.left = LeftSide(self.scores, self.chunk)
        self.rows = rows

    # ---- loops

    def emit(self) -> None:
        """Batch axes outermost."""
        self.left.prepare()
        self._batches(self.form.scores.batch)

    def _batches(self, axes: Sequence[str]) -> None:
        if not axes:
            self._rows()
            return
        low, high = self.ctx.bounds(axes[0])
        with self.b.loop(low, high, hint=axes[0]) as loop:
            self.scores.batch[axes[0]] = self.values.batch[axes[0]] = loop.index
            with self.scores.range(axes[0], loop.index, self.b.add(loop.index, self.b.i64(1))):
                self._batches(axes[1:])

    def _rows(self) -> None:
        b = self.b
        low, high = self.ctx.bounds(self.m)
        self.first = low
        self._start()
        end = self.ctx.slot(self.ctx.program.axis[self.n].extent)
        end = self._seen(high, end)
        step = self.ctx.slot(self._step())
        with b.loop(b.i64(0), end, step, hint="block") as loop:
            stop = b.smin(b.add(loop.index, step), end)
            self.scores.bind("block", loop.index)
            self.keys.pack(loop.index, stop)
            self.panels.pack(loop.index, stop)
            with b.loop(low, high, self.chunk, hint="chunk") as chunk:
                m_end = b.smin(b.add(chunk.index, b.i64(self.chunk)), high)
                self._visit(chunk.index, m_end, loop.index, stop)
        self._finish(low, high)

    def _step(self) -> Extent:
        """Positions of a block: all blocks are about as long."""
        extent, width = self.ctx.program.axis[self.n].extent, self.shape.width
        blocks = maximum(1, ceildiv(extent, self.block))
        return maximum(1, ceildiv(ceildiv(extent, blocks), width)) * width

    def _visit(self, m: Value, m_end: Value, n: Value, n_end: Value) -> None:
        """A chunk and a block, unless the chunk's rows see none of the block."""
        seen = self._seen(m_end, n_end)

        def visit() -> Sequence[Value]:
            self._chunk(m, m_end, n, seen)
            return []

        if self.form.seen is None:
            visit()
        else:
            self.b.when(self.b.compare("slt", n, seen), visit)

    def _seen(self, m_end: Value, end: Value) -> Value:
        """Where the positions end that some row before m_end sees, at most `end`."""
        if self.form.seen is None:
            return end
        last = self.scores.bind("last", self.b.sub(m_end, self.b.i64(1)))
        return self.b.smin(self.scores.value(substitute(self.form.seen, {self.m: last})), end)

    def _start(self) -> None:
        """Nothing is seen yet."""
        b, size, zero = self.b, self.dtype.itemsize, Value("i8", "0")
        for place, count in ((self.sums, self.rows * self.width), (self.total, self.rows)):
            b.call_void("llvm.memset.p0.i64", place, zero, self.ctx.slot(count * size), Value("i1", "false"))
        low, extent = constant(self.shape.element, float("-inf")), self.ctx.program.axis[self.n].extent
        if not isinstance(extent, int):  # of no positions the sum is 0; only who saw none of some has none
            is_empty = b.compare("eq", self.ctx.slot(extent), b.i64(0))
            low = b.select(is_empty, constant(self.shape.element, 0.0), low)
        with b.loop(b.i64(0), self.ctx.slot(self.rows), hint="row") as loop:
            b.store(low, b.gep(self.top, loop.index, self.shape.element))

    # ---- a chunk of rows and a block of positions

    def _chunk(self, m: Value, m_end: Value, n: Value, n_end: Value) -> None:
        s, b = self.scores, self.b
        s.bind("chunk", m)
        with s.range(self.m, m, m_end):
            self._products(self.left.rows(m, m_end), m, m_end, n, n_end)
            self._masked(n, n_end)
            count = b.sub(n_end, n)
            with b.loop(m, m_end, hint="row") as loop:
                self._powers(b.sub(loop.index, m), b.sub(loop.index, self.first), count)
            self._added(m, m_end, count)

    def _products(self, rows: Rows, m: Value, m_end: Value, n: Value, n_end: Value) -> None:
        """Scores of the chunk, as they come from the product."""
        b, shape = self.b, self.shape
        depth, last = self.ctx.slot(self.depth), b.sub(m_end, b.i64(1))
        nothing = [constant(shape.type, 0.0)] * (shape.rows * shape.vectors)
        with b.loop(n, n_end, shape.width, hint="panel") as panel:
            column = b.sub(panel.index, n)
            place = self.keys.panel(panel.index, n_end)
            with b.loop(m, m_end, shape.rows, hint="rows") as loop:
                if rows.taps is not None:
                    table = b.gep(rows.pointer, b.sub(loop.index, m), "i64")
                    totals = emit_taps(b, shape, table, rows.row, rows.taps, rows.step, [place], rows.depth, nothing)
                else:
                    lines = self._lines(rows, loop.index, last)
                    totals = emit_tile(b, shape, lines, rows.step, [place], b.i64(shape.width), depth, nothing)
                line = b.add(b.mul(b.sub(loop.index, m), b.i64(self.pitch)), column)
                self._store_tile(totals, self.held, line, b.i64(self.pitch))

    def _lines(self, rows: Rows, m: Value, last: Value) -> list[Value]:
        """Where the rows of a register tile begin; those past the end repeat the last one."""
        b = self.b
        places = [b.smin(b.add(m, b.i64(r)), last) if r else m for r in range(self.shape.rows)]
        return [b.gep(rows.pointer, b.mul(at, rows.row), self.shape.element) for at in places]

    def _store_tile(self, totals: Sequence[Value], base: Value, first: Value, pitch: Value) -> None:
        b, shape = self.b, self.shape
        for i, total in enumerate(totals):
            r, c = divmod(i, shape.vectors)
            place = b.add(b.add(first, b.mul(pitch, b.i64(r))), b.i64(c * shape.lanes))
            b.store(total, b.gep(base, place, shape.element), min(64, shape.lanes * shape.itemsize))

    def _masked(self, n: Value, n_end: Value) -> None:
        """What the program does to a score."""
        s, form = self.scores, self.form
        name = s.name("scores")
        index = (symbol(self.m), symbol(self.n))
        offset = (symbol(self.m) - symbol(s.name("chunk"))) * self.pitch + symbol(self.n) - symbol(s.name("block"))
        extents = tuple(self.ctx.program.axis[a].extent for a in (self.m, self.n))
        for what, shape in ((name, extents), (form.held, self.ctx.program.operand[form.held].shape)):
            self.ctx.add_storage(what, Storage(self.held, self.dtype, shape, lambda _: offset))
        result = Let(form.scores.fold, cast(Load(name, index, self.dtype), form.scores.result))
        stage = Stage((*form.scores.batch, self.m, self.n), (), (result, *form.scores.epilogue))
        with s.range(self.n, n, n_end):
            emit_nest(self.ctx, stage, StageTiling("nest", self.n))

    def _powers(self, row: Value, place: Value, count: Value) -> None:
        """One row of scores becomes powers; its largest score, its sum and what shrinks earlier sums are noted."""
        b, shape, element = self.b, self.shape, self.shape.element
        lanes, wide = shape.lanes, shape.type
        low = constant(element, float("-inf"))
        line = b.gep(self.held, b.mul(row, b.i64(self.pitch)), element)
        step = lanes * COPIES
        whole = b.op("and", b.add(count, b.i64(step - 1)), b.i64(-step))
        with b.loop(count, whole, hint="pad") as loop:  # up to whole vectors: nothing, which becomes zero
            b.store(low, b.gep(line, loop.index, element))

        def vectors(at: Value) -> list[Value]:
            return [b.gep(line, b.add(at, b.i64(c * lanes)), element) for c in range(COPIES)]

        with b.loop(b.i64(0), whole, step, [constant(wide, float("-inf"))] * COPIES, "top") as loop:
            found = [b.load(wide, p, self._aligned) for p in vectors(loop.index)]
            # a NaN is left out here and turns up in the sum
            loop.next = [b.select(b.compare("ogt", x, t), x, t) for x, t in zip(found, loop.carried, strict=True)]
        largest = self._joined(loop.results, lambda x, y: b.select(b.compare("ogt", x, y), x, y))
        old_place = b.gep(self.top, place, element)
        old = b.load(element, old_place)
        new = b.select(b.compare("ogt", largest, old), largest, old)
        b.store(new, old_place)
        none = b.compare("oeq", new, low)
        base = b.select(none, constant(element, 0.0), new)
        shrink = self._exp(b.op("fsub", old, base))
        spread = b.splat(base, lanes)
        with b.loop(b.i64(0), whole, step, [constant(wide, 0.0)] * COPIES, "power") as loop:
            places = vectors(loop.index)
            powers = [self._exp(b.op("fsub", b.load(wide, p, self._aligned), spread)) for p in places]
            for x, p in zip(powers, places, strict=True):
                b.store(self._clean(x), p, self._aligned)
            loop.next = [b.op("fadd", t, x) for t, x in zip(loop.carried, powers, strict=True)]
        added = self._joined(loop.results, lambda x, y: b.op("fadd", x, y))
        total = b.gep(self.total, place, element)
        b.store(self.ctx.arithmetic.fma(b.load(element, total), shrink, added), total)
        b.store(self._clean(shrink), b.gep(self.shrink, row, element))

    @property
    def _aligned(self) -> int:
        return min(64, self.shape.lanes * self.shape.itemsize)

    def _exp(self, x: Value) -> Value:
        return exp_below(Floats.of(self.b, self.ctx.isa, x), x)

    def _clean(self, x: Value) -> Value:
        return self.b.select(self.b.compare("uno", x, x), constant(x.type, 0.0), x) if self.form.clean else x

    def _joined(self, values: Sequence[Value], join: object) -> Value:
        """Vectors to one, and that to a scalar, by halves."""
        if not callable(join):
            raise BugError("values are joined by a function")
        parts = list(values)
        while len(parts) > 1:
            parts = [join(x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        v: Value = parts[0]
        while v.lanes > 1:
            half = v.lanes // 2
            v = join(self.b.shuffle(v, None, range(half)), self.b.shuffle(v, None, range(half, 2 * half)))
        return self.b.extract(v, 0)

    def _added(self, m: Value, m_end: Value, count: Value) -> None:
        """The block's powers times values, on top of what is there."""
        b, shape, element = self.b, self.shape, self.shape.element
        columns, pitch = self.ctx.slot(self.ctx.program.axis[self.e].extent), self.ctx.slot(self.width)
        with b.loop(b.i64(0), columns, shape.width, hint="panel") as panel:
            place = self.panels.panel(panel.index)
            with b.loop(m, m_end, shape.rows, hint="rows") as loop:
                row = b.sub(loop.index, m)
                lines = [
                    b.gep(self.held, b.mul(b.add(row, b.i64(r)), b.i64(self.pitch)), element) for r in range(shape.rows)
                ]
                first = b.add(b.mul(b.sub(loop.index, self.first), pitch), panel.index)
                before = []
                for r in range(shape.rows):
                    less = b.splat(b.load(element, b.gep(self.shrink, b.add(row, b.i64(r)), element)), shape.lanes)
                    for c in range(shape.vectors):
                        at = b.add(b.add(first, b.mul(pitch, b.i64(r))), b.i64(c * shape.lanes))
                        before.append(
                            b.op("fmul", b.load(shape.type, b.gep(self.sums, at, element), self._aligned), less)
                        )
                totals = emit_tile(b, shape, lines, b.i64(1), [place], b.i64(shape.width), count, before)
                self._store_tile(totals, self.sums, first, pitch)

    # ---- the end

    def _finish(self, low: Value, high: Value) -> None:
        """What the program makes of the sums. A row that saw nothing has no sum."""
        s, b, element, form = self.values, self.b, self.shape.element, self.form
        with b.loop(b.i64(0), b.sub(high, low), hint="row") as loop:
            none = b.compare(
                "oeq", b.load(element, b.gep(self.top, loop.index, element)), constant(element, float("-inf"))
            )
            place = b.gep(self.total, loop.index, element)
            b.store(b.select(none, constant(element, float("nan")), b.load(element, place)), place)
        m, e, first = symbol(self.m), symbol(self.e), s.bind("first", low)
        extents = tuple(self.ctx.program.axis[a].extent for a in (self.m, self.e))
        totals, sums = s.name("totals"), s.name("sums")
        self.ctx.add_storage(totals, Storage(self.total, self.dtype, extents[:1], lambda _: m - first))
        self.ctx.add_storage(sums, Storage(self.sums, self.dtype, extents, lambda _: (m - first) * self.width + e))
        total = Let(form.total, Load(totals, (m,), self.dtype))
        factor = replace(form.factor_stage, folds=(), body=(total, *after_factor(form)))
        emit_nest(self.ctx, factor, StageTiling("nest", self.m))
        result = Let(form.values.fold, cast(Load(sums, (m, e), self.dtype), form.values.result))
        stage = Stage((*form.values.batch, self.m, self.e), (), (result, *form.values.epilogue))
        emit_nest(self.ctx, stage, StageTiling("nest", self.e))
