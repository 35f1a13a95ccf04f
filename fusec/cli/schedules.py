"""The schedules of a plan's regions, made for given sizes and a number of workers without running or building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusec.errors import UsageError, nearest
from fusec.ir.dim import evaluate
from fusec.kernels import backend
from fusec.kernels.kernel import BoundKernel, Kernel
from fusec.measure.feeds import choose_sizes
from fusec.plan.plan import Plan, RegionStep
from fusec.schedule.bind import schedule_region
from fusec.schedule.region import bind_calls
from fusec.schedule.schedule import Schedule
from fusec.target import Target


def schedules_of(plan: Plan, dims: Mapping[str, int], threads: int | None) -> Iterator[tuple[str, Schedule]]:
    """For each region a title and its schedule, for `threads` workers or as many as its target has by itself.

    Symbols that `dims` leaves out are as small as the plan allows. UsageError for unknown symbols.
    """
    from fusec.runtime.steps import region_symbols
    from fusec.schedule.device import schedule_device
    from fusec.tiling.cost import tile_microseconds

    make = schedule_region if backend.device(plan.target.kind) is None else schedule_device
    workers = _workers(plan.target, threads)

    regions = {i: s for i, s in enumerate(plan.steps) if isinstance(s, RegionStep)}
    needed = {i: region_symbols(plan, s) for i, s in regions.items()}
    known = sorted({n for names in needed.values() for n in names})
    for name in dims:
        if name not in known:
            raise UsageError(f"no symbolic dimension {name!r}", hint=nearest(name, known))
    chosen = {**choose_sizes(known, plan.requirements, dims), **dims}
    scratch = _Scratch(plan)
    for i, step in regions.items():
        sizes = {n: chosen[n] for n in needed[i]}
        with plan.blamed():
            region = bind_calls(step, plan.kernels, sizes, plan.values, plan.root)
            made = make(region, workers, lambda k: tile_microseconds(k, plan.target), scratch)
        given = ", ".join(f"{n}={x}" for n, x in sizes.items())
        yield f"step {i}" + (f" with {given}" if given else ""), made


def schedule_document(title: str, s: Schedule) -> dict[str, Any]:
    """A schedule's numbers for `--json`."""
    return {
        "region": title,
        "workers": s.workers,
        "kernels": len(s.calls),
        "tasks": len(s.tasks),
        "waits": len(s.waits),
        "estimated_us": s.makespan / 1e3,
        "arena_bytes": s.arena,
        "scratch_bytes": s.scratch,
    }


def _workers(target: Target, threads: int | None) -> int:
    """Threads of the team; on a device blocks: one per multiprocessor of the largest one of its level, or of the emulator."""
    from fusec.runtime.workers import check_workers, default_workers

    if threads is not None:
        return check_workers(threads)
    if backend.device(target.kind) is None:
        return default_workers()
    from fusec.kernels.cuda.emulator.device import BLOCKS
    from fusec.kernels.cuda.levels import LEVELS

    level = LEVELS.get(target.level)
    return BLOCKS if level is None else level.multiprocessors


class _Scratch:
    """Bytes of scratch memory, which emitters know: each kernel is emitted once."""

    def __init__(self, plan: Plan) -> None:
        self._target, self._backend = plan.target, backend.get(plan.target.kind)
        self._sources: dict[int, Any] = {}

    def __call__(self, bound: BoundKernel) -> int:
        kernel: Kernel = bound.kernel
        if id(kernel) not in self._sources:
            self._sources[id(kernel)] = self._backend.emit(kernel, self._target).scratch
        return evaluate(self._sources[id(kernel)], bound.environment)
