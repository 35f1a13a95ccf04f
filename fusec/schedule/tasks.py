"""Tasks: runs of consecutive tiles of one call, long enough to be worth handing over, with what each reads and writes.

The tiles are the kernel's; only how many of them make a task depends on the number of workers. So results do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.schedule.boxes import hull, overlaps
from fusec.schedule.region import BoundCall, BoundRegion

FloatArray = npt.NDArray[np.float64]
NO_CALLS: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Grain:
    """How finely work is cut: tasks per worker and kernel at most, and the least and longest estimate of one in microseconds.

    A step of a sequential kernel has a task per worker, of at least `step`: workers meet after each of them. Or, with
    `whole_steps`, one worker runs several steps in a task, about `chunk` long and at most `chunks` of them.

    The longest bounds how late a worker notices an abort; it holds even where one worker runs everything.
    """

    per_worker: int = 3
    least: float = 5.0
    step: float = 2.0
    whole_steps: bool = False
    chunk: float = 20.0
    chunks: int = 32
    longest: float = 20_000.0


@dataclass(frozen=True, eq=False)
class Runs:
    """The tasks of one bound kernel: run i is tiles `first[i]` to `first[i] + count[i] - 1`, in an order that is legal.

    Runs of equal `phase` are independent of each other; phases (more than one only with a sequential axis) go in order.
    `cost` is in microseconds. `reads` and `writes`: operand -> int64[runs, dims, 2], hulls over the tiles.
    """

    first: IntArray
    count: IntArray
    phase: IntArray
    cost: FloatArray
    reads: dict[str, IntArray]
    writes: dict[str, IntArray]


@dataclass(frozen=True, eq=False)
class Access:
    """How the tasks of call `call` touch `buffer`: `boxes` int64[tasks, dims, 2] in elements of the logical `shape`."""

    call: int
    buffer: str
    write: bool
    shape: tuple[int, ...]
    itemsize: int
    boxes: IntArray


@dataclass(frozen=True, eq=False)
class Tasks:
    """All tasks of a region, numbered in program order: by call, then phase, then tile.

    `bounds[c]:bounds[c + 1]` are those of call c. `phase` grows along the whole list. `accesses` are those of buffers
    that somebody writes, in program order. `kept` are the bytes of weights that every step of a sequential call reads
    again, `steps` how many there are; 0 for other calls. `pin` is -1, or a number that tasks have in common that should run
    on one worker, whose memory keeps their part of the weights.
    """

    call: IntArray
    first: IntArray
    count: IntArray
    phase: IntArray
    cost: FloatArray
    bounds: tuple[int, ...]
    accesses: tuple[Access, ...]
    kept: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    pin: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.call)


def cut_tasks(
    region: BoundRegion,
    workers: int,
    microseconds: Callable[[BoundKernel], float],
    grain: Grain,
    fewest: Mapping[int, int] = NO_CALLS,
) -> Tasks:
    """Cut every call into runs. `microseconds` estimates one average tile of a kernel, `fewest` are a call's runs at least."""
    known: dict[tuple[int, bool, int], Runs] = {}
    runs, accesses, bounds, phases = [], list[Access](), [0], 0
    phase = list[IntArray]()
    for c, call in enumerate(region.calls):
        shared = len(set(call.buffers.values())) < len(call.buffers)
        key = id(call.kernel), shared, fewest.get(c, 1)
        if key not in known:
            known[key] = _runs(call.kernel, microseconds(call.kernel), workers, grain, shared, fewest.get(c, 1))
        run = known[key]
        runs.append(run)
        bounds.append(bounds[-1] + len(run.first))
        phase.append(run.phase + phases)
        phases += int(run.phase[-1]) + 1 if len(run.first) else 0
        accesses += _accesses(c, call, run, region.mutable)
    return Tasks(
        np.repeat(np.arange(len(runs)), np.diff(bounds)),
        _joined([r.first for r in runs]),
        _joined([r.count for r in runs]),
        _joined(phase),
        np.concatenate([np.zeros(0), *(r.cost for r in runs)]),
        tuple(bounds),
        tuple(accesses),
        tuple(_kept(c.kernel) for c in region.calls),
        tuple(_steps(c.kernel) for c in region.calls),
        _pins(region, runs),
    )


def _pins(region: BoundRegion, runs: list[Runs]) -> IntArray:
    """A number per call and place within a step, for calls whose workers keep weights."""
    parts, count = [np.zeros(0, np.int64)], 0
    for call, run in zip(region.calls, runs, strict=True):
        pin = np.full(len(run.first), -1, np.int64)
        if call.kernel.kernel.keeps and len(pin):
            width = int(np.bincount(run.phase).max())
            pin = count + np.arange(len(pin)) % width
            count += width
        parts.append(pin)
    return np.concatenate(parts)


def is_sequential(kernel: BoundKernel) -> bool:
    """Whether a kernel runs in steps."""
    return any(a.sequential for a in kernel.kernel.program.axes)


def _steps(kernel: BoundKernel) -> int:
    sequential = [n for n, a in zip(kernel.grid, kernel.kernel.program.axes, strict=True) if a.sequential]
    return prod(sequential) if sequential else 0


def _kept(kernel: BoundKernel) -> int:
    if not is_sequential(kernel):
        return 0
    weights = [o for o in kernel.kernel.program.operands if o.role == "weight"]
    return sum(prod(kernel.shape(o.name)) * o.dtype.itemsize for o in weights)


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _accesses(c: int, call: BoundCall, run: Runs, mutable: frozenset[str]) -> list[Access]:
    out = []
    for write, boxes in ((False, run.reads), (True, run.writes)):
        for name, box in boxes.items():
            shape = call.kernel.shape(name)
            if call.buffers[name] in mutable and len(box) and prod(shape):
                operand = call.call.program.operand[name]
                out.append(Access(c, call.buffers[name], write, shape, operand.dtype.itemsize, box))
    return out


