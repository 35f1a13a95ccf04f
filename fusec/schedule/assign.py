"""Static list scheduling: which worker runs each task, in which order, and the fronts that each task must follow."""

from __future__ import annotations

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
    for call, (first, end) in enumerate(pairwise(tasks.bounds)):
        phase = tasks.phase[first:end]
        starts = [0, *(np.flatnonzero(np.diff(phase)) + 1).tolist(), len(phase)]
        for low, high in pairwise(starts):
            state.place(first + low, first + high, first, conflicts.get(call, []))
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
        self.columns: dict[tuple[int, int], tuple[IntArray, IntArray, IntArray]] = {}

    def place(self, first: int, end: int, call_first: int, conflicts: list[Conflict]) -> None:
        """Place the independent tasks `first` to `end - 1`."""
        n = end - first
        if not n:
            return
        local = np.zeros((n, self.workers))
        for conflict in conflicts:
            self._follow(conflict, first, end, call_first, local)
        ready = self._ready(first, end)
        far = (local.sum(1) - local.T) * self.costs.byte
        self._pick(first, ready, far + self._home(n))

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
            grouped = worker[order]
            starts = np.concatenate([[0], np.flatnonzero(np.diff(grouped)) + 1])
            self.columns[key] = order, starts, grouped[starts]
        return self.columns[key]

    def _ready(self, first: int, end: int) -> FloatArray:
        """float64[workers, tasks]: when a task could start on a worker, as far as its fronts go."""
        need = self.need[first:end].T
        done = np.take_along_axis(self.finish, need, axis=1)
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
        share = (np.arange(n) + 0.5) / n * self.workers - 0.5
        distance: FloatArray = np.abs(share - np.arange(self.workers)[:, None]) - 0.5
        return np.maximum(distance, 0) * 1e-3

    def _pick(self, first: int, ready: FloatArray, preference: FloatArray) -> None:
        """Of all tasks and workers take the pair that starts first, preferences counted; again until none is left."""
        score = np.maximum(ready, np.array(self.free)[:, None]) + preference
        n = score.shape[1]
        for left in range(n, 0, -1):
            w, i = divmod(int(score.argmin()), n)
            task = first + i
            start = max(self.free[w], float(ready[w, i]))
            end = start + float(self.tasks.cost[task])
            self.free[w] = end
            self.queued[w] += 1
            self.finish[w, self.queued[w]] = end
            self.worker[task], self.position[task] = w, self.queued[w]
            self.start[task], self.end[task] = start, end
            self.order.append(task)
            if left > 1:
                ready[:, i] = score[:, i] = np.inf
                np.maximum(ready[w], end, out=score[w])
                score[w] += preference[w]

    def result(self) -> Assignment:
        """The finished schedule."""
        order = np.array(self.order, np.int64)
        return Assignment(self.workers, self.worker, self.position, self.need, order, self.start, self.end)
