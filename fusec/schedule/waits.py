"""From fronts to waits: a task waits for another worker only where nothing it already follows implies it.

Vector clocks say what is known: `clock[t, w]` is how many tasks of worker w are certainly complete when task t starts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import IntArray
from fusec.schedule.assign import Assignment


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
    known = np.zeros((a.workers, a.workers), np.int64)
    at = np.zeros((a.workers, tasks + 1), np.int64)
    at[a.worker, a.position] = np.arange(tasks)
    found: dict[int, IntArray] = {}
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
            found[t] = np.stack([missing, position], 1)
        clock[t] = mine
        mine[w] += 1
    count = np.zeros(tasks, np.int64)
    rows = [np.zeros((0, 2), np.int64)]
    for t in sorted(found):
        count[t] = len(found[t])
        rows.append(found[t])
    return count, np.concatenate(rows), clock


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
