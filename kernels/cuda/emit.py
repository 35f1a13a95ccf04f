"""emit: a Kernel becomes C++ text, one device function per kernel class; all 256 threads of a block run one tile in it.

How the parts fit together, for whoever adds a template. `emit` makes a `Context` (context.py), writes the bounds of the tile
and then the stages, with a barrier of the block between them. The context gives

- `ctx.writer`: the text (writer.py): `line(text)`, `block(header)` and `name(stem)`;
- `ctx.slot(extent)`: any polynomial over parameters and `tile_<axis>` as the name of an fx_int, loaded once at entry;
- `ctx.bounds(axis)`: names of the half-open range of an axis in this tile; `ctx.most(axis)`: its size at most, if known;
- `ctx.storage(operand)`: pointer, dtype and `offset(index polynomials) -> polynomial`, for locals too;
- `ctx.shared(bytes)`, `ctx.scratch(bytes)`: addresses of more shared memory (known size) and of more private global memory;
- `ctx.add_storage(name, Storage(...))`: lets loads and stores name something that is no operand of the program.

A template opens `with ctx.writer.block("", pinned=True)` (nothing of a stage moves out of it) and evaluates expressions with a
`Point` (expression.py), which writes each part once, into the outermost block that it depends on:

    point = Point(ctx)
    with point.loop("b", *ctx.bounds("b")):              # or point.place("b", "name of an fx_int"), in any block
        a = point.element("a", ["m", "k"], form.left)    # a lambda a(m, k) of fx_int: its name
        b = point.element("b", ["k", "n"], form.right)
        done = point.epilogue("done", ["m", "n"], form.fold, form.dtype, form.epilogue)  # a lambda done(m, n, acc)
        ctx.writer.line(f"fx_product<...>(task, {low}, {high}, {a}, {b}, {done});")

What lambdas share and their parameters do not change (offsets of a batch, values of scalars) is computed in front of them.
`point.value(point.intern(e))` is the name of any expression's value, `point.extent(x)` that of a polynomial as an fx_int, and
`point.access_of(load)` tells how a load reaches memory: its operand's storage, its offset and its conditions.
"""

from __future__ import annotations

from fusec.errors import BugError
from fusec.kernels.backend import EMULATED
from fusec.kernels.cuda.context import SHARED_BYTES, Context
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.known import with_known
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.nest import emit_nest
from fusec.kernels.cuda.product import TEMPLATES, emit_product
from fusec.kernels.cuda.resident import ResidentStages
from fusec.kernels.cuda.resident_shape import TEMPLATE as RESIDENT
from fusec.kernels.cuda.scan import TEMPLATE as SCAN
from fusec.kernels.cuda.scan import emit_scan
from fusec.kernels.cuda.stream import emit_stream
from fusec.kernels.cuda.turn import emit_turn
from fusec.kernels.kernel import Kernel, Source
from fusec.target import Target

NESTS = frozenset(["points", "warp", "block", "columns", "turn"])


def emit(kernel: Kernel, target: Target) -> Source:
    """The kernel's device function, its name, and what its slots, scratch and shared memory must hold."""
    entry = f"fusec_{class_key(kernel, target)[:24]}"
    kernel = with_known(kernel)
    ctx, resident = _written(kernel, target, SHARED_BYTES)
    limit = LEVELS[target.level.removesuffix(EMULATED)].shared
    if ctx.all_shared > limit:  # locals give way to what products need
        ctx, resident = _written(kernel, target, max(0, SHARED_BYTES - (ctx.all_shared - limit)))
    keep = resident.keep(entry) if resident is not None else ""
    lines = [f"FX_DEVICE void {entry}(const fx_task& task) {{", *(f"    {line}" for line in ctx.text()), "}", ""]
    return Source(
        "\n".join(lines) + keep, entry, tuple(ctx.slots), ctx.scratch_bytes, ctx.all_shared, kept=ctx.kept_bytes
    )


def _written(kernel: Kernel, target: Target, local_bytes: int) -> tuple[Context, ResidentStages | None]:
    """The body of a kernel whose locals take so much shared memory at most, and its stages that keep something."""
    ctx = Context(kernel, target, local_bytes)
    ctx.enter_tile()
    return ctx, _emit_stages(ctx, kernel)


def _emit_stages(ctx: Context, kernel: Kernel) -> ResidentStages | None:
    tilings = kernel.tiling.stages
    if tilings[0].template == "stream":
        emit_stream(ctx, tilings[0])
        return None
    if tilings[0].template == SCAN:
        emit_scan(ctx)
        return None
    resident = ResidentStages(ctx, tilings) if any(t.template == RESIDENT for t in tilings) else None
    if resident is not None:
        resident.begin()
    for number, (stage, tiling) in enumerate(zip(kernel.program.stages, tilings, strict=True)):
        if number:
            ctx.writer.line("fx_barrier();")
        if resident is not None and resident.emit(number):
            continue
        if tiling.template == "turn":
            emit_turn(ctx, stage, tiling)
        elif tiling.template in NESTS:
            emit_nest(ctx, stage, tiling)
        elif tiling.template in TEMPLATES:
            emit_product(ctx, stage, tiling)
        else:
            raise BugError(f"{kernel.program.name}: CUDA has no template {tiling.template!r}")
    return resident
