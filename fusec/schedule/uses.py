"""For the proof only: which tasks touch which bytes, worked out from the kernels' tiles and the task table alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.schedule.region import BoundCall, BoundRegion
from fusec.schedule.schedule import Schedule

BoolArray = npt.NDArray[np.bool_]
Intervals = list[tuple[IntArray, IntArray]]


@dataclass(frozen=True, slots=True)
class View:
    """How a kernel sees a buffer: its logical shape and bytes per element."""

    shape: tuple[int, ...]
    itemsize: int


@dataclass(frozen=True, eq=False, slots=True)
class Use:
    """The tasks that touch one buffer through one view: their numbers, and per call whether it writes and its boxes."""

    view: View
    tasks: IntArray
    parts: tuple[tuple[bool, IntArray], ...]

    @property
    def writes(self) -> bool:
        """Whether any of the tasks writes."""
        return any(write for write, _ in self.parts)


class Uses:
    """All uses of the buffers that are written, and where two uses meet; equal layers are worked out once."""

    def __init__(self, s: Schedule, region: BoundRegion) -> None:
        self.of: dict[str, list[Use]] = {}
        self._meets: dict[tuple[object, ...], tuple[IntArray, IntArray]] = {}
        self._boxes: dict[tuple[int, bytes], list[tuple[str, View, bool, IntArray]]] = {}
        parts = defaultdict[str, dict[View, list[tuple[IntArray, bool, IntArray]]]](dict)
        by_call = np.argsort(s.tasks[:, 0], kind="stable")
        bounds = np.searchsorted(s.tasks[by_call, 0], np.arange(len(region.calls) + 1)).tolist()
        for c, call in enumerate(region.calls):
            mine = by_call[bounds[c] : bounds[c + 1]]
            for name, view, write, boxes in self._of_runs(call.kernel, s.tasks[mine, 1:3]):
                if call.buffers[name] in region.mutable and 0 not in view.shape:
                    parts[call.buffers[name]].setdefault(view, []).append((mine, write, boxes))
        for buffer, by_view in parts.items():
            self.of[buffer] = [
                Use(view, np.concatenate([t for t, _, _ in p]), tuple((w, b) for _, w, b in p))
                for view, p in by_view.items()
            ]

    def _of_runs(self, kernel: BoundKernel, runs: IntArray) -> list[tuple[str, View, bool, IntArray]]:
        key = id(kernel), runs.tobytes()
        if key not in self._boxes:
            operands, order = kernel.kernel.program.operand, np.argsort(runs[:, 0])
            self._boxes[key] = [
                (name, view_of(kernel, name), write, _run_boxes(boxes, runs[order, 0], order))
                for write, accesses in ((False, kernel.reads), (True, kernel.writes))
                for name, boxes in accesses.items()
                if operands[name].role != "weight"
            ]
        return self._boxes[key]

    def meet(self, a: Use, b: Use) -> tuple[IntArray, IntArray]:
        """Pairs i, j: task i of a and task j of b may touch the same element, and one of them writes it."""
        key = a.view, b.view, *((w, id(x)) for w, x in a.parts), None, *((w, id(x)) for w, x in b.parts)
        if key not in self._meets:
            boxes = [np.concatenate([x for _, x in u.parts]) for u in (a, b)]
            first, second = (np.repeat([w for w, _ in u.parts], [len(x) for _, x in u.parts]) for u in (a, b))
            i, j = (meet(boxes[0], a.view, boxes[1], b.view) & (first[:, None] | second)).nonzero()
            self._meets[key] = i, j
        return self._meets[key]


def view_of(kernel: BoundKernel, operand: str) -> View:
    """How a kernel sees the buffer behind an operand."""
    return View(kernel.shape(operand), kernel.kernel.program.operand[operand].dtype.itemsize)


def steps(s: Schedule, calls: tuple[BoundCall, ...]) -> IntArray:
    """Program order as one number per task: its call, then the sequential coordinates of its first tile."""
    index = np.zeros(len(s.tasks), np.int64)
    scale = 1
    for c, call in enumerate(calls):
        sequential = [j for j, a in enumerate(call.kernel.kernel.program.axes) if a.sequential]
        if not sequential:
            continue
        mine = np.flatnonzero(s.tasks[:, 0] == c)
        coordinates = np.unravel_index(s.tasks[mine, 1], call.kernel.grid)
        for j in sequential:
            index[mine] = index[mine] * call.kernel.grid[j] + coordinates[j]
        scale = max(scale, prod([call.kernel.grid[j] for j in sequential]))
    out: IntArray = s.tasks[:, 0] * scale + index
    return out


def meet(a: IntArray, view: View, b: IntArray, other: View) -> BoolArray:
    """[i, j]: box i of a may share an element with box j of b."""
    if view == other:
        low, high = np.maximum(a[:, None, :, 0], b[:, :, 0]), np.minimum(a[:, None, :, 1], b[:, :, 1])
        return np.asarray((low < high).all(2))
    out = np.ones((len(a), len(b)), np.bool_)
    if view.itemsize == other.itemsize and prod(view.shape) == prod(other.shape):
        sizes = sorted(_cuts(view.shape) & _cuts(other.shape))
        groups = zip(_intervals(a, view.shape, sizes), _intervals(b, other.shape, sizes), strict=True)
        for (a_low, a_high), (b_low, b_high) in groups:
            out &= (a_low[:, None] < b_high) & (b_low < a_high[:, None])
    return out


def meet_within(a: IntArray, view: View, b: IntArray, other: View) -> BoolArray:
    """[s, i, j]: box i of `a[s]` may share an element with box j of `b[s]`."""
    if view == other:
        x, y = a[:, :, None], b[:, None]
        return np.asarray((np.maximum(x[..., 0], y[..., 0]) < np.minimum(x[..., 1], y[..., 1])).all(3))
    return np.stack([meet(x, view, y, other) for x, y in zip(a, b, strict=True)])


def _cuts(shape: tuple[int, ...]) -> set[int]:
    return {prod(shape[d:]) for d in range(len(shape) + 1)}


def _intervals(boxes: IntArray, shape: tuple[int, ...], sizes: list[int]) -> Intervals:
    """Intervals of row-major positions, one per group of dimensions that cover the same elements in both shapes."""
    strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
    is_empty = (boxes[..., 0] >= boxes[..., 1]).any(1)
    out = []
    for small, big in pairwise(sizes):
        mine = [d for d in range(len(shape)) if small <= strides[d] < big and shape[d] > 1]
        weights = np.array([strides[d] // small for d in mine], np.int64)
        low = boxes[:, mine, 0] @ weights
        high = (boxes[:, mine, 1] - 1) @ weights + 1
        out.append((low, np.where(is_empty, -1, high)))  # nothing starts below -1
    return out


def _run_boxes(boxes: IntArray, starts: IntArray, order: IntArray) -> IntArray:
    """The hull of each run; sorted run i begins at tile `starts[i]` and is entry `order[i]` of the result."""
    out = np.empty((len(starts), *boxes.shape[1:]), np.int64)
    if len(starts):
        out[order, :, 0] = np.minimum.reduceat(boxes[:, :, 0], starts)
        out[order, :, 1] = np.maximum.reduceat(boxes[:, :, 1], starts)
    return out
