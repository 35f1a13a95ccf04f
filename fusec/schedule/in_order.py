"""For the proof only: long lists of tasks that touch one buffer, compared in time that grows with their number.

Uses of equal boxes are a chain: it is enough that each follows the writers of the nearest earlier step and comes before
those of the nearest later one, for "happens before" is transitive. Chains whose boxes meet are compared in the same way.
"""

from __future__ import annotations

import numpy as np

from fusec.kernels.kernel import IntArray
from fusec.schedule.clocks import Clocks
from fusec.schedule.sweep import meeting, spread
from fusec.schedule.uses import Use


def disorder(use: Use, step: IntArray, clocks: Clocks) -> tuple[int, int] | None:
    """(earlier task, later task) by the program where nothing makes the later one wait; None where all are in order."""
    sizes = [len(x) for _, x in use.parts]
    boxes = np.concatenate([x for _, x in use.parts])
    writes = np.repeat([w for w, _ in use.parts], sizes)
    there = (boxes[..., 0] < boxes[..., 1]).all(1)
    task, boxes, writes = use.tasks[there], boxes[there], writes[there]
    if not writes.any():
        return None
    when = step[task]
    corners, chain = _chains(boxes)
    a, b = meeting(corners[..., 0], corners[..., 1])
    every = np.arange(len(corners))
    pairs = np.stack([np.concatenate([a, b, every]), np.concatenate([b, a, every])])
    by_chain = np.argsort(chain, kind="stable")
    begin = np.searchsorted(chain[by_chain], every)
    count = np.bincount(chain, minlength=len(corners))
    pair, k = spread(count[pairs[0]])
    member, other = by_chain[begin[pairs[0, pair]] + k], pairs[1, pair]
    scale = int(when.max()) + 2
    writer = np.flatnonzero(writes)
    writer = writer[np.argsort(chain[writer] * scale + when[writer], kind="stable")]
    keys = chain[writer] * scale + when[writer]
    mine = other * scale + when[member]
    before = np.searchsorted(keys, mine, "left") - 1
    after = np.searchsorted(keys, mine, "right")
    for is_before, at in ((True, before), (False, after)):
        known = (at >= 0) & (at < len(keys))
        known[known] &= keys[at[known]] // scale == other[known]
        level = keys[at[known]]
        first = np.searchsorted(keys, level, "left")
        who, k = spread(np.searchsorted(keys, level, "right") - first)
        x, y = task[member[known][who]], task[writer[first[who] + k]]
        early, late = (y, x) if is_before else (x, y)
        wrong = ~clocks.are_after(late, early)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            return int(early[i]), int(late[i])
    return None


def _chains(boxes: IntArray) -> tuple[IntArray, IntArray]:
    """The distinct boxes, and the number of its own for each."""
    flat = boxes.reshape(len(boxes), -1)
    flat = flat[:, (flat != flat[0]).any(0)]
    if not flat.shape[1]:
        return boxes[:1], np.zeros(len(boxes), np.int64)
    order = np.lexsort(flat.T)
    begins = np.ones(len(boxes), np.bool_)
    begins[1:] = (flat[order[1:]] != flat[order[:-1]]).any(1)
    number = np.empty(len(boxes), np.int64)
    number[order] = np.cumsum(begins) - 1
    return boxes[order[begins]], number
