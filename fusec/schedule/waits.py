"""From fronts to waits: a task waits for another worker only where nothing it already follows implies it.

Vector clocks say what is known: `clock[t, w]` is how many tasks of worker w are certainly complete when task t starts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import IntArray
from fusec.schedule.assign import Assignment

FEW = 8
"""Workers up to which clocks are lists."""


def find_waits(a: Assignment, need: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The least waits that keep every front: (count per task, rows of (worker, position), clock).

    Rows are grouped by task, in the order of task numbers. Positions count from 1, so a wait on worker w for position p
    is over once w has completed p tasks of this run. Of several missing fronts one that another implies is dropped;
    what remains is the transitive reduction, since "happens before" has no cycles.
    """
    tasks = len(a.worker)
    if a.workers == 1:
        return np.zeros(tasks, np.int64), np.zeros((0, 2), np.int64), a.position[:, None] - 1
    clock = np.zeros((tasks, a.workers), np.int64)
    found: dict[int, list[tuple[int, int]]] = {}
    walk = _walk_few if a.workers <= FEW else _walk_many
    walk(a, need, clock, found)
    count = np.zeros(tasks, np.int64)
    rows = []
    for t in sorted(found):
        count[t] = len(found[t])
        rows += found[t]
    return count, np.array(rows, np.int64).reshape(-1, 2), clock


def _walk_many(a: Assignment, need: IntArray, clock: IntArray, found: dict[int, list[tuple[int, int]]]) -> None:
    """Fill in the clock of each task and the waits of those that have any."""
    known = np.zeros((a.workers, a.workers), np.int64)
    at = _tasks_at(a)
    worker, is_news = a.worker.tolist(), _news(a, need).tolist()
    for t in a.order.tolist():
        w = worker[t]
        mine = known[w]
        if is_news[t] and len(missing := np.flatnonzero(need[t] > mine)):
            position = need[t, missing]
            source = at[missing, position]
            if len(missing) > 1:
                implied = clock[source][:, missing] >= position
                keep = ~implied.any(0)
                missing, position, source = missing[keep], position[keep], source[keep]
            np.maximum(mine, clock[source].max(0), out=mine)
            mine[missing] = np.maximum(mine[missing], position)
            found[t] = list(zip(missing.tolist(), position.tolist(), strict=True))
        clock[t] = mine
        mine[w] += 1


def _walk_few(a: Assignment, need: IntArray, clock: IntArray, found: dict[int, list[tuple[int, int]]]) -> None:
    """The same with plain numbers: arrays of a few elements cost more than they save."""
    known = [[0] * a.workers for _ in range(a.workers)]
    at = _tasks_at(a).tolist()
    clocks: list[list[int]] = [[]] * len(a.worker)
    needs, worker, is_news = need.tolist(), a.worker.tolist(), _news(a, need).tolist()
    for t in a.order.tolist():
        w = worker[t]
        mine = known[w]
        if is_news[t]:
            missing = [(v, p, clocks[at[v][p]]) for v, p in enumerate(needs[t]) if p > mine[v]]
            if len(missing) > 1:
                missing = [m for m in missing if not any(c[m[0]] >= m[1] for _, _, c in missing)]
            for v, p, c in missing:
                mine = list(map(max, mine, c))
                mine[v] = max(mine[v], p)
            if missing:
                found[t] = [(v, p) for v, p, _ in missing]
        clocks[t] = mine
        known[w] = mine = mine.copy()
        mine[w] += 1
    if clocks:
        clock[:] = clocks


def _tasks_at(a: Assignment) -> IntArray:
    """int64[workers, positions + 1]: the task at a position of a queue."""
    at = np.zeros((a.workers, len(a.worker) + 1), np.int64)
    at[a.worker, a.position] = np.arange(len(a.worker))
    return at


def _news(a: Assignment, need: IntArray) -> npt.NDArray[np.bool_]:
    """Whether a task needs more of another worker than every task before it in its own queue did."""
    out = np.zeros(len(need), np.bool_)
    for w in range(a.workers):
        mine = a.order[a.worker[a.order] == w]
        others = need[mine]
        others[:, w] = 0
        highest = np.maximum.accumulate(others, axis=0)
        out[mine[:1]] = others[:1].any()
        out[mine[1:]] = (others[1:] > highest[:-1]).any(1)
    return out
