"""Static list scheduling: which worker runs each task, in which order, and the fronts that each task must follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusec.kernels.kernel import IntArray
from fusec.schedule.dependencies import Conflicts
from fusec.schedule.depth_first import DepthFirst
from fusec.schedule.tasks import FloatArray, Tasks


@dataclass(frozen=True, slots=True)
class Costs:
    """What distance costs, in microseconds: the news that another worker is done, and a byte that another worker wrote.

    Measured: 0.4 us hot; a byte from the shared cache instead of one's own takes 1/25 - 1/60 ns longer.
    """

    hand_over: float = 0.4
    byte: float = 1 / 40_000


@dataclass(frozen=True, eq=False)
class Assignment:
    """Worker, position in its queue (from 1), start and end of each task, and its fronts.

    `need[t, w]` is the highest position on worker w that task t must follow, 0 for none. `order` is all tasks in an
    order that respects every front and every queue.
    """

    workers: int
    worker: IntArray
    position: IntArray
    need: IntArray
    order: IntArray
    start: FloatArray
    end: FloatArray

    @property
    def makespan(self) -> float:
        """When the last task ends."""
        return float(self.end.max(initial=0.0))


def assign(
    tasks: Tasks, conflicts: Conflicts | None, workers: int, costs: Costs, stretches: Sequence[range] = ()
) -> Assignment:
    """Place calls in program order, each task where and when it can start first, near the bytes that it reads.

    A worker that runs out of one branch goes on with the next: calls overlap wherever no conflict forbids it. The calls of
    `stretches` go depth first; one worker needs no other conflicts than theirs.
    """
    if workers == 1 or conflicts is None:
        return _alone(tasks, conflicts, stretches)
    state = _Placement(tasks, conflicts, workers, costs)
    borders = (np.flatnonzero(np.diff(tasks.phase)) + 1).tolist()
    stretch_at = {tasks.bounds[s.start]: s for s in stretches}
    at = 0
    for first, end in pairwise([0, *borders, len(tasks)]):
        if first in stretch_at:
            at = state.descend(stretch_at[first])
        elif first >= at:
            state.place(first, end)
    return state.result()


def _alone(tasks: Tasks, conflicts: Conflicts | None, stretches: Sequence[range]) -> Assignment:
    n = len(tasks)
    order = np.arange(n)
    if conflicts is not None:
        for s in stretches:
            todo = DepthFirst(tasks, conflicts, s, 1)
            order[todo.first : todo.end] = [todo.take(0) for _ in range(len(todo))]
    position, end, zero = np.empty(n, np.int64), np.empty(n), np.zeros(n, np.int64)
    position[order], end[order] = np.arange(1, n + 1), np.cumsum(tasks.cost[order])
    return Assignment(1, zero, position, zero[:, None], order, end - tasks.cost, end)


FEW = 8
"""Pairs of task and worker up to which placing them one by one takes less time than with arrays."""


class _Placement:
    """The schedule so far."""

    def __init__(self, tasks: Tasks, conflicts: Conflicts, workers: int, costs: Costs) -> None:
        n = len(tasks)
        self.tasks, self.conflicts, self.workers, self.costs = tasks, conflicts, workers, costs
        self.starts, self.earlier, self.bytes = conflicts.starts.tolist(), conflicts.earlier, conflicts.bytes
        self.later = np.repeat(np.arange(n), np.diff(conflicts.starts))
        self.worker, self.position = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.start, self.end = np.zeros(n), np.zeros(n)
        self.need = np.zeros((n, workers), np.int64)
        self.order: list[int] = []
        self.queued = [0] * workers
        self.free = [0.0] * workers
        self.finish = np.full((workers, n + 1), -costs.hand_over)
        self.homes: dict[int, FloatArray] = {}

    def place(self, first: int, end: int) -> None:
        """Place the independent tasks `first` to `end - 1`."""
        n = end - first
        if not n:
            return
        low, high = self.starts[first], self.starts[end]
        if low == high:
            self._pick(first, np.zeros((self.workers, n)), self._home(n))
            return
        far = self._follow(low, high, first, n)
        self._pick(first, self._ready(first, end), far + self._home(n))

    def descend(self, calls: range) -> int:
        """Place the calls of a stretch, a share of each on every worker; returns where their tasks end.

        Whoever is free first goes on with the task of its share that leads furthest.
        """
        todo = DepthFirst(self.tasks, self.conflicts, calls, self.workers)
        for _ in range(len(todo)):
            w = min((w for w in range(self.workers) if todo.ready[w]), key=self.free.__getitem__)
            t = todo.take(w)
            ready = 0.0
            if self.starts[t] < self.starts[t + 1]:
                self._follow(self.starts[t], self.starts[t + 1], t, 1)
                ready = float(self._ready(t, t + 1)[w, 0])
            self._put(t, w, max(self.free[w], ready))
        return todo.end

    def _follow(self, low: int, high: int, first: int, n: int) -> FloatArray:
        """Turn pairs into fronts; float64[workers, tasks], what it costs to bring there what the tasks read."""
        earlier = self.earlier[low:high]
        worker = self.worker[earlier]
        place = self.later[low:high] * self.workers + worker
        np.maximum.at(self.need.reshape(-1), place, self.position[earlier])
        local = np.bincount(place - first * self.workers, self.bytes[low:high], n * self.workers)
        by_task = local.reshape(n, self.workers)
        far: FloatArray = (by_task.sum(1) - by_task.T) * self.costs.byte
        return far

    def _ready(self, first: int, end: int) -> FloatArray:
        """float64[workers, tasks]: when a task could start on a worker, as far as its fronts go."""
        done = self.finish[np.arange(self.workers)[:, None], self.need[first:end].T]
        if self.workers == 2:
            both: FloatArray = np.maximum(done, done[::-1] + self.costs.hand_over)
            return both
        latest = done.argmax(0)
        columns = np.arange(end - first)
        top = done[latest, columns].copy()
        others = done.copy()
        others[latest, columns] = -np.inf
        elsewhere = np.broadcast_to(top, done.shape).copy()
        elsewhere[latest, columns] = others.max(0)
        out: FloatArray = np.maximum(done, elsewhere + self.costs.hand_over)
        return out

    def _home(self, n: int) -> FloatArray:
        """A tie-break that gives worker w the w-th share of consecutive tasks: float64[workers, tasks], nanoseconds."""
        if n in self.homes:
            return self.homes[n]
        share = (np.arange(n) + 0.5) / n * self.workers - 0.5
        distance: FloatArray = np.abs(share - np.arange(self.workers)[:, None]) - 0.5
        self.homes[n] = np.maximum(distance, 0) * 1e-3
        return self.homes[n]

    def _pick(self, first: int, ready: FloatArray, preference: FloatArray) -> None:
        """Of all tasks and workers take the pair that starts first, preferences counted; again until none is left."""
        if ready.size <= FEW:
            self._pick_few(first, ready.tolist(), preference.tolist())
            return
        score = np.maximum(ready, np.array(self.free)[:, None]) + preference
        n = score.shape[1]
        costs = self.tasks.cost[first : first + n].tolist()
        ready_of, score_of, preference_of = list(ready), list(score), list(preference)
        placed = list[tuple[int, int, int, float, float]]()
        for left in range(n, 0, -1):
            w, i = divmod(int(score.argmin()), n)
            start = max(self.free[w], float(ready_of[w][i]))
            self.free[w] = end = start + costs[i]
            self.queued[w] += 1
            placed.append((first + i, w, self.queued[w], start, end))
            if left > 1:
                ready[:, i] = score[:, i] = np.inf
                row = score_of[w]
                np.maximum(ready_of[w], end, out=row)
                row += preference_of[w]
        self._record(placed)

    def _pick_few(self, first: int, ready: list[list[float]], preference: list[list[float]]) -> None:
        """The same with plain numbers: steps of a recurrent layer are many and of a few tasks each."""
        free, left = self.free, list(range(len(ready[0])))
        while left:
            _, w, i = min(
                (max(free[w], ready[w][i]) + preference[w][i], w, i) for w in range(self.workers) for i in left
            )
            left.remove(i)
            self._put(first + i, w, max(free[w], ready[w][i]))

    def _put(self, task: int, w: int, start: float) -> None:
        """Let a task be the next one of a worker."""
        self.free[w] = end = start + float(self.tasks.cost[task])
        self.queued[w] += 1
        self.worker[task], self.position[task] = w, self.queued[w]
        self.start[task], self.end[task] = start, end
        self.finish[w, self.queued[w]] = end
        self.order.append(task)

    def _record(self, placed: list[tuple[int, int, int, float, float]]) -> None:
        task, worker, position, start, end = map(np.array, zip(*placed, strict=True))
        self.worker[task], self.position[task] = worker, position
        self.start[task], self.end[task] = start, end
        self.finish[worker, position] = end
        self.order.extend(row[0] for row in placed)

    def result(self) -> Assignment:
        """The finished schedule."""
        order = np.array(self.order, np.int64)
        return Assignment(self.workers, self.worker, self.position, self.need, order, self.start, self.end)
