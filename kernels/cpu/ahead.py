"""Fetching ahead: what a step of a recurrent layer adds to its product comes from far away, a few short rows per tile.

The rows are asked for before the product, which takes longer than they do to arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.ir.dim import Dim, symbols_of
from fusec.ir.expr import Load
from fusec.kernels.cpu import access
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.contract_tile import fetch
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.vector import memory_type
from fusec.kernels.kernel import Kernel
from fusec.tile.program import Stage

LINE = 64
"""Bytes that come at once."""


def fetch_inputs(ctx: Context, kernel: Kernel) -> None:
    """Ask for what loop nests after a product read of the inputs of this step."""
    steps = {a.name for a in kernel.program.axes if a.sequential}
    has_product = False
    for stage, tiling in zip(kernel.program.stages, kernel.tiling.stages, strict=True):
        if has_product and tiling.template == "nest" and tiling.lane in stage.axis_names:
            for load in dict.fromkeys(x for x in stage.loads() if _comes_by_step(ctx, x, steps, tiling.lane)):
                _fetch(ctx, stage, load, tiling.lane)
        has_product |= tiling.template == "contract"


def _comes_by_step(ctx: Context, x: Load, steps: set[str], lane: str) -> bool:
    """Whether each step reads its own row of an input, without looking elsewhere for where it is."""
    if ctx.program.operand[x.operand].role != "input" or x.fill is not None:
        return False
    own = {s for i in x.index if isinstance(i, Dim) for s in symbols_of(i)}
    return all(isinstance(i, int | Dim) for i in x.index) and bool(own & steps) and lane in own


def _fetch(ctx: Context, stage: Stage, x: Load, lane: str) -> None:
    b, point = ctx.b, Point(ctx)
    itemsize = ctx.program.operand[x.operand].dtype.itemsize
    place: dict[str, Value] = {}

    def loops(axes: Sequence[str], inside: Callable[[], None]) -> None:
        if not axes:
            inside()
            return
        low, high = ctx.bounds(axes[0])
        with b.loop(low, high, LINE // itemsize if axes[0] == lane else 1, hint="ahead") as loop:
            place[axes[0]] = loop.index
            loops(axes[1:], inside)

    def line() -> None:
        point.place(place)
        a = access.plan(point, x.operand, x.index, guarded=False)
        fetch(b, b.gep(a.storage.pointer, point.extent(a.offset), memory_type(a.storage.dtype)))

    loops([*(n for n in stage.axis_names if n != lane), lane], line)