def _runs(kernel: BoundKernel, tile_cost: float, workers: int, grain: Grain, shared: bool, fewest: int) -> Runs:
    sequential = [a.sequential for a in kernel.kernel.program.axes]
    if kernel.tiles == 0:
        starts, phase = np.zeros(1, np.int64), np.zeros(0, np.int64)
    elif not any(sequential):
        starts = _cut(kernel.tiles, kernel.grid, kernel.tiles * tile_cost, workers, grain, fewest)
        phase = np.zeros(len(starts) - 1, np.int64)
    else:
        return _sequential_runs(kernel, sequential, tile_cost, workers, grain, shared)
    return _of(kernel, starts[:-1], np.diff(starts), phase, tile_cost)


def _sequential_runs(
    kernel: BoundKernel, sequential: list[bool], tile_cost: float, workers: int, grain: Grain, shared: bool
) -> Runs:
    """Cut a kernel with sequential axes: within steps where they lead, along rows where rows are independent, else by tile."""
    grid, lead = kernel.grid, sequential.index(False) if False in sequential else len(sequential)
    if not any(sequential[lead:]):
        steps, width = prod(grid[:lead]), prod(grid[lead:])
        keeps = kernel.kernel.keeps
        if workers > 1 and (width == 1 if keeps else grain.whole_steps):
            total = kernel.tiles * tile_cost
            runs = max(min(steps, grain.chunks, int(total / grain.chunk)), ceil(total / grain.longest), 1)
            starts = np.arange(min(runs, steps) + 1) * steps // min(runs, steps) * width
            return _of(kernel, starts[:-1], np.diff(starts), np.arange(len(starts) - 1), tile_cost)
        inner = _cut(width, grid[lead:], width * tile_cost, workers, replace(grain, per_worker=1, least=grain.step))
        if keeps and workers >= width:  # a worker has room for one tile's weights
            inner = np.arange(width + 1)
        if len(inner) == 2:  # nothing to share within a step: the tiles' own order is a legal one
            starts = _cut(kernel.tiles, grid, kernel.tiles * tile_cost, 1, grain)
            return _of(kernel, starts[:-1], np.diff(starts), np.arange(len(starts) - 1), tile_cost)
        first = (np.arange(steps)[:, None] * width + inner[:-1]).ravel()
        return _of(
            kernel, first, np.tile(np.diff(inner), steps), np.repeat(np.arange(steps), len(inner) - 1), tile_cost
        )
    rows = prod(grid[: sequential.index(True)])
    last = len(sequential) - sequential[::-1].index(True)
    one_block = all(sequential[sequential.index(True) : last])
    if one_block and not shared and rows > 0 and _rows_independent(kernel, rows):
        width = kernel.tiles // rows
        starts = _cut(rows, grid[: sequential.index(True)], kernel.tiles * tile_cost, workers, grain) * width
        return _of(kernel, starts[:-1], np.diff(starts), np.zeros(len(starts) - 1, np.int64), tile_cost)
    steps_of = np.zeros(kernel.tiles, np.int64)
    for j, (is_sequential, n) in enumerate(zip(sequential, grid, strict=True)):
        if is_sequential:
            steps_of = steps_of * n + kernel.coordinates[:, j]
    order = np.argsort(steps_of, kind="stable")
    return _of(kernel, order, np.ones(len(order), np.int64), steps_of[order], tile_cost)


def _rows_independent(kernel: BoundKernel, rows: int) -> bool:
    """Whether no row of tiles (equal coordinates before the first sequential axis) touches what another one writes."""
    starts = np.arange(rows) * (kernel.tiles // rows)
    for name, boxes in kernel.writes.items():
        written = hull(boxes, starts)
        for other in (written, *([hull(kernel.reads[name], starts)] if name in kernel.reads else [])):
            shared = overlaps(other, written) > 0
            np.fill_diagonal(shared, False)
            if shared.any():
                return False
    return True


def _of(kernel: BoundKernel, first: IntArray, count: IntArray, phase: IntArray, tile_cost: float) -> Runs:
    def per_run(boxes: IntArray) -> IntArray:
        return boxes[first] if len(first) == kernel.tiles else hull(boxes, first)

    operands = kernel.kernel.program.operand
    reads = {n: per_run(b) for n, b in kernel.reads.items() if operands[n].role != "weight"}
    writes = {n: per_run(b) for n, b in kernel.writes.items()}
    return Runs(first, count, phase, count * np.float64(tile_cost), reads, writes)


def _cut(tiles: int, grid: tuple[int, ...], total: float, workers: int, grain: Grain, fewest: int = 1) -> IntArray:
    """Boundaries of the runs, from 0 to `tiles`: even shares, moved to the start of a row of the grid where one is near."""
    wanted = 1
    if workers > 1:
        wanted = min(tiles, workers * grain.per_worker, int(total / grain.least))
        if workers < wanted < tiles:
            wanted -= wanted % workers
    wanted = max(1, min(tiles, max(wanted, fewest, ceil(min(total / grain.longest, tiles)))))
    even = cuts = np.arange(wanted + 1) * tiles // wanted
    near, row = tiles / wanted / 8, 1
    for extent in reversed(grid[1:]):
        row *= extent
        if wanted > 1 and row > 1:
            snapped = (even + row // 2) // row * row
            cuts = np.where((np.abs(snapped - even) <= near) & (snapped <= tiles), snapped, cuts)
    return cuts
