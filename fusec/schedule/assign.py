"""Static list scheduling: which worker runs each task, in which order, and the fronts that each task must follow."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusec.kernels.kernel import IntArray
from fusec.schedule.dependencies import Conflict
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


def assign(tasks: Tasks, conflicts: dict[int, list[Conflict]], workers: int, costs: Costs) -> Assignment:
    """Place calls in program order, each task where and when it can start first, near the bytes that it reads.

    A worker that runs out of one branch goes on with the next: calls overlap wherever no conflict forbids it.
    """
    if workers == 1:
        return _alone(tasks)
    state = _Placement(tasks, workers, costs)
    phases = (np.flatnonzero(np.diff(tasks.phase)) + 1).tolist()
    for call, (first, end) in enumerate(pairwise(tasks.bounds)):
        borders = [b for b in phases[bisect_left(phases, first) : bisect_left(phases, end)] if b > first]
        for low, high in pairwise([first, *borders, end]):
            state.place(low, high, first, conflicts.get(call, []))
    return state.result()


def _alone(tasks: Tasks) -> Assignment:
    n, end = len(tasks), np.cumsum(tasks.cost)
    zero = np.zeros(n, np.int64)
    return Assignment(1, zero, np.arange(1, n + 1), zero[:, None], np.arange(n), end - tasks.cost, end)


class _Placement:
    """The schedule so far."""

    def __init__(self, tasks: Tasks, workers: int, costs: Costs) -> None:
        n = len(tasks)
        self.tasks, self.workers, self.costs = tasks, workers, costs
        self.worker, self.position = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.start, self.end = np.zeros(n), np.zeros(n)
        self.need = np.zeros((n, workers), np.int64)
        self.order: list[int] = []
        self.queued = [0] * workers
        self.free = [0.0] * workers
        self.finish = np.full((workers, n + 1), -costs.hand_over)
        self.homes: dict[int, FloatArray] = {}
        self.columns: dict[tuple[int, int], tuple[IntArray, IntArray, IntArray]] = {}

    def place(self, first: int, end: int, call_first: int, conflicts: list[Conflict]) -> None:
        """Place the independent tasks `first` to `end - 1`."""
        n = end - first
        if not n:
            return
        if not conflicts:
            self._pick(first, np.zeros((self.workers, n)), self._home(n))
            return
        local = np.zeros((n, self.workers))
        for conflict in conflicts:
            self._follow(conflict, first, end, call_first, local)
        far = (local.sum(1) - local.T) * self.costs.byte
        self._pick(first, self._ready(first, end), far + self._home(n))

    def _follow(self, conflict: Conflict, first: int, end: int, call_first: int, local: FloatArray) -> None:
        """Turn a conflict into fronts, and count the bytes that each worker made of what the tasks read."""
        low = self.tasks.bounds[conflict.earlier]
        high = first if conflict.earlier == conflict.later else self.tasks.bounds[conflict.earlier + 1]
        if low == high:
            return
        order, starts, present = self._by_worker(low, high)
        shared = conflict.shared[first - call_first : end - call_first, order]
        position = np.where(shared > 0, self.position[low:high][order], 0)
        need = self.need[first:end]
        need[:, present] = np.maximum(need[:, present], np.maximum.reduceat(position, starts, axis=1))
        if conflict.flows:
            local[:, present] += np.add.reduceat(shared, starts, axis=1)

    def _by_worker(self, low: int, high: int) -> tuple[IntArray, IntArray, IntArray]:
        """Order of tasks `low` to `high - 1` by worker, where each worker's part starts, and whose it is."""
        key = low, high
        if key not in self.columns:
            worker = self.worker[low:high]
            order = np.argsort(worker, kind="stable")
            counts = np.bincount(worker)
            present = counts.nonzero()[0]
            self.columns[key] = order, (counts.cumsum() - counts)[present], present
        return self.columns[key]

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
