"""List scheduling for recurrent layers: whatever can start next goes next, and a layer stays where its weights are.

In program order a layer would begin when the one before has ended. Here the next layer's projection starts as soon as some
steps are there, its own steps follow on another worker, and so on: layers run side by side, a few steps apart, and workers
meet once in many steps.
"""

from __future__ import annotations

from bisect import insort

import numpy as np

from fusec.schedule.assign import Assignment, Costs
from fusec.schedule.dependencies import Conflicts
from fusec.schedule.tasks import Tasks

WINDOW = 16
"""Of the tasks that could start, those that are looked at: the first ones of the program."""


def assign_ready(tasks: Tasks, conflicts: Conflicts, workers: int, costs: Costs) -> Assignment:
    """Of the tasks whose predecessors are placed take the one that starts first, on the worker where it does.

    Later than another worker only counts if it is later than the weights would take to get there.
    """
    return _Pipeline(tasks, conflicts, workers, costs).run()


class _Pipeline:
    """The schedule so far."""

    def __init__(self, tasks: Tasks, conflicts: Conflicts, workers: int, costs: Costs) -> None:
        n = len(tasks)
        self.n, self.workers, self.costs = n, workers, costs
        self.cost, self.call, self.kept = tasks.cost.tolist(), tasks.call.tolist(), tasks.kept
        self.starts = conflicts.starts.tolist()
        self.earlier, self.bytes = conflicts.earlier.tolist(), conflicts.bytes.tolist()
        later = np.repeat(np.arange(n), np.diff(conflicts.starts))
        by_earlier = np.argsort(conflicts.earlier, kind="stable")
        self.later = later[by_earlier].tolist()
        counts = np.bincount(conflicts.earlier, minlength=n)
        self.follows = np.concatenate([[0], np.cumsum(counts)]).tolist()
        self.left = np.diff(conflicts.starts).tolist()
        self.worker, self.position = [0] * n, [0] * n
        self.start, self.end = [0.0] * n, [0.0] * n
        self.need = np.zeros((n, workers), np.int64)
        self.queued, self.free, self.hot = [0] * workers, [0.0] * workers, [-1] * workers
        self.order: list[int] = []
        self.ready: list[int] = []
        self.scores: dict[int, list[tuple[float, float]]] = {}
        """Of each ready task, per worker: when its predecessors are done there, and what bytes from elsewhere cost."""

    def run(self) -> Assignment:
        for t in range(self.n):
            if not self.left[t]:
                self.enter(t)
        while self.ready:
            self.place(*self.next())
        order = np.array(self.order, np.int64)
        worker, position = np.array(self.worker, np.int64), np.array(self.position, np.int64)
        return Assignment(
            self.workers, worker, position, self.need, order, np.array(self.start, float), np.array(self.end, float)
        )

    def enter(self, t: int) -> None:
        """A task whose predecessors are all placed."""
        done, local = [0.0] * self.workers, [0] * self.workers
        front = [0] * self.workers
        for i in range(self.starts[t], self.starts[t + 1]):
            before = self.earlier[i]
            w = self.worker[before]
            local[w] += self.bytes[i]
            done[w] = max(done[w], self.end[before])
            front[w] = max(front[w], self.position[before])
        self.need[t] = front
        total = sum(local)
        self.scores[t] = []
        for w in range(self.workers):
            news = max((x for v, x in enumerate(done) if v != w and front[v]), default=-self.costs.hand_over)
            self.scores[t].append((max(done[w], news + self.costs.hand_over), (total - local[w]) * self.costs.byte))
        insort(self.ready, t)

    def next(self) -> tuple[int, int, float]:
        """Task, worker and start of what comes next."""
        best: tuple[float, int, int, float] | None = None
        for t in self.ready[:WINDOW]:
            cold = self.kept[self.call[t]] * self.costs.byte
            for w, (done, far) in enumerate(self.scores[t]):
                start = max(done, self.free[w])
                score = start + far + (0.0 if self.hot[w] == self.call[t] else cold)
                if best is None or (score, t, w) < best[:3]:
                    best = score, t, w, start
        assert best is not None
        return best[1:]

    def place(self, t: int, w: int, start: float) -> None:
        self.ready.remove(t)
        del self.scores[t]
        self.queued[w] += 1
        self.worker[t], self.position[t] = w, self.queued[w]
        self.start[t], self.end[t] = start, start + self.cost[t]
        self.free[w] = self.end[t]
        if self.kept[self.call[t]]:
            self.hot[w] = self.call[t]
        self.order.append(t)
        for i in range(self.follows[t], self.follows[t + 1]):
            later = self.later[i]
            self.left[later] -= 1
            if not self.left[later]:
                self.enter(later)
