"""The proof: a schedule's tables and the kernels' boxes alone show that every run is right, whatever the timing.

Nothing that planned the schedule is used here; what each task touches is worked out again from its tiles. Shown are: each
tile runs exactly once; no deadlock; thresholds have a meaning and are reached; any two tasks that touch the same bytes, one
of them writing, are ordered as in the program; temporaries that share bytes of the arena are used one after the other;
outputs are written everywhere as far as boxes can tell.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.schedule.clocks import Clocks, simulate
from fusec.schedule.region import ALIGNMENT, BoundCall, BoundRegion
from fusec.schedule.schedule import Schedule

BoolArray = npt.NDArray[np.bool_]


class ScheduleError(BugError):
    """A schedule that is not proved: it is never run."""

    code = "FS-B002"


@dataclass(frozen=True, eq=False)
class _Use:
    """Tasks that touch one buffer through one logical shape: their numbers, whether they write, and where."""

    tasks: IntArray
    writes: BoolArray
    boxes: IntArray


def validate(schedule: Schedule, region: BoundRegion) -> None:
    """Prove a schedule, or raise ScheduleError with the names of the tasks that are wrong."""
    _check_tiles(schedule, region)
    clocks = simulate(schedule, ScheduleError)
    step = _steps(schedule, region)
    uses = _uses(schedule, region)
    for name, by_shape in uses.items():
        _check_conflicts(schedule, clocks, step, name, list(by_shape.items()))
    _check_arena(schedule, region, clocks, {n: [u.tasks for u in by_shape.values()] for n, by_shape in uses.items()})
    _check_within(region)
    _check_written(region)


def _check_tiles(s: Schedule, region: BoundRegion) -> None:
    """The tasks of each call are its tiles, each once, and the kernels are those that the schedule was made for."""
    if s.choices.tolist() != [c.choice for c in region.calls]:
        raise ScheduleError("the schedule was made for other kernels of the menus")
    call, first, count = s.tasks[:, 0], s.tasks[:, 1], s.tasks[:, 2]
    if len(call) and (call.min() < 0 or call.max() >= len(region.calls)):
        raise ScheduleError("a task belongs to no call of the region")
    order = np.lexsort((first, call))
    call, first, end = call[order], first[order], (first + count)[order]
    tiles = np.array([c.kernel.tiles for c in region.calls], np.int64)
    begins = np.ones(len(order), np.bool_)
    begins[1:] = call[1:] != call[:-1]
    previous = np.concatenate([[0], end[:-1]])
    wrong = np.where(begins, first != 0, first != previous) | (end <= first)
    closes = np.append(begins[1:], True)[: len(order)]
    wrong |= closes & (end != tiles[call])
    if wrong.any():
        raise ScheduleError(f"{s.task_name(int(order[wrong][0]))}: tiles are missing, or are run twice")
    if missing := set(np.flatnonzero(tiles).tolist()) - set(call.tolist()):
        raise ScheduleError(f"{region.calls[min(missing)].label} has tiles and no task")


def _check_within(region: BoundRegion) -> None:
    """No tile reads what another one of the same kernel writes, unless a sequential axis orders the two.

    Tiles that write overlapping hulls pass: hulls of interleaved stores overlap, and programs write every element once.
    """
    for call in {id(c.kernel): c for c in region.calls}.values():
        for write in call.kernel.writes:
            for read in call.kernel.reads:
                if call.buffers[read] != call.buffers[write] or call.buffers[write] not in region.mutable:
                    continue
                reads, writes = call.kernel.reads[read], call.kernel.writes[write]
                meet = _meet(reads, _shape(call, read), writes, _shape(call, write))
                step = _tile_steps(call.kernel)
                meet &= step[:, None] == step
                np.fill_diagonal(meet, False)
                if meet.any():
                    x, y = np.argwhere(meet)[0].tolist()
                    raise ScheduleError(
                        f"{call.label}: tile {x} reads bytes of {call.buffers[write]} that tile {y} writes, "
                        "and no sequential axis orders them"
                    )


def _shape(call: BoundCall, operand: str) -> tuple[tuple[int, ...], int]:
    return call.kernel.shape(operand), call.kernel.kernel.program.operand[operand].dtype.itemsize


def _tile_steps(kernel: BoundKernel) -> IntArray:
    out = np.zeros(kernel.tiles, np.int64)
    for j, axis in enumerate(kernel.kernel.program.axes):
        if axis.sequential:
            out = out * kernel.grid[j] + kernel.coordinates[:, j]
    return out


def _steps(s: Schedule, region: BoundRegion) -> IntArray:
    """Program order as one number per task: its call, then the sequential coordinates of its first tile."""
    index = np.zeros(len(s.tasks), np.int64)
    scale = 1
    for c, call in enumerate(region.calls):
        sequential = [j for j, a in enumerate(call.kernel.kernel.program.axes) if a.sequential]
        if not sequential:
            continue
        mine = np.flatnonzero(s.tasks[:, 0] == c)
        coordinates = np.unravel_index(s.tasks[mine, 1], call.kernel.grid)
        for j in sequential:
            index[mine] = index[mine] * call.kernel.grid[j] + coordinates[j]
        scale = max(scale, prod([call.kernel.grid[j] for j in sequential]))
    out: IntArray = s.tasks[:, 0] * scale + index
    return out


def _uses(s: Schedule, region: BoundRegion) -> dict[str, dict[tuple[tuple[int, ...], int], _Use]]:
    """Buffer -> (logical shape, bytes per element) -> uses, for buffers that are written."""
    parts = defaultdict[str, dict[tuple[tuple[int, ...], int], list[tuple[IntArray, bool, IntArray]]]](dict)
    by_call = np.argsort(s.tasks[:, 0], kind="stable")
    bounds = np.searchsorted(s.tasks[by_call, 0], np.arange(len(region.calls) + 1))
    known: dict[tuple[int, bytes], tuple[dict[str, IntArray], dict[str, IntArray]]] = {}
    for c, call in enumerate(region.calls):
        mine = by_call[bounds[c] : bounds[c + 1]]
        runs = s.tasks[mine, 1:3]
        key = id(call.kernel), runs.tobytes()
        if key not in known:
            known[key] = _run_boxes(call.kernel.reads, runs), _run_boxes(call.kernel.writes, runs)
        for writes, boxes in zip((False, True), known[key], strict=True):
            for name, box in boxes.items():
                buffer = call.buffers[name]
                shape = _shape(call, name)
                if buffer in region.mutable and 0 not in shape[0]:
                    parts[buffer].setdefault(shape, []).append((mine, writes, box))
    return {n: {shape: _joined(p) for shape, p in by_shape.items()} for n, by_shape in parts.items()}


def _joined(parts: list[tuple[IntArray, bool, IntArray]]) -> _Use:
    tasks = np.concatenate([t for t, _, _ in parts])
    writes = np.repeat(np.array([w for _, w, _ in parts]), [len(t) for t, _, _ in parts])
    return _Use(tasks, writes, np.concatenate([b for _, _, b in parts]))


def _run_boxes(tiles: dict[str, IntArray], runs: IntArray) -> dict[str, IntArray]:
    """The hull of each run, whatever the order of the runs."""
    if not len(runs):
        return {name: boxes[:0] for name, boxes in tiles.items()}
    starts = runs[:, 0]
    order = None if (starts[1:] > starts[:-1]).all() else np.argsort(starts)
    out = {}
    for name, boxes in tiles.items():
        box = np.empty((len(runs), *boxes.shape[1:]), np.int64)
        rows = slice(None) if order is None else order
        ascending = starts[rows]
        box[rows, :, 0] = np.minimum.reduceat(boxes[:, :, 0], ascending)
        box[rows, :, 1] = np.maximum.reduceat(boxes[:, :, 1], ascending)
        out[name] = box
    return out


def _check_conflicts(
    s: Schedule, clocks: Clocks, step: IntArray, name: str, uses: list[tuple[tuple[tuple[int, ...], int], _Use]]
) -> None:
    for i, (shape, a) in enumerate(uses):
        for other, b in uses[: i + 1]:
            if not (a.writes.any() or b.writes.any()):
                continue
            meet = _meet(a.boxes, shape, b.boxes, other) & (a.writes[:, None] | b.writes)
            now, then = step[a.tasks][:, None], step[b.tasks]
            wrong: BoolArray = np.asarray(meet & (then < now) & ~clocks.follows(a.tasks, b.tasks))
            if a is not b:
                wrong |= meet & (now < then) & ~clocks.follows(b.tasks, a.tasks).T
            if wrong.any():
                x, y = np.argwhere(wrong)[0].tolist()
                first, second = sorted((int(a.tasks[x]), int(b.tasks[y])), key=lambda t: int(step[t]))
                raise ScheduleError(
                    f"{s.task_name(second)} may start before {s.task_name(first)} is done, and both touch {name}"
                )


def _meet(
    a: IntArray, shape: tuple[tuple[int, ...], int], b: IntArray, other: tuple[tuple[int, ...], int]
) -> BoolArray:
    """[i, j]: box i of a may share an element with box j of b."""
    if shape == other:
        low, high = np.maximum(a[:, None, :, 0], b[:, :, 0]), np.minimum(a[:, None, :, 1], b[:, :, 1])
        return np.asarray((low < high).all(2))
    if shape[1] != other[1] or prod(shape[0]) != prod(other[0]):
        return np.ones((len(a), len(b)), np.bool_)
    out = np.ones((len(a), len(b)), np.bool_)
    for (a_low, a_high), (b_low, b_high) in zip(*_merged(a, shape[0], b, other[0]), strict=True):
        out &= (a_low[:, None] < b_high) & (b_low < a_high[:, None])
    return out


def _merged(
    a: IntArray, shape: tuple[int, ...], b: IntArray, other: tuple[int, ...]
) -> tuple[list[tuple[IntArray, IntArray]], list[tuple[IntArray, IntArray]]]:
    """Intervals of row-major positions, one per group of dimensions that cover the same elements in both shapes."""
    cuts = [{prod(x[d:]) for d in range(len(x) + 1)} for x in (shape, other)]
    sizes = sorted(cuts[0] & cuts[1])
    out: tuple[list[tuple[IntArray, IntArray]], list[tuple[IntArray, IntArray]]] = ([], [])
    for intervals, boxes, dims in zip(out, (a, b), (shape, other), strict=True):
        strides = [prod(dims[d + 1 :]) for d in range(len(dims))]
        empty = (boxes[..., 0] >= boxes[..., 1]).any(1)
        for small, big in pairwise(sizes):
            mine = [d for d in range(len(dims)) if small <= strides[d] < big and dims[d] > 1]
            weights = np.array([strides[d] // small for d in mine], np.int64)
            low = (boxes[:, mine, 0] * weights).sum(1)
            high = ((boxes[:, mine, 1] - 1) * weights).sum(1) + 1
            intervals.append((low, np.where(empty, -1, high)))  # nothing starts below -1
    return out


def _check_arena(s: Schedule, region: BoundRegion, clocks: Clocks, users: dict[str, list[IntArray]]) -> None:
    """Every used temporary has a place inside the arena, and those that share bytes are used one after the other."""
    names = [b.name for b in region.temps if b.bytes and b.name in users]
    for name in names:
        offset, size = s.offsets.get(name, -1), region.buffers[name].bytes
        if offset < 0 or offset % ALIGNMENT or offset + size > s.arena:
            raise ScheduleError(f"temporary {name} of {size} bytes is at {offset} in an arena of {s.arena}")
    low = np.array([s.offsets[n] for n in names], np.int64)
    high = low + np.array([region.buffers[n].bytes for n in names], np.int64)
    wrong = (low[:, None] < high) & (low < high[:, None])
    np.fill_diagonal(wrong, False)
    if wrong.any():
        ordered = clocks.sets_follow([np.concatenate(users[n]) for n in names])
        wrong &= ~(ordered | ordered.T)
    if wrong.any():
        x, y = np.argwhere(wrong)[0].tolist()
        raise ScheduleError(f"temporaries {names[x]} and {names[y]} share bytes of the arena and have no order")


def _check_written(region: BoundRegion) -> None:
    """Nothing is read that nobody wrote before, and no buffer has a gap that boxes can show."""
    known: dict[int, dict[str, _Extent]] = {}
    written: dict[str, list[_Extent]] = defaultdict(list)
    for call in region.calls:
        for name in call.kernel.reads:
            buffer = region.buffers[call.buffers[name]]
            made_here = buffer.role in ("temp", "output") and buffer.bytes > 0 and call.kernel.tiles > 0
            if made_here and buffer.name not in written and name not in call.kernel.writes:
                raise ScheduleError(f"{call.label} reads {buffer.name} before anything writes it")
        key = id(call.kernel)
        if key not in known:
            known[key] = {name: _written(boxes, call.kernel.shape(name)) for name, boxes in call.kernel.writes.items()}
        for name, extent in known[key].items():
            written[call.buffers[name]].append(extent)
    for buffer in region.buffers.values():
        if buffer.role in ("output", "temp") and buffer.bytes and _has_gap(written[buffer.name], prod(buffer.shape)):
            writers = [c.label for c in region.calls if buffer.name in (c.buffers[n] for n in c.kernel.writes)]
            raise ScheduleError(f"{buffer.name} is not written everywhere by {', '.join(writers) or 'any call'}")


@dataclass(frozen=True, slots=True)
class _Extent:
    """The volume of a kernel's write boxes and their hull, in a logical shape."""

    shape: tuple[int, ...]
    volume: int
    low: list[int]
    high: list[int]


def _written(boxes: IntArray, shape: tuple[int, ...]) -> _Extent:
    volume = (boxes[..., 1] - boxes[..., 0]).prod(1)
    if not volume.all():
        boxes = boxes[volume > 0]
    if not len(boxes):
        return _Extent(shape, 0, list(shape), [0] * len(shape))
    return _Extent(shape, int(volume.sum()), boxes[..., 0].min(0).tolist(), boxes[..., 1].max(0).tolist())


def _has_gap(extents: list[_Extent], size: int) -> bool:
    """Boxes hold at least what is written: too little volume, or a hull that is not the whole, is a gap for certain."""
    if sum(e.volume for e in extents) < size:
        return True
    if len({e.shape for e in extents}) > 1:
        return False
    low = [min(e.low[d] for e in extents) for d in range(len(extents[0].shape))]
    high = [max(e.high[d] for e in extents) for d in range(len(extents[0].shape))]
    return any(low) or tuple(high) != extents[0].shape
