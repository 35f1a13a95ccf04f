"""List scheduling for devices with many workers: the first free worker takes the first task of the program that can start.

A task goes to the worker that made what it waits for where that is no later: what a worker did itself needs no wait.
Tasks with a pin all go to one worker, which does nothing else meanwhile: its memory keeps the weights that they share. Where
no worker can be spared for a pin, its tasks wait until another one is through.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import IntArray
from fusec.schedule.assign import Assignment, Costs
from fusec.schedule.groups import Groups
from fusec.schedule.tasks import Tasks

MIXED = -1
"""Instead of a worker: several."""
SPARE = 32
"""One of so many workers, and at least one, is left to tasks without a pin."""


def assign_groups(tasks: Tasks, groups: Groups, workers: int, costs: Costs) -> Assignment:
    """Place every task. The order is one that all queues and all waits for groups respect."""
    return _Placement(tasks, groups, workers, costs).run()


class _Placement:
    """The schedule so far, in plain lists: most steps touch a few numbers."""

    def __init__(self, tasks: Tasks, groups: Groups, workers: int, costs: Costs) -> None:
        n = len(tasks)
        self.n, self.workers, self.news = n, workers, costs.hand_over
        self.cost, self.group = tasks.cost.tolist(), groups.of.tolist()
        self.left = np.diff(groups.starts).tolist()
        self.open = groups.size.tolist()
        self.group_end = [0.0] * len(groups)
        self.group_worker: list[int | None] = [None] * len(groups)
        by_group = np.argsort(groups.needs, kind="stable")
        self.readers = np.repeat(np.arange(n), np.diff(groups.starts))[by_group].tolist()
        self.reader_starts = np.searchsorted(groups.needs[by_group], np.arange(len(groups) + 1)).tolist()
        self.top, self.second, self.home = [-self.news] * n, [-self.news] * n, [MIXED] * n
        self.free = [0.0] * workers
        self.waiting = [(0.0, w) for w in range(workers)]
        self.queued = [0] * workers
        self.worker, self.position = [0] * n, [0] * n
        self.start, self.end = [0.0] * n, [0.0] * n
        self.order: list[int] = []
        self.future: list[tuple[float, int]] = []
        self.able: list[int] = []
        self.pin: list[int] = tasks.pin.tolist() or [-1] * n
        self.pin_left = np.bincount(tasks.pin[tasks.pin >= 0]).tolist()
        self.pin_worker: list[int | None] = [None] * len(self.pin_left)
        self.pins = [0] * workers
        """How many pins each worker has."""
        self.unpinned = workers
        self.pinned: list[int] = []
        """Tasks that can start, on the worker of their pin."""
        self.blocked: list[int] = []
        """Tasks that can start, but no worker can be spared for their pin."""

    def run(self) -> Assignment:
        self.able = [t for t in range(self.n) if not self.left[t]]
        while len(self.order) < self.n:
            if self.pinned:
                t = self.pinned.pop()
                self.put(t, self.pin_worker[self.pin[t]] or 0)
            elif self.able or self.future:
                self.place_next()
            else:
                self.pin_to(heappop(self.blocked), None)
        arrays = (np.array(x, np.int64) for x in (self.worker, self.position, self.order))
        worker, position, order = arrays
        none = np.zeros((0, self.workers), np.int64)
        return Assignment(
            self.workers, worker, position, none, order, np.array(self.start, float), np.array(self.end, float)
        )

    def place_next(self) -> None:
        """Give the first free worker without a pin the first task that can start."""
        while self.waiting and (self.waiting[0][0] != self.free[self.waiting[0][1]] or self.pins[self.waiting[0][1]]):
            heappop(self.waiting)  # it has got a task or a pin in the meantime
        future, able = self.future, self.able
        now, w = self.waiting[0] if self.waiting else min((x, w) for w, x in enumerate(self.free))
        while future and future[0][0] <= now:
            heappush(able, heappop(future)[1])
        t = heappop(able) if able else heappop(future)[1]
        if self.pin[t] < 0:
            self.place(t, w)
        elif self.pin_worker[self.pin[t]] is not None:
            self.pinned.append(t)
        elif self.unpinned > max(1, self.workers // SPARE):
            self.pin_to(t, w)
        else:
            heappush(self.blocked, t)

    def pin_to(self, t: int, w: int | None) -> None:
        """Give a task's pin to a worker; None is the one with the fewest."""
        if w is None:
            w = min(range(self.workers), key=lambda v: (self.pins[v], self.free[v]))
        self.unpinned -= not self.pins[w]
        self.pins[w] += 1
        self.pin_worker[self.pin[t]] = w
        self.pinned.append(t)

    def place(self, t: int, w: int) -> None:
        """Put a task at the end of a queue: of worker `w`, or of the one that made what it reads."""
        home = self.home[t]
        if home not in (MIXED, w) and not self.pins[home] and self.begin(t, home) <= self.begin(t, w):
            w = home
        self.put(t, w)

    def put(self, t: int, w: int) -> None:
        """Put a task at the end of the queue of a worker."""
        start = self.begin(t, w)
        self.queued[w] += 1
        self.worker[t], self.position[t] = w, self.queued[w]
        self.start[t], self.end[t] = start, start + self.cost[t]
        self.free[w] = end = self.end[t]
        if self.pin[t] >= 0:
            self.unpin(self.pin[t], w)
        if not self.pins[w]:
            heappush(self.waiting, (end, w))
        self.order.append(t)
        g = self.group[t]
        maker = self.group_worker[g]
        self.group_worker[g] = w if maker is None or maker == w else MIXED
        self.group_end[g] = max(self.group_end[g], end)
        self.open[g] -= 1
        if not self.open[g]:
            self.announce(g)

    def unpin(self, pin: int, w: int) -> None:
        """One task less; after the last one the worker is free for others."""
        self.pin_left[pin] -= 1
        if not self.pin_left[pin]:
            self.pins[w] -= 1
            self.unpinned += not self.pins[w]
            for t in self.blocked:
                heappush(self.able, t)
            self.blocked.clear()

    def begin(self, t: int, w: int) -> float:
        """When a task can start on a worker."""
        if self.home[t] == w:
            return max(self.free[w], self.top[t], self.second[t] + self.news)
        return max(self.free[w], self.top[t] + self.news)

    def announce(self, g: int) -> None:
        """All of a group is placed: those who need nothing else can be placed from now on."""
        end, maker = self.group_end[g], self.group_worker[g]
        for t in self.readers[self.reader_starts[g] : self.reader_starts[g + 1]]:
            if end > self.top[t]:
                self.second[t], self.top[t], self.home[t] = self.top[t], end, MIXED if maker is None else maker
            elif end > self.second[t]:
                self.second[t] = end
            self.left[t] -= 1
            if not self.left[t]:
                if self.pin[t] >= 0 and self.pin_worker[self.pin[t]] is not None:
                    self.pinned.append(t)
                else:
                    heappush(self.future, (max(self.top[t], self.second[t] + self.news), t))


