"""device_menu: the kernels that a tile program may run as on a device whose workers are blocks of threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fusec.ir.dim import Extent
from fusec.kernels.kernel import Kernel, Tiling
from fusec.target import Target
from fusec.tile.program import TileProgram
from fusec.tiling.device.nest import Sizes, nest_choices, nest_stage
from fusec.tiling.device.product import product_choices
from fusec.tiling.device.resident import is_recurrent, resident_choices
from fusec.tiling.device.scan import scanned
from fusec.tiling.device.stream import streamed


def device_menu(
    program: TileProgram, target: Target, calls: Iterable[Mapping[str, Extent]] = (), precision: str = "f32"
) -> tuple[Kernel, ...]:
    """The kernels for a program, in the order in which they are tried; the last one takes the rest."""
    calls = list(calls)
    sizes = Sizes(program, calls)
    first = streamed(program, sizes, calls)
    if first is not None and first.tiling.guard is None:
        return (first,)
    if (lines := scanned(program, sizes)) is not None:
        return (Kernel(program, lines),)
    few = () if first is None else (first,)
    if is_recurrent(program):
        kept = [c.tiling for c in resident_choices(program, target, calls)]
        few = (*few, *(Kernel(program, t) for t in kept if t is not None))
        if None not in kept and all(any(_takes(k, call) for k in few) for call in calls):
            return few
    out = []
    for choice in product_choices(program, target, calls, precision):
        stages = tuple(choice.stages.get(i) or nest_stage(program, s, sizes) for i, s in enumerate(program.stages))
        layouts = () if few else choice.layouts  # the others read weights row by row
        out.append(Kernel(program, Tiling(choice.tile, stages, layouts, choice.guard)))
    return (*few, *(out or _nests(program, sizes)))


def _takes(kernel: Kernel, call: Mapping[str, Extent]) -> bool:
    guard = kernel.tiling.guard
    return guard is None or call[guard.param] == guard.low == guard.high


def _nests(program: TileProgram, sizes: Sizes) -> tuple[Kernel, ...]:
    return tuple(Kernel(program, tiling) for tiling in nest_choices(program, sizes))
