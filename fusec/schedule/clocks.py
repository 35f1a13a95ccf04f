"""Vector clocks from the tables of a schedule: what is certainly done when a task starts, for any timing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.kernels.kernel import IntArray
from fusec.schedule.schedule import COUNT, SIGNAL, WAIT, WAITS, Schedule


@dataclass(frozen=True, eq=False)
class Clocks:
    """`before[t, w]`: tasks of worker w that are complete when task t starts; task t is number `position[t]` of `worker[t]`."""

    before: IntArray
    worker: IntArray
    position: IntArray

    def follows(self, later: IntArray, earlier: IntArray) -> npt.NDArray[np.bool_]:
        """[i, j]: task `later[i]` starts after task `earlier[j]` is complete."""
        out: npt.NDArray[np.bool_] = self.before[later[:, None], self.worker[earlier]] >= self.position[earlier]
        return out

    def sets_follow(self, sets: list[IntArray]) -> npt.NDArray[np.bool_]:
        """[i, j]: every task of set i starts after every task of set j is complete."""
        size = [len(x) for x in sets]
        which, tasks = np.repeat(np.arange(len(sets)), size), np.concatenate(sets)
        begun = np.full((len(sets), self.before.shape[1]), len(self.before))
        np.minimum.at(begun, which, self.before[tasks])
        done = np.zeros_like(begun)
        np.maximum.at(done, (which, self.worker[tasks]), self.position[tasks])
        out = np.ones((len(sets), len(sets)), np.bool_)
        for w in range(begun.shape[1]):
            out &= begun[:, w, None] >= done[:, w]
        return out


def simulate(s: Schedule, error: type[BugError]) -> Clocks:
    """Run the lists without their work. Raises `error` for malformed tables, senseless thresholds and deadlocks.

    Counters only grow, so a worker that can go on can do so in every timing: one simulation stands for all of them.
    """
    _check_tables(s, error)
    tasks, counters = len(s.tasks), len(s.totals)
    worker = np.repeat(np.arange(s.workers), np.diff(s.queue_starts))
    clocks = Clocks(np.zeros((tasks, s.workers), np.int64), np.empty_like(s.queues), np.empty_like(s.queues))
    clocks.worker[s.queues] = worker
    clocks.position[s.queues] = np.arange(tasks) - s.queue_starts[worker] + 1
    shared = _shared_counters(s, clocks.worker)
    after = np.zeros((tasks, s.workers), np.int64)
    signalled: list[list[int]] = [[] for _ in range(counters)]
    rows, waits, totals = s.tasks[:, WAIT:].tolist(), s.waits.tolist(), s.totals.tolist()
    queues = [s.queue(w).tolist() for w in range(s.workers)]
    state = np.zeros((s.workers, s.workers), np.int64)
    at = [0] * s.workers
    moved = True
    while moved:
        moved = False
        for w, queue in enumerate(queues):
            mine = state[w]
            while at[w] < len(queue):
                t = queue[at[w]]
                first, count, signal = rows[t]
                wanted = waits[first : first + count]
                if any(len(signalled[c]) < threshold for c, threshold in wanted):
                    break
                for c, threshold in wanted:
                    if shared[c]:
                        if threshold != totals[c]:
                            raise error(f"{s.task_name(t)} waits for part of counter {c}, which several workers share")
                        np.maximum(mine, after[signalled[c]].max(0), out=mine)
                    else:
                        np.maximum(mine, after[signalled[c][threshold - 1]], out=mine)
                clocks.before[t] = mine
                at[w] += 1
                mine[w] = at[w]
                after[t] = mine
                if signal >= 0:
                    signalled[signal].append(t)
                moved = True
    stuck = [s.task_name(queue[i]) for queue, i in zip(queues, at, strict=True) if i < len(queue)]
    if stuck:
        raise error(f"deadlock: {', '.join(stuck)} can never start")
    return clocks


def _shared_counters(s: Schedule, worker: IntArray) -> list[bool]:
    """Whether more than one worker increments a counter: then only its full count says anything."""
    low, high = np.full(len(s.totals), s.workers), np.full(len(s.totals), -1)
    signals = s.tasks[:, SIGNAL]
    used = signals >= 0
    np.minimum.at(low, signals[used], worker[used])
    np.maximum.at(high, signals[used], worker[used])
    return [bool(x) for x in low < high]


def _check_tables(s: Schedule, error: type[BugError]) -> None:
    starts, n = s.queue_starts, len(s.tasks)
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != len(s.queues) or (np.diff(starts) < 0).any():
        raise error("the queues are not a partition")
    if len(s.queues) != n or (np.sort(s.queues) != np.arange(n)).any():
        outside = [t for t in s.queues.tolist() if not 0 <= t < n]
        times = np.bincount(s.queues[(s.queues >= 0) & (s.queues < n)], minlength=n)
        names = [s.task_name(t) for t in np.flatnonzero(times != 1).tolist()[:3]]
        raise error(f"each task must be queued once: {', '.join(names) or outside[:3]}")
    first, count, signal = s.tasks[:, WAIT], s.tasks[:, WAITS], s.tasks[:, SIGNAL]
    wrong = (first < 0) | (count < 0) | (first + count > len(s.waits)) | (signal >= len(s.totals)) | (signal < -1)
    wrong |= s.tasks[:, COUNT] < 1
    if wrong.any():
        raise error(f"{s.task_name(int(np.flatnonzero(wrong)[0]))} has a malformed row")
    counters, thresholds = s.waits[:, 0], s.waits[:, 1]
    if len(counters) and (counters.min() < 0 or counters.max() >= len(s.totals)):
        raise error("a wait names a counter that does not exist")
    if (np.bincount(signal[signal >= 0], minlength=len(s.totals)) != s.totals).any():
        raise error("a counter's total is not the number of its signals")
    senseless = (thresholds < 1) | (thresholds > s.totals[counters])
    if senseless.any():
        i = int(np.flatnonzero(senseless)[0])
        t = int(np.flatnonzero((first <= i) & (i < first + count)).tolist()[:1][0]) if n else 0
        c, v = s.waits[i].tolist()
        raise error(f"{s.task_name(t)} waits for {v} of counter {c}, which ends a run at {int(s.totals[c])}")