def group_waits(a: Assignment, groups: Groups) -> tuple[IntArray, IntArray, npt.NDArray[np.int32]]:
    """The least waits for whole groups that keep every need: (count per task, groups, clock).

    Groups are listed task after task, in the order of task numbers; `clock[t, w]` is how many tasks of worker w are certainly
    complete when task t starts. A group is done where its last member is, and whoever follows it follows what each of them
    followed: its clock is the latest of theirs. Looked at from the one that is planned last, a group that those before it
    imply is dropped.
    """
    return _Waits(a, groups).find()


class _Waits:
    """What is known so far; clocks are int32 in here, for there are many and each is read often."""

    def __init__(self, a: Assignment, groups: Groups) -> None:
        n, workers = len(a.worker), a.workers
        self.a, self.groups = a, groups
        place = np.empty(n, np.int64)
        place[a.order] = np.arange(n)
        last = np.zeros(len(groups), np.int64)
        np.maximum.at(last, groups.of, place)
        done = np.zeros((len(groups), workers), np.int32)
        np.maximum.at(done.reshape(-1), groups.of * workers + a.worker, a.position.astype(np.int32))
        final = a.order[last]
        self.last: list[int] = last.tolist()
        self.final = list(zip(a.worker[final].tolist(), a.position[final].tolist(), strict=True))
        """Worker and position of the member that is planned last: mostly the one that is not known to be done."""
        self.done = list(done)
        self.after = list(np.zeros((len(groups), workers), np.int32))
        self.latest: dict[tuple[int, ...], list[int]] = {}
        """Of groups that were asked for together, those that the others do not imply: mostly many tasks ask for the same."""

    def find(self) -> tuple[IntArray, IntArray, npt.NDArray[np.int32]]:
        """Count per task, groups, clock."""
        a, groups, n = self.a, self.groups, len(self.a.worker)
        needed = np.zeros(len(groups), np.bool_)
        needed[groups.needs] = True
        is_needed, starts, needs = needed.tolist(), groups.starts.tolist(), groups.needs.tolist()
        of, worker = groups.of.tolist(), a.worker.tolist()
        clock = np.zeros((n, a.workers), np.int32)
        known = list(np.zeros((a.workers, a.workers), np.int32))
        found: list[list[int]] = [[]] * n
        seen: list[set[int]] = [set() for _ in range(a.workers)]
        """Groups that a worker knows to be done, as far as it was asked: it is asked once."""
        for t in a.order.tolist():
            w = worker[t]
            mine = known[w]
            new = [g for g in needs[starts[t] : starts[t + 1]] if g not in seen[w]]
            if new:
                seen[w].update(new)
                missing = [g for g in new if self.is_missing(g, mine)]
                if missing:
                    found[t] = self.learn(missing, mine)
            clock[t] = mine
            mine[w] += 1
            if is_needed[of[t]]:
                joint = self.after[of[t]]
                np.maximum(joint, mine, out=joint)
        count = np.array([len(x) for x in found], np.int64)
        return count, np.array([g for x in found for g in x], np.int64), clock

    def is_missing(self, g: int, mine: npt.NDArray[np.int32]) -> bool:
        """Whether a group may not be done yet, for all that a clock says."""
        w, position = self.final[g]
        return bool(mine[w] < position) or bool((self.done[g] > mine).any())

    def learn(self, missing: list[int], mine: npt.NDArray[np.int32]) -> list[int]:
        """Of groups, the one that is done last first, those that the ones before do not imply; `mine` learns what they say."""
        if len(missing) > 1:
            missing = self.not_implied(missing)
        kept: list[int] = []
        for g in missing:
            if not kept or self.is_missing(g, mine):
                np.maximum(mine, self.after[g], out=mine)
                kept.append(g)
        return kept

    def not_implied(self, groups: list[int]) -> list[int]:
        """Of groups that are all done by now, the one that is done last first, those that the ones before do not imply."""
        key = tuple(groups)
        if key not in self.latest:
            known, out = np.zeros_like(self.after[0]), list[int]()
            for g in sorted(groups, key=self.last.__getitem__, reverse=True):
                if self.is_missing(g, known):
                    np.maximum(known, self.after[g], out=known)
                    out.append(g)
            self.latest[key] = out
        return self.latest[key]
