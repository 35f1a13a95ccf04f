"""Which tasks must follow which: pairs of tasks that touch a byte where one of them writes.

Calls without sequential axes are compared as wholes, once for all layers with the same kernels. Where a buffer is
touched step by step, as recurrent layers do, the tasks of a step are a unit: units are sorted by what they touch, and a
unit whose bytes are all written again is forgotten from there on, since whoever follows the writer follows it as well.
So the time goes with the number of steps, not with its square.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import numpy as np

from fusec.kernels.kernel import IntArray
from fusec.schedule.boxes import common_shape, merge, overlaps
from fusec.schedule.sweep import FAR, argsort_counts, meeting, spread
from fusec.schedule.tasks import Access, Tasks


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Pairs of tasks: those of task t are entries `starts[t]` to `starts[t + 1] - 1`, t must follow each of `earlier`.

    `bytes` is how much t reads of what the earlier task wrote and is worth staying close to; 0 where only order matters.
    """

    starts: IntArray
    earlier: IntArray
    bytes: IntArray

    @staticmethod
    def of(tasks: int, later: IntArray, earlier: IntArray, flow: IntArray) -> Conflicts:
        """Sort pairs by the later task."""
        order = argsort_counts(later)
        starts = np.concatenate([[0], np.cumsum(np.bincount(later, minlength=tasks))])
        return Conflicts(starts, earlier[order], flow[order])


Pairs = tuple[IntArray, IntArray, IntArray]
"""Later task, earlier task, bytes that flow."""


def find_conflicts(tasks: Tasks) -> Conflicts:
    """All pairs that matter.

    The rule is general: any two accesses to overlapping boxes of a buffer, one of them a write, keep program order. With
    values written once that is writer before reader; values in several pieces, updates in place and sequential axes
    follow the same rule.
    """
    by_buffer = defaultdict[str, list[Access]](list)
    for access in tasks.accesses:
        by_buffer[access.buffer].append(access)
    stepped = [_has_phases(tasks, c) for c in range(len(tasks.bounds) - 1)]
    known: dict[tuple[object, ...], Pairs] = {}
    found: list[Pairs] = [(np.zeros(0, np.int64),) * 3]
    for accesses in by_buffer.values():
        if any(stepped[a.call] for a in accesses):
            found += _of_steps(tasks, accesses, known)
        else:
            found += _of_calls(tasks, accesses, known)
    later, earlier, flow = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Conflicts.of(len(tasks), later, earlier, flow)


def _has_phases(tasks: Tasks, call: int) -> bool:
    first, end = tasks.bounds[call], tasks.bounds[call + 1]
    return first < end and bool(tasks.phase[first] != tasks.phase[end - 1])


def _of_calls(tasks: Tasks, accesses: list[Access], known: dict[tuple[object, ...], Pairs]) -> list[Pairs]:
    """Each two calls, every task of the one against every task of the other."""
    out = []
    for a, b in combinations(accesses, 2):
        if a.call == b.call or not (a.write or b.write):
            continue
        flows = a.write and not b.write
        key = id(a.boxes), id(b.boxes), a.shape, b.shape, flows
        if key not in known:
            shared = _shared(a, b)
            later, earlier = shared.nonzero()
            known[key] = later, earlier, shared[later, earlier] if flows else np.zeros(len(later), np.int64)
        later, earlier, flow = known[key]
        if len(later):
            out.append((later + tasks.bounds[b.call], earlier + tasks.bounds[a.call], flow))
    return out


def _shared(a: Access, b: Access) -> IntArray:
    if a.shape == b.shape and a.itemsize == b.itemsize:
        return overlaps(b.boxes, a.boxes) * a.itemsize
    coarse = common_shape(a.shape, b.shape) if a.itemsize == b.itemsize else None
    if coarse is None:  # shapes that do not describe the same elements: everything may meet everything
        return np.ones((len(b.boxes), len(a.boxes)), np.int64)
    return overlaps(merge(b.boxes, b.shape, coarse), merge(a.boxes, a.shape, coarse)) * a.itemsize


@dataclass(frozen=True, eq=False)
class _Touches:
    """Every access of every task to one buffer, sorted by access and then by task: boxes of one shape, none empty."""

    task: IntArray
    phase: IntArray
    write: IntArray
    access: IntArray
    boxes: IntArray


def _touches(tasks: Tasks, accesses: list[Access]) -> _Touches:
    coarse = _meeting_shape(accesses)
    boxes = [a.boxes if a.shape == coarse else merge(a.boxes, a.shape, coarse) for a in accesses]
    task = np.concatenate([np.arange(tasks.bounds[a.call], tasks.bounds[a.call] + len(a.boxes)) for a in accesses])
    number = np.repeat(np.arange(len(accesses)), [len(a.boxes) for a in accesses])
    write = np.array([a.write for a in accesses], np.int64)[number]
    every = np.concatenate(boxes)
    there = (every[..., 0] < every[..., 1]).all(1)
    return _Touches(task[there], tasks.phase[task[there]], write[there], number[there], every[there])


