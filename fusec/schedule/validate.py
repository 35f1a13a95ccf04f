"""The proof: a schedule's tables and the kernels' boxes alone show that every run is right, whatever the timing.

Nothing that planned the schedule is used here; what each task touches is worked out again from its tiles. Shown are: each
tile runs exactly once; no deadlock; thresholds have a meaning and are reached; any two tasks that touch the same bytes, one
of them writing, are ordered as in the program; temporaries that share bytes of the arena are used one after the other;
outputs are written everywhere as far as boxes can tell.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import NoReturn

import numpy as np

from fusec.errors import BugError
from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.schedule.clocks import Clocks, simulate
from fusec.schedule.in_order import disorder
from fusec.schedule.region import ALIGNMENT, BoundRegion
from fusec.schedule.schedule import Schedule
from fusec.schedule.uses import Use, Uses, meet_within, steps, view_of

MANY = 256
"""Tasks that use a buffer in one shape: from here on not every two of them are compared."""
MOST_MEETINGS = 1 << 20
"""Pairs of tiles that are compared at once."""


class ScheduleError(BugError):
    """A schedule that is not proved: it is never run."""

    code = "FS-B002"


def validate(schedule: Schedule, region: BoundRegion) -> None:
    """Prove a schedule, or raise ScheduleError with the names of the tasks that are wrong."""
    _check_tiles(schedule, region)
    clocks = simulate(schedule, ScheduleError)
    uses = Uses(schedule, region)
    _check_conflicts(schedule, region, clocks, uses)
    _check_arena(schedule, region, clocks, uses)
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
                found = _meeting_tiles(call.kernel, read, write)
                if found is not None:
                    x, y = found
                    raise ScheduleError(
                        f"{call.label}: tile {x} reads bytes of {call.buffers[write]} that tile {y} writes, "
                        "and no sequential axis orders them"
                    )


def _meeting_tiles(kernel: BoundKernel, read: str, write: str) -> tuple[int, int] | None:
    """Two tiles of one step of which the first reads what the second writes."""
    step = _tile_steps(kernel)
    order = np.argsort(step, kind="stable")
    size = kernel.tiles // max(1, len(np.unique(step)))  # of a grid, every step has as many tiles
    if size < 2:
        return None
    view, other, part = view_of(kernel, read), view_of(kernel, write), max(1, MOST_MEETINGS // size**2) * size
    for at in range(0, kernel.tiles, part):
        tiles = order[at : at + part].reshape(-1, size)
        meets = meet_within(kernel.reads[read][tiles], view, kernel.writes[write][tiles], other)
        meets &= ~np.eye(size, dtype=np.bool_)
        if meets.any():
            s, x, y = np.argwhere(meets)[0].tolist()
            return int(tiles[s, x]), int(tiles[s, y])
    return None


def _tile_steps(kernel: BoundKernel) -> IntArray:
    out = np.zeros(kernel.tiles, np.int64)
    for j, axis in enumerate(kernel.kernel.program.axes):
        if axis.sequential:
            out = out * kernel.grid[j] + kernel.coordinates[:, j]
    return out


def _check_conflicts(s: Schedule, region: BoundRegion, clocks: Clocks, uses: Uses) -> None:
    """Two tasks that touch the same bytes, one of them writing, run in the order of the program."""
    step = steps(s, region.calls)
    if s.workers == 1 and (np.diff(step[s.queues]) >= 0).all():
        return  # one after the other, in program order
    for name, of_buffer in uses.of.items():
        for i, a in enumerate(of_buffer):
            for b in of_buffer[: i + 1]:
                if a is b and len(a.tasks) > MANY:
                    if (wrong := disorder(a, step, clocks)) is not None:
                        _fail_order(s, name, *wrong)
                elif a.writes or b.writes:
                    _check_pair(s, clocks, step, name, a, b, uses.meet(a, b))


def _check_pair(
    s: Schedule, clocks: Clocks, step: IntArray, name: str, a: Use, b: Use, meet: tuple[IntArray, IntArray]
) -> None:
    x, y = a.tasks[meet[0]], b.tasks[meet[1]]
    now, then = step[x], step[y]
    if a is b:  # each pair is there twice
        x, y, now, then = (v[then < now] for v in (x, y, now, then))
    is_later = now > then
    late, early = np.where(is_later, x, y), np.where(is_later, y, x)
    wrong = (now != then) & ~clocks.are_after(late, early)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        _fail_order(s, name, int(early[i]), int(late[i]))


def _fail_order(s: Schedule, name: str, first: int, second: int) -> NoReturn:
    raise ScheduleError(f"{s.task_name(second)} may start before {s.task_name(first)} is done, and both touch {name}")


def _check_arena(s: Schedule, region: BoundRegion, clocks: Clocks, uses: Uses) -> None:
    """Every used temporary has a place inside the arena, and those that share bytes are used one after the other."""
    names = [b.name for b in region.temps if b.bytes and b.name in uses.of]
    for name in names:
        offset, size = s.offsets.get(name, -1), region.buffers[name].bytes
        if offset < 0 or offset % ALIGNMENT or offset + size > s.arena:
            raise ScheduleError(f"temporary {name} of {size} bytes is at {offset} in an arena of {s.arena}")
    low = np.array([s.offsets[n] for n in names], np.int64)
    high = low + np.array([region.buffers[n].bytes for n in names], np.int64)
    wrong = (low[:, None] < high) & (low < high[:, None])
    np.fill_diagonal(wrong, False)
    if wrong.any():
        sharing = np.flatnonzero(wrong.any(0))
        users = [np.unique(np.concatenate([u.tasks for u in uses.of[names[i]]])) for i in sharing.tolist()]
        ordered = clocks.sets_follow(users)
        wrong[np.ix_(sharing, sharing)] &= ~(ordered | ordered.T)
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
