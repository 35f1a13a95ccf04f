"""emit: a Kernel becomes LLVM IR text, one function per kernel class.

How the parts fit together, for whoever adds a template. `emit` makes a `Context` (context.py) and, inside the loop over
tiles, calls per stage `emit_nest(ctx, stage, tiling)` or `emit_contract(ctx, stage, tiling)`. The context gives

- `ctx.b`: the Builder; `ctx.isa`: the instruction level; `ctx.arithmetic`: primitives on registers;
- `ctx.slot(extent)`: any polynomial over parameters and `tile_<axis>` as an i64 Value, loaded once at entry;
- `ctx.bounds(axis)`: the half-open range of an axis in this tile, as two i64 Values;
- `ctx.storage(operand)`: base pointer, dtype and `offset(index polynomials) -> polynomial`, for locals too;
- `ctx.scratch(bytes)`: the address of more scratch memory (bytes may be a polynomial);
- `ctx.add_storage(name, Storage(...))`: lets loads and stores name something that is no operand of the program.

Expressions are evaluated by a `Point` (expression.py), which holds axis values, the lane axis and its mask:

    point = Point(ctx, stage, lane="n", lanes=8)
    point.place({"m": m, "k": k}, n_base)      # i64 Values: this point; `mask` and `left` for a partial vector
    point.bind("t", accumulator)               # the result of a fold, a scalar or a vector
    point.run(stage.body[first_after_fold:])   # lets and stores
    x = point.value(point.intern(expr))        # any expression, a scalar where it does not depend on the lane
"""

from __future__ import annotations

from fusec.ir.dim import Extent, ceildiv, symbol
from fusec.kernels.cpu.ahead import fetch_inputs
from fusec.kernels.cpu.builder import Builder, Value
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.joined import nests
from fusec.kernels.cpu.kernel_class import class_key
from fusec.kernels.cpu.nest import emit_nest
from fusec.kernels.kernel import Kernel, Source
from fusec.target import Target

_PARAMS = (("ptr", "", "slots"), ("i64", "", "first"), ("i64", "", "count"), ("ptr", "", "scratch"))


def emit(kernel: Kernel, target: Target) -> Source:
    """The kernel's LLVM IR, its entry name, and what its slots and scratch memory must hold."""
    entry = f"fusec_{class_key(kernel, target)[:24]}"
    b = Builder(entry, _PARAMS)
    ctx = Context(kernel, target.isa, b)
    _, first, count, _ = b.params
    start = b.new_block("start")  # the entry block stays open for slots
    b.jump(start)
    b.enter(start)
    with b.loop(first, b.add(first, count), hint="tile") as loop:
        _enter_tile(ctx, loop.index)
        _emit_stages(ctx, kernel)
    return Source(b.text(), entry, tuple(ctx.slots), ctx.scratch_bytes)


def _emit_stages(ctx: Context, kernel: Kernel) -> None:
    if any(t.template == "stream" for t in kernel.tiling.stages):
        from fusec.kernels.cpu.stream import emit_stream

        emit_stream(ctx, kernel.tiling.stages[0])
        return
    fetch_inputs(ctx, kernel)
    for stage, tiling in nests(kernel):
        if tiling.template == "contract":
            from fusec.kernels.cpu.contract import emit_contract

            emit_contract(ctx, stage, tiling)
        else:
            emit_nest(ctx, stage, tiling)


def _enter_tile(ctx: Context, number: Value) -> None:
    """Bounds of the task axes from a tile's row-major number."""
    b = ctx.b
    axes = ctx.program.axes
    for k, axis in reversed(list(enumerate(axes))):
        tile: Extent = symbol(f"tile_{axis.name}")
        position = number
        if k > 0:
            count = ctx.slot(ceildiv(axis.extent, tile))
            following = b.op("udiv", number, count)
            position = b.sub(number, b.mul(following, count))
            number = following
        start = b.mul(position, ctx.slot(tile))
        ctx.starts[axis.name] = ctx.symbols[f"start_{axis.name}"] = start
        ctx.ends[axis.name] = b.smin(b.add(start, ctx.slot(tile)), ctx.slot(axis.extent))
