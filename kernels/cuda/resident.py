"""emit_resident: a contraction stage whose matrix stays in shared memory from step to step, and the function that brings it.

A kernel with such stages has two functions. The task loop calls `<entry>_keep` before it waits for what a tile reads: it
compares what the block keeps with what the tile needs, and loads it where that is something else. The body trusts it.

Everything that a step can read before its product is read first (`Ahead`): the loads are under way while sums are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.dim import Dim
from fusec.ir.expr import Load, Ref, cast, walk
from fusec.kernels.cuda import access
from fusec.kernels.cuda.abi import KEPT_ALIGNMENT, THREADS
from fusec.kernels.cuda.context import Context
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.resident_shape import CHUNK, TEMPLATE, Resident, resident
from fusec.kernels.cuda.scalar import element_type
from fusec.kernels.cuda.vectors import steps_besides
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Fold, Let, Stage, Statement, Store

SUM = "@sum"
"""How bodies call the sum of a product."""


class Ahead:
    """Statements that each thread runs for one point, if at all: what they load is loaded when the tile begins."""

    def __init__(self, ctx: Context, body: Sequence[Statement], changing: frozenset[str]) -> None:
        self.ctx, self.body = ctx, body
        self.point = Point(ctx)
        self.changing = changing
        self.there = ctx.writer.name("there")

    def begin(self, axes: Sequence[str]) -> None:
        """Points of a stage, row-major over its axes; threads beyond the last one take the first and store nothing."""
        w, number = self.ctx.writer, self.ctx.writer.name("points")
        spans = [(a, *self.ctx.bounds(a)) for a in axes]
        counts = ", ".join(f"{high} - {low}" for _, low, high in spans)
        w.line(f"fx_points<{len(spans)}> {number} = {{{{{counts}}}}};")
        w.line(f"{number}.start(fx_thread(), {THREADS});")
        w.line(f"const bool {self.there} = {number}.going();")
        for k, (axis, low, _) in enumerate(spans):
            self.place(axis, f"{low} + {number}.at[{k}]", low)
        self.load()

    def place(self, axis: str, index: str, instead: str) -> None:
        """An index of this thread's point."""
        name = self.ctx.writer.name(f"{axis}_")
        self.ctx.writer.line(f"const fx_int {name} = {self.there} ? {index} : {instead};")
        self.point.place(axis, name)

    def load(self) -> None:
        """Begin to load what no stage of the tile writes."""
        for s in self.body:
            if isinstance(s, Fold):
                raise BugError("a stage that is loaded ahead has no fold")
            value = self.point.define(s) if isinstance(s, Let) else self.point.intern(s.value)
            for x in walk(value):
                if isinstance(x, Load) and x.operand not in self.changing and self._is_plain(x):
                    self.point.value(x)

    def _is_plain(self, x: Load) -> bool:
        role = self.ctx.program.operand[x.operand].role
        return role not in ("local", "scalar") and x.fill is None and all(isinstance(i, int | Dim) for i in x.index)

    def run(self) -> None:
        """Everything else."""
        with self.ctx.writer.block(f"if ({self.there})", guard=self.there):
            self.point.run(self.body)


