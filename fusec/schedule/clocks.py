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

    before: npt.NDArray[np.int32]
    worker: IntArray
    position: IntArray

    def are_after(self, later: IntArray, earlier: IntArray) -> npt.NDArray[np.bool_]:
        """[i]: task `later[i]` starts after task `earlier[i]` is complete."""
        at = later * self.before.shape[1] + self.worker[earlier]
        out: npt.NDArray[np.bool_] = self.before.reshape(-1)[at] >= self.position[earlier]
        return out

    def sets_follow(self, sets: list[IntArray]) -> npt.NDArray[np.bool_]:
        """[i, j]: every task of set i starts after every task of set j is complete."""
        size = np.array([len(x) for x in sets], np.int64)
        which, tasks = np.repeat(np.arange(len(sets)), size), np.concatenate(sets)
        begun = np.full((len(sets), self.before.shape[1]), len(self.before))
        there = np.flatnonzero(size)
        begun[there] = np.minimum.reduceat(self.before[tasks], (np.cumsum(size) - size)[there], axis=0)
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
    tasks = len(s.tasks)
    worker = np.repeat(np.arange(s.workers), np.diff(s.queue_starts))
    clocks = Clocks(np.zeros((tasks, s.workers), np.int32), np.empty_like(s.queues), np.empty_like(s.queues))
    clocks.worker[s.queues] = worker
    clocks.position[s.queues] = np.arange(tasks) - s.queue_starts[worker] + 1
    _Run(s, clocks, error).go()
    return clocks


class _Run:
    """One run of the lists. A worker that cannot go on stands at a counter, and is looked at again when that has moved."""

    def __init__(self, s: Schedule, clocks: Clocks, error: type[BugError]) -> None:
        self.s, self.clocks, self.error = s, clocks, error
        self.shared = _shared_counters(s, clocks.worker)
        self.rows, self.waits, self.totals = s.tasks[:, WAIT:].tolist(), s.waits.tolist(), s.totals.tolist()
        self.signalled: list[list[int]] = [[] for _ in self.totals]
        self.joint: dict[int, npt.NDArray[np.int32]] = {}
        """Of a counter that several workers increment and that has its full count: the latest of all their clocks."""
        self.standing: dict[int, list[int]] = {}
        self.enough: dict[int, int] = {}
        """Of a counter at which workers stand: from which count on one of them may go on."""
        self.state = np.zeros((s.workers, s.workers), np.int32)
        self.at = [0] * s.workers

    def go(self) -> None:
        able = list(range(self.s.workers))[::-1]
        queues = [self.s.queue(w).tolist() for w in range(self.s.workers)]
        while able:
            w = able.pop()
            queue = queues[w]
            while self.at[w] < len(queue):
                missing = self.step(w, queue[self.at[w]], able)
                if missing is not None:
                    counter, threshold = missing
                    self.standing.setdefault(counter, []).append(w)
                    self.enough[counter] = min(threshold, self.enough.get(counter, threshold))
                    break
        stuck = [self.s.task_name(queue[i]) for queue, i in zip(queues, self.at, strict=True) if i < len(queue)]
        if stuck:
            raise self.error(f"deadlock: {', '.join(stuck[:8])} can never start")

    def step(self, w: int, t: int, able: list[int]) -> tuple[int, int] | None:
        """Run a task, or say which counter it waits for. Workers that stood at the counter that it moves are able again."""
        first, count, signal = self.rows[t]
        wanted = self.waits[first : first + count]
        for c, threshold in wanted:
            if len(self.signalled[c]) < threshold:
                return c, threshold
        mine = self.state[w]
        for c, threshold in wanted:
            self.learn(mine, t, c, threshold)
        self.clocks.before[t] = mine
        self.at[w] += 1
        mine[w] = self.at[w]
        if signal >= 0:
            self.signalled[signal].append(t)
            if signal in self.standing and len(self.signalled[signal]) >= self.enough[signal]:
                able += self.standing.pop(signal)
                del self.enough[signal]
        return None

    def learn(self, mine: npt.NDArray[np.int32], t: int, c: int, threshold: int) -> None:
        """What is done where a wait is over: whatever the tasks that it counts followed, and they themselves."""
        clocks = self.clocks
        if not self.shared[c]:
            before = self.signalled[c][threshold - 1]
            np.maximum(mine, clocks.before[before], out=mine)
            v = clocks.worker[before]
            mine[v] = max(mine[v], clocks.position[before])
            return
        if threshold != self.totals[c]:
            raise self.error(f"{self.s.task_name(t)} waits for part of counter {c}, which several workers share")
        if c not in self.joint:
            members = self.signalled[c]
            joint = clocks.before[members].max(0)
            np.maximum.at(joint, clocks.worker[members], clocks.position[members].astype(np.int32))
            self.joint[c] = joint
        np.maximum(mine, self.joint[c], out=mine)


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
