"""The arena: where temporaries live. Two share bytes only if all uses of one happen before all uses of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import IntArray
from fusec.schedule.assign import Assignment
from fusec.schedule.region import BoundRegion
from fusec.schedule.tasks import Tasks

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Arena:
    """Byte offsets of temporaries, the arena's size, and a size that no plan for this order of tasks can beat."""

    offsets: dict[str, int]
    bytes: int
    bound: int


@dataclass(frozen=True, eq=False)
class Lives:
    """Who uses each temporary, in arrays with an entry per temporary.

    `done[b, w]` is the last position on worker w that uses it, `since[b, w]` how many tasks of w are complete before
    any use of it starts, `first` and `last` are its first and last use in the order of the assignment.
    """

    names: tuple[str, ...]
    size: IntArray
    done: IntArray
    since: IntArray
    first: IntArray
    last: IntArray

    def ordered(self, tight: bool) -> BoolArray:
        """[a, b]: all uses of a come before all uses of b, by the clocks or (tight) as planned."""
        if tight:
            return self.last[:, None] < self.first
        out = np.ones((len(self.names), len(self.names)), np.bool_)
        for done, since in zip(self.done.T, self.since.T, strict=True):
            out &= done[:, None] <= since
        return out


def find_lives(region: BoundRegion, tasks: Tasks, a: Assignment, clock: npt.NDArray[np.signedinteger[Any]]) -> Lives:
    """Collect the uses of every temporary that has any."""
    names = tuple(b.name for b in region.temps if b.bytes)
    number = {name: i for i, name in enumerate(names)}
    pairs = dict.fromkeys((number[x.buffer], x.call) for x in tasks.accesses if x.buffer in number)
    parts = [np.arange(tasks.bounds[c], tasks.bounds[c + 1]) for _, c in pairs]
    buffer = np.repeat(np.array([b for b, _ in pairs], np.int64), [len(p) for p in parts])
    task = np.concatenate([np.zeros(0, np.int64), *parts])
    place = np.empty(len(tasks), np.int64)
    place[a.order] = np.arange(len(tasks))
    done = np.zeros((len(names), a.workers), np.int64)
    since = np.full((len(names), a.workers), len(tasks), np.int64)
    first, last = np.full(len(names), len(tasks), np.int64), np.full(len(names), -1, np.int64)
    np.maximum.at(done, (buffer, a.worker[task]), a.position[task])
    begun = {c: clock[tasks.bounds[c] : tasks.bounds[c + 1]].min(0, initial=len(tasks)) for c in {c for _, c in pairs}}
    for b, c in pairs:
        np.minimum(since[b], begun[c], out=since[b])
    np.minimum.at(first, buffer, place[task])
    np.maximum.at(last, buffer, place[task])
    size = np.array([region.buffers[n].bytes for n in names], np.int64)
    return Lives(names, size, done, since, first, last)


def place_temps(lives: Lives, tight: bool = False) -> Arena:
    """Offsets, the largest temporary first, each at the lowest place that is free of everything it may meet."""
    before = lives.ordered(tight)
    meets = ~(before | before.T)
    offset, placed = np.zeros(len(lives.names), np.int64), np.zeros(len(lives.names), np.bool_)
    total = 0
    for b in np.argsort(-lives.size, kind="stable").tolist():
        size = int(lives.size[b])
        rivals = np.flatnonzero(meets[b] & placed)
        offset[b] = _lowest(offset[rivals], lives.size[rivals], size)
        placed[b] = True
        total = max(total, int(offset[b]) + size)
    return Arena(dict(zip(lives.names, offset.tolist(), strict=True)), total, _bound(lives))


def _lowest(offsets: IntArray, sizes: IntArray, size: int) -> int:
    """The lowest place with `size` free bytes between those that are taken."""
    if not len(offsets):
        return 0
    order = np.argsort(offsets, kind="stable")
    free = np.maximum.accumulate((offsets + sizes)[order])
    gaps = np.flatnonzero(offsets[order][1:] - free[:-1] >= size)
    if offsets[order[0]] >= size:
        return 0
    return int(free[gaps[0]]) if len(gaps) else int(free[-1])


def _bound(lives: Lives) -> int:
    """The most bytes alive at once in one order that the clocks allow: those temporaries meet in any plan."""
    if not lives.names:
        return 0
    change = np.zeros(int(lives.last.max()) + 2, np.int64)
    np.add.at(change, lives.first, lives.size)
    np.subtract.at(change, lives.last + 1, lives.size)
    return int(change.cumsum().max())


def reuse_fronts(tasks: Tasks, lives: Lives, arena: Arena, need: IntArray) -> IntArray:
    """Fronts that also make a tight arena safe: every user of reused bytes follows every earlier user of them."""
    need = need.copy()
    low = np.array([arena.offsets[n] for n in lives.names], np.int64)
    high = low + lives.size
    share = (low[:, None] < high) & (low < high[:, None]) & lives.ordered(tight=True)
    users: dict[str, list[int]] = {n: [] for n in lives.names}
    for name, call in sorted({(x.buffer, x.call) for x in tasks.accesses if x.buffer in users}):
        users[name].extend(range(tasks.bounds[call], tasks.bounds[call + 1]))
    for a, b in np.argwhere(share).tolist():
        later = users[lives.names[b]]
        need[later] = np.maximum(need[later], lives.done[a])
    return need
