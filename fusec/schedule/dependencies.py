"""Which tasks must follow which: pairs of calls that touch a buffer where one writes, as matrices of shared bytes.

Edges between single tasks are never stored. A call of T tasks that depends on one of S is one T x S matrix, computed
at once; two layers with the same kernels share it. After assignment a matrix becomes fronts (see assign.py).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from fusec.kernels.kernel import IntArray
from fusec.schedule.boxes import common_shape, merge, overlaps
from fusec.schedule.tasks import Access, Tasks


@dataclass(frozen=True, eq=False)
class Conflict:
    """Tasks of call `later` must follow those tasks of call `earlier` with which they share bytes.

    `shared`: int64[tasks of later, tasks of earlier], bytes. `flows` says that the later call reads what the earlier
    one wrote, so that the bytes are worth staying close to. The two calls are the same one where its phases conflict.
    """

    earlier: int
    later: int
    shared: IntArray
    flows: bool


def find_conflicts(tasks: Tasks) -> dict[int, list[Conflict]]:
    """The conflicts of each later call.

    The rule is general: any two accesses to overlapping boxes of a buffer, one of them a write, keep program order. With
    values written once that is writer before reader; values in several pieces, updates in place and sequential axes
    follow the same rule.
    """
    by_buffer = defaultdict[str, list[Access]](list)
    for access in tasks.accesses:
        by_buffer[access.buffer].append(access)
    known: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], IntArray] = {}
    out = defaultdict[int, list[Conflict]](list)
    for accesses in by_buffer.values():
        for a, b in combinations_with_replacement(accesses, 2):
            if not (a.write or b.write) or (a.call == b.call and not _has_phases(tasks, a.call)):
                continue
            key = id(a.boxes), id(b.boxes), a.shape, b.shape
            if key not in known:
                known[key] = _shared(a, b)
            shared = known[key]
            if a.call == b.call:
                shared = _across_phases(tasks, a.call, np.maximum(shared, shared.T) if a is not b else shared)
            if shared.any():
                out[b.call].append(Conflict(a.call, b.call, shared, a.write and not b.write))
    return out


def _shared(a: Access, b: Access) -> IntArray:
    if a.shape == b.shape and a.itemsize == b.itemsize:
        return overlaps(b.boxes, a.boxes) * a.itemsize
    coarse = common_shape(a.shape, b.shape) if a.itemsize == b.itemsize else None
    if coarse is None:  # shapes that do not describe the same elements: everything may meet everything
        return np.ones((len(b.boxes), len(a.boxes)), np.int64)
    return overlaps(merge(b.boxes, b.shape, coarse), merge(a.boxes, a.shape, coarse)) * a.itemsize


def _has_phases(tasks: Tasks, call: int) -> bool:
    first, end = tasks.bounds[call], tasks.bounds[call + 1]
    return bool(tasks.phase[first] != tasks.phase[end - 1])


def _across_phases(tasks: Tasks, call: int, shared: IntArray) -> IntArray:
    """Only what crosses from one phase into a later one; within a phase tiles are independent by definition."""
    phase = tasks.phase[tasks.bounds[call] : tasks.bounds[call + 1]]
    out: IntArray = np.where(phase[:, None] > phase, shared, 0)
    return out
