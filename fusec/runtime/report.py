"""What was planned for a region, as text: a line per kernel, and the schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fusec.kernels.kernel import BoundKernel

if TYPE_CHECKING:
    from fusec.runtime.binding import RegionBinding
    from fusec.schedule.region import BoundCall


def kernel_lines(binding: RegionBinding, microseconds: Callable[[BoundKernel], float]) -> str:
    """Program, ops, grid of tiles and estimated microseconds of each call, and what the region takes."""
    calls = binding.region.calls
    width = max((len(_program(c)) for c in calls), default=0)
    lines = [_line(c, width, microseconds) for c in calls]
    teams = ", ".join(f"{s.makespan / 1e3:.1f} us with {s.workers}" for s in binding.schedules)
    temporary = binding.schedules[0].arena
    return "\n".join([*lines, f"{len(calls)} kernels; estimates by workers: {teams}; arena {temporary:,} bytes"])


def schedule_text(binding: RegionBinding) -> str:
    """All schedules of a binding as tables."""
    from fusec.schedule.render import render

    return "\n".join(render(s) for s in binding.schedules)


def _program(call: BoundCall) -> str:
    return f"{call.call.program.name}[{call.choice}]"


def _line(call: BoundCall, width: int, microseconds: Callable[[BoundKernel], float]) -> str:
    kernel = call.kernel
    tiles = "x".join(map(str, kernel.grid)) or "1"
    sizes = "x".join(map(str, kernel.tile.values())) or "scalar"
    estimate = kernel.tiles * microseconds(kernel)
    return f"  {_program(call):{width}}  {tiles:>10} tiles of {sizes:12} {estimate:10.1f} us  {call.label}"
