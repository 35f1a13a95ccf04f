"""Groups: the tasks of a call that share a counter, because the same readers wait for them.

A device has many workers, and a wait per worker would be many waits. So a task announces its end at the counter of its
group, and who needs a group waits until all of it is done. Tasks with the same readers are a group: a panel of rows where a
product reads the whole row, single tasks where tiles fit, a whole call where everybody reads everything. Where a reader
would have to wait for too many groups, neighbours are joined: tiles are numbered along the leading task axes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import IntArray
from fusec.schedule.dependencies import Conflicts
from fusec.schedule.tasks import Tasks

MOST_GROUPS = 32
"""Groups of one call that a task waits for at most: a warp looks at so many counters at once."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Task t counts at `of[t]`; it must follow the groups `needs[starts[t]:starts[t + 1]]`, all of each, sorted.

    `size[g]` is the number of tasks in group g. Tasks of different phases are never in one group, so no group needs itself.
    """

    of: IntArray
    size: IntArray
    starts: IntArray
    needs: IntArray

    def __len__(self) -> int:
        return len(self.size)

    def with_needs(self, later: IntArray, group: IntArray) -> Groups:
        """The same groups, with more pairs of a task and a group that it must follow."""
        old = np.repeat(np.arange(len(self.of)), np.diff(self.starts))
        return _with_pairs(self.of, self.size, np.concatenate([old, later]), np.concatenate([self.needs, group]))


def make_groups(tasks: Tasks, conflicts: Conflicts, most: int = MOST_GROUPS, every: bool = False) -> Groups:
    """Group tasks by who must follow them, and join neighbours where a task would wait for more than `most` of a call.

    With `every`, no phase has more than `most`, whoever waits for them.
    """
    n = len(tasks)
    later, earlier = np.repeat(np.arange(n), np.diff(conflicts.starts)), conflicts.earlier
    of = _numbered(tasks.phase, _readers(n, later, earlier, conflicts.bytes > 0))
    later, group = _distinct(later, of[earlier], n)
    phase = np.zeros(int(of.max(initial=-1)) + 1, np.int64)
    phase[of] = tasks.phase
    wide = -(-np.bincount(phase) // most)[phase] if every else _too_wide(later, group, phase, most)
    if (wide > 1).any():
        of = _joined(of, phase, wide)
        later, group = _distinct(later, _joined(np.arange(len(phase)), phase, wide)[group], n)
    return _with_pairs(of, np.bincount(of), later, group)


def _readers(n: int, later: IntArray, earlier: IntArray, flows: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """A number per task for the set of those that read what it wrote, or where nobody does, that must follow it anyhow."""
    is_read = np.zeros(n, np.bool_)
    is_read[earlier[flows]] = True
    told = flows | ~is_read[earlier]
    later, earlier = _distinct(later[told], earlier[told], n)
    out = np.zeros(n, np.uint64)
    np.add.at(out, earlier, _mixed(n)[later])
    return out


def _mixed(n: int) -> npt.NDArray[np.uint64]:
    """A number per task whose sums tell sets of tasks apart. A collision would only make a group larger."""
    x = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _numbered(phase: IntArray, readers: npt.NDArray[np.uint64]) -> IntArray:
    """Equal pairs get equal numbers, in the order of their first task."""
    n = len(phase)
    order = np.lexsort((readers, phase))
    begins = np.ones(n, np.bool_)
    begins[1:] = (phase[order[1:]] != phase[order[:-1]]) | (readers[order[1:]] != readers[order[:-1]])
    number = np.cumsum(begins) - 1
    first = np.full(int(begins.sum()), n, np.int64)
    np.minimum.at(first, number, order)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    of = np.empty(n, np.int64)
    of[order] = rank[number]
    return of


def _distinct(later: IntArray, other: IntArray, tasks: int) -> tuple[IntArray, IntArray]:
    """Each pair of a task and another one, or a group, once, and sorted."""
    scale = max(tasks, 1)
    keys = _sorted_once(later * scale + other, scale * scale)
    later = keys // scale
    return later, keys - later * scale


def _sorted_once(keys: IntArray, end: int) -> IntArray:
    """What `np.unique` gives of numbers below `end`, several times as fast for many of them."""
    keys = np.sort(keys.astype(np.int32)) if end < 1 << 31 else np.sort(keys)
    keep = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=keep[1:])
    return keys[keep].astype(np.int64)


def _too_wide(later: IntArray, group: IntArray, phase: IntArray, most: int) -> IntArray:
    """For each group how many neighbours become one."""
    scale = int(phase.max(initial=0)) + 1
    keys = np.sort(later * scale + phase[group])
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    waits = np.diff(begins, append=len(keys))
    widest = np.ones(scale, np.int64)
    np.maximum.at(widest, keys[begins] % scale, waits)
    out: IntArray = -(-widest // most)[phase] if len(phase) else phase
    return out


def _joined(of: IntArray, phase: IntArray, wide: IntArray) -> IntArray:
    """New numbers: runs of `wide[g]` groups of one phase become one. Groups of a phase are numbered one after the other."""
    begins = np.searchsorted(phase, phase, "left")
    lead = (np.arange(len(phase)) - begins) % wide == 0
    renumbered: IntArray = (np.cumsum(lead) - 1)[of]
    return renumbered


def _with_pairs(of: IntArray, size: IntArray, later: IntArray, group: IntArray) -> Groups:
    n = len(of)
    later, group = _distinct(later, group, n)
    starts = np.concatenate([[0], np.cumsum(np.bincount(later, minlength=n))])
    return Groups(of, size, starts, group)