def _meeting_shape(accesses: list[Access]) -> tuple[int, ...]:
    """A shape that all accesses can be seen in: their own, what they have in common, or a single point."""
    shapes = list(dict.fromkeys(a.shape for a in accesses))
    if len({a.itemsize for a in accesses}) > 1:
        return ()
    return reduce(lambda a, b: common_shape(a, b) or (), shapes)


def _of_steps(tasks: Tasks, accesses: list[Access], known: dict[tuple[object, ...], Pairs]) -> list[Pairs]:
    """The pairs of a buffer that is touched step by step. Layers with the same kernels have the same, but for the numbers."""
    t = _touches(tasks, accesses)
    if not len(t.task):
        return []
    rank = {c: i for i, c in enumerate(sorted({a.call for a in accesses}))}
    key = "steps", *((id(a.boxes), a.shape, a.itemsize, a.write, rank[a.call]) for a in accesses)
    if key not in known:
        known[key] = _between_touches(t, accesses[0].itemsize)
    later, earlier, flow = known[key]
    return [(t.task[later], t.task[earlier], flow)]


def _between_touches(t: _Touches, itemsize: int) -> Pairs:
    """The same as numbers of touches."""
    first = np.flatnonzero(np.diff(t.access, prepend=-1) | np.diff(t.phase, prepend=-1))
    size = np.diff(first, append=len(t.task))
    low, high = np.minimum.reduceat(t.boxes[..., 0], first), np.maximum.reduceat(t.boxes[..., 1], first)
    phase, write = t.phase[first], t.write[first].astype(bool)
    until = _rewritten(t, first, size, low, high)
    a, b = meeting(
        np.concatenate([low, phase[:, None]], 1), np.concatenate([high, np.minimum(until, FAR)[:, None] + 1], 1)
    )
    swap = phase[a] > phase[b]
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    keep = (phase[a] < phase[b]) & (write[a] | write[b])
    a, b = a[keep], b[keep]
    count, members = _within(t, first[a], size[a], low[b], high[b])
    others, readers = _within(t, first[b], size[b], low[a], high[a])
    pair, k = spread(count * others)
    earlier = members[(np.cumsum(count) - count)[pair] + k // others[pair]]
    later = readers[(np.cumsum(others) - others)[pair] + k % others[pair]]
    shared = _shared_elements(t.boxes, later, earlier)
    there = shared > 0
    flow = np.where(t.write[earlier] & ~t.write[later] & 1, shared * itemsize, 0)
    return later[there], earlier[there], flow[there]


def _shared_elements(boxes: IntArray, a: IntArray, b: IntArray) -> IntArray:
    """For each i how many elements boxes `a[i]` and `b[i]` share."""
    out = np.ones(len(a), np.int64)
    for d in range(boxes.shape[1]):
        low, high = np.ascontiguousarray(boxes[:, d, 0]), np.ascontiguousarray(boxes[:, d, 1])
        if len(low) and (low == low[0]).all() and (high == high[0]).all():
            out *= high[0] - low[0]
            continue
        out *= np.maximum(np.minimum(high[a], high[b]) - np.maximum(low[a], low[b]), 0)
    return out


def _within(t: _Touches, first: IntArray, size: IntArray, low: IntArray, high: IntArray) -> tuple[IntArray, IntArray]:
    """Of several units the touches that meet a box, one box for each: how many there are, and all of them in a row."""
    unit, k = spread(size)
    touch = first[unit] + k
    box = t.boxes[touch]
    meet = ((box[..., 0] < high[unit]) & (low[unit] < box[..., 1])).all(1)
    return np.bincount(unit[meet], minlength=len(size)), touch[meet]


def _rewritten(t: _Touches, first: IntArray, size: IntArray, low: IntArray, high: IntArray) -> IntArray:
    """For each unit the phase in which another one first writes exactly its hull again; FAR where none does."""
    phase, write = t.phase[first], t.write[first].astype(bool)
    whole = write & _fills(t, first, size, low, high)
    corners = np.concatenate([low, high], 1)
    hull = np.unique(corners, axis=0, return_inverse=True)[1].reshape(-1) if corners.size else np.zeros_like(phase)
    scale = int(phase.max()) + 2
    key = hull * scale + phase
    writers = np.sort(key[whole])
    following = np.searchsorted(writers, key, "right")
    found = np.append(writers, -1)[np.minimum(following, len(writers))]
    is_there = (following < len(writers)) & (found // scale == key // scale)
    return np.where(is_there, found % scale, FAR)


def _fills(t: _Touches, first: IntArray, size: IntArray, low: IntArray, high: IntArray) -> IntArray:
    """Whether the boxes of a unit are disjoint and as large as their hull: then every byte of it is in one of them."""
    volume = np.add.reduceat((t.boxes[..., 1] - t.boxes[..., 0]).prod(1), first)
    fills: IntArray = volume == (high - low).prod(1)
    chosen = np.flatnonzero(fills & (size > 1))
    unit, k = spread(size[chosen])
    boxes = t.boxes[first[chosen][unit] + k]
    apart = unit[:, None] * (int(high.max(initial=0)) + 1)  # boxes of different units meet nowhere
    i, _ = meeting(boxes[..., 0] + apart, boxes[..., 1] + apart)
    fills[chosen[unit[i]]] = False
    return fills