class ResidentStages:
    """The stages of one kernel, some of them resident: what is kept, and what is loaded ahead."""

    def __init__(self, ctx: Context, tilings: Sequence[StageTiling]) -> None:
        self.ctx, self.tilings = ctx, tilings
        stages = ctx.program.stages
        self.found: dict[int, Resident] = {}
        self.places: dict[int, str] = {}
        self.ahead: dict[int, Ahead] = {}
        sizes = {a: n for a, n in ctx.tile.items() if isinstance(n, int)}
        for i, (stage, tiling) in enumerate(zip(stages, tilings, strict=True)):
            if tiling.template == TEMPLATE:
                shape = resident(ctx.program, stage, sizes, tiling.rows)
                if shape is None:
                    raise BugError(f"{ctx.program.name}: a stage with template {TEMPLATE!r} has no matrix to keep")
                self.found[i] = shape
                self.places[i] = ctx.keep(shape.kept, KEPT_ALIGNMENT)

    def begin(self) -> None:
        """Load ahead for all stages that run after the first product, one point a thread."""
        stages = self.ctx.program.stages
        for i in range(min(self.found), len(stages)):
            stage, written = stages[i], frozenset(s.operand for x in stages[:i] for s in x.stores)
            shape = self.found.get(i)
            if shape is not None and self._is_single(shape):
                self.ahead[i] = ahead = Ahead(self.ctx, _epilogue(shape), written)
                self._enter(ahead, shape)
            elif shape is None and self._is_point(stage, self.tilings[i]):
                self.ahead[i] = ahead = Ahead(self.ctx, stage.body, written)
                ahead.begin(stage.axis_names)

    def emit(self, number: int) -> bool:
        """Write a stage; False where it is none of these."""
        shape = self.found.get(number)
        if shape is not None:
            self._product(shape, self.places[number], self.ahead.get(number))
            return True
        if number in self.ahead:
            self.ahead[number].run()
            return True
        return False

    def _is_point(self, stage: Stage, tiling: StageTiling) -> bool:
        """Whether a stage has no fold and no more points than there are threads, none of them more than once."""
        if stage.folds or tiling.template != "points" or stage.scattered:
            return False
        total, ordered = 1, stage.ordered()
        for axis in stage.axis_names:
            most = self.ctx.most(axis)
            if most is None or (axis in ordered and most > 1):
                return False
            total *= most
        return total <= THREADS

    def _is_single(self, shape: Resident) -> bool:
        rows = self.ctx.most(shape.form.m) if shape.form.m else 1
        return rows is not None and rows <= shape.rows and shape.rows * shape.columns <= THREADS

    # ---- the product

    def _enter(self, ahead: Ahead, shape: Resident) -> None:
        """A sum per thread: rows one after the other, the columns of all gates in each."""
        form, w = shape.form, self.ctx.writer
        low, high = self.ctx.bounds(form.n)
        row = w.name("m")
        w.line(f"const int {row} = fx_thread() / {shape.columns}, {row}c = fx_thread() % {shape.columns};")
        inside = [f"{low} + {row}c % {shape.width} < {high}"]
        if form.m:
            start, end = self.ctx.bounds(form.m)
            inside.append(f"{start} + {row} < {end}")
        else:
            inside.append(f"{row} == 0")
        w.line(f"const bool {ahead.there} = {' && '.join(inside)};")
        if form.m:
            ahead.place(form.m, f"{start} + {row}", start)
        if shape.gate:
            ahead.place(shape.gate, f"{row}c / {shape.width}", "0")
        ahead.place(form.n, f"{low} + {row}c % {shape.width}", low)
        self._place_batch(ahead.point, shape)
        ahead.load()

    def _place_batch(self, point: Point, shape: Resident) -> None:
        """Task axes of one index a tile."""
        for axis in shape.form.batch:
            if axis != shape.gate:
                point.place(axis, self.ctx.bounds(axis)[0])

    def _product(self, shape: Resident, kept: str, ahead: Ahead | None) -> None:
        w, form = self.ctx.writer, shape.form
        with w.block("", pinned=True):
            point = Point(self.ctx)
            self._place_batch(point, shape)
            rows = "fx_range{0, 1}"
            if form.m:
                low, high = self.ctx.bounds(form.m)
                rows = f"fx_range{{{low}, {high}}}"
            left = point.element("left", [form.m or w.name("row"), form.k.name], cast(form.left, form.dtype))
            x = self.ctx.shared(4 * shape.rows * shape.pitch)
            parts = self.ctx.shared(shape.working - 4 * shape.rows * shape.pitch)
            element = element_type(shape.weight.dtype)
            memory = f"(float*){x}, (float*){parts}, (const {element}*){kept}"
            if ahead is not None:
                core = f"fx_resident_product<{element}, {shape.rows}, {shape.columns}, {shape.depth}>"
                w.line(f"{core}::multiply({memory}, {rows}, {left});")
            else:
                done = self._done(point, shape)
                for count in self._counts(shape):
                    header = f"if ({rows}.end - {rows}.start <= {count})" if count < shape.rows else ""
                    arguments = f"{element}, {count}, {shape.columns}, {shape.depth}"
                    line = f"fx_product_resident<{arguments}>({memory}, {rows}, {left}, {done});"
                    w.line(f"{header} {line} else".strip() if header else line)
        if ahead is not None:
            total = w.name("sum")
            core = f"fx_resident_product<{element}, {shape.rows}, {shape.columns}, {shape.depth}>"
            last = shape.rows * shape.columns - 1
            w.line(f"const float {total} = {core}::total((const float*){parts}, fx_least(fx_thread(), {last}));")
            ahead.point.bind(SUM, total)
            ahead.run()

    def _counts(self, shape: Resident) -> tuple[int, ...]:
        """Numbers of rows that there is a product for: where their number is open, a single row is mostly all there is."""
        most = self.ctx.most(shape.form.m) if shape.form.m else 1
        return (shape.rows,) if most is not None and most <= shape.rows else (1, shape.rows)

    def _done(self, point: Point, shape: Resident) -> str:
        """A function of row, column among those of all gates, and sum: its name."""
        form, w = shape.form, self.ctx.writer
        low, high = self.ctx.bounds(form.n)
        row, column, total = (w.name(s) for s in ("m", "c", "sum"))
        params = {row: "fx_int", column: "int", total: "float"}
        with point.lambda_("done", params) as name:
            n = w.name("n")
            w.line(f"const fx_int {n} = {low} + {column} % {shape.width};")
            w.line(f"if ({n} >= {high}) return;")
            if form.m:
                point.place(form.m, row)
            if shape.gate:
                point.place(shape.gate, f"({column} / {shape.width})")
            point.place(form.n, n)
            point.bind(SUM, total)
            point.run(_epilogue(shape))
        return name

    # ---- what is kept

    def keep(self, entry: str) -> str:
        """The function that brings what a tile keeps; the context must have seen all that the body takes of shared memory."""
        ctx = self.ctx.beside()
        ctx.enter_tile()
        w = ctx.writer
        for i, shape in self.found.items():
            with w.block("", pinned=True):
                self._load(ctx, shape, self.places[i])
        part = self._part()
        lines = [
            f"FX_NOINLINE void {entry}_load(const fx_task task) {{",
            *(f"    {line}" for line in ctx.text()),
            "    fx_copy_async_commit();",
            "    fx_copy_async_wait<0>();",
            "}",
            f"FX_DEVICE void {entry}_keep(const fx_task& task, fx_kept& kept) {{",
            f"    const int part = {part};",
            "    if (kept.is(task, part)) return;",
            "    fx_barrier();",
            f"    kept = {{task.slots, part, {self.ctx.kept_start}}};",
            f"    {entry}_load(task);",
            "}",
            "",
        ]
        return "\n".join(lines)

    def _part(self) -> str:
        """Which columns a tile keeps, as a number: its position along the last task axis where that is cut."""
        for shape in self.found.values():
            n = shape.form.n
            if n in self.ctx.task_axes:
                extent = self.ctx.program.axis[n].extent
                assert isinstance(extent, int)
                return f"(int)((fx_u32)task.tile % {-(-extent // shape.width)}u)"
        return "0"

    def _load(self, ctx: Context, shape: Resident, kept: str) -> None:
        w, form = ctx.writer, shape.form
        element = element_type(shape.weight.dtype)
        low, high = ctx.bounds(form.n)
        point = Point(ctx)
        weight = point.intern(shape.weight)
        if not isinstance(weight, Load):
            raise BugError("a load has a canonical form")
        gate = w.name("gate")
        with w.block(f"FX_NO_UNROLL for (int {gate} = 0; {gate} < {shape.gates}; {gate}++)", pinned=True):
            if shape.gate:
                point.place(shape.gate, gate)
            k, n, at = w.name("k"), w.name("n"), w.name("at")
            a = point.access_of(weight)
            if a.inside:
                raise BugError(f"{ctx.program.name}: a weight that is kept has no bounds to be checked")
            with w.function(f"const auto {at} = [&](fx_int {k}, fx_int {n}) -> const {element}*"):
                point.place(form.k.name, k)
                point.place(form.n, n)
                w.line(f"return {access.address(point, a)};")
            copies = self._copies(ctx, point, shape, a)
            columns, first = f"fx_range{{{low}, {high}}}", f"{gate} * {shape.width}"
            arguments = f"{element}, {shape.columns}, {shape.width}, {shape.depth}"
            w.line(f"fx_keep_columns<{arguments}>(({element}*){kept}, {first}, {columns}, {copies}, {at});")

    def _copies(self, ctx: Context, point: Point, shape: Resident, a: access.Access) -> str:
        """Whether 16 bytes can be moved at once, as a C++ expression."""
        width = CHUNK // shape.weight.dtype.itemsize
        steps = steps_besides(point, a.offset, shape.form.n)
        if point.step_along(a.offset, shape.form.n) != 1 or any(isinstance(x, int) and x % width for x in steps):
            return "false"
        known = sorted({x for x in steps if not isinstance(x, int)}, key=str)
        ready = [f"fx_is_aligned<{width}>({a.storage.pointer})", *(f"{ctx.slot(x)} % {width} == 0" for x in known)]
        return " && ".join(ready)


def _epilogue(shape: Resident) -> tuple[Let | Store, ...]:
    form = shape.form
    rest = tuple(s for s in form.epilogue if isinstance(s, Let | Store))
    return (Let(form.fold, cast(Ref(SUM, form.dtype), form.result)), *rest)
