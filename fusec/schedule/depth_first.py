"""The order of tasks in a stretch: of those that can start, one of the latest call, and of these the first."""

from __future__ import annotations

from heapq import heappop, heappush

from fusec.schedule.dependencies import Conflicts
from fusec.schedule.tasks import Tasks


class DepthFirst:
    """The tasks of some neighbouring calls, each call's shared out evenly: neighbouring tasks belong to one share."""

    def __init__(self, tasks: Tasks, conflicts: Conflicts, calls: range, shares: int) -> None:
        self.call = tasks.call
        self.first, self.end = tasks.bounds[calls.start], tasks.bounds[calls.stop]
        n = self.end - self.first
        self.left, self.share = [0] * n, [0] * n
        self.followers: list[list[int]] = [[] for _ in range(n)]
        self.ready: list[list[tuple[int, int]]] = [[] for _ in range(shares)]
        for c in calls:
            low, high = tasks.bounds[c], tasks.bounds[c + 1]
            for t in range(low, high):
                self.share[t - self.first] = (t - low) * shares // (high - low)
        for t in range(self.first, self.end):
            for before in conflicts.earlier[conflicts.starts[t] : conflicts.starts[t + 1]].tolist():
                if before >= self.first:
                    self.followers[before - self.first].append(t)
                    self.left[t - self.first] += 1
            if not self.left[t - self.first]:
                self._enter(t)

    def __len__(self) -> int:
        return self.end - self.first

    def take(self, share: int) -> int:
        """The next task of a share that has one that can start. The caller places it before it takes another."""
        _, t = heappop(self.ready[share])
        for later in self.followers[t - self.first]:
            self.left[later - self.first] -= 1
            if not self.left[later - self.first]:
                self._enter(later)
        return t

    def _enter(self, t: int) -> None:
        heappush(self.ready[self.share[t - self.first]], (-int(self.call[t]), t))
