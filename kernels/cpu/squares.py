"""Transposes through registers: squares of as many rows as a vector has lanes, loaded row by row and turned around.

Along the lane neighbours lie apart in what is loaded, along another axis side by side. As many vectors along that axis as
there are lanes are loaded, and shuffled into vectors along the lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusec.ir.dim import Dim, Extent, linear, product, symbol
from fusec.ir.expr import Load
from fusec.kernels.cpu.anchors import anchored
from fusec.kernels.cpu.builder import Builder, Value, vector
from fusec.kernels.cpu.merged import split_merged
from fusec.kernels.cpu.vector import memory_type
from fusec.tile.program import Stage, TileProgram

if TYPE_CHECKING:
    from fusec.kernels.cpu.access import Access
    from fusec.kernels.cpu.expression import Point

PACKED = 4
"""Elements that a first pair of steps turns around: four of 32 bits are what shuffles reach most cheaply."""


def turned_axis(program: TileProgram, stage: Stage, lane: str) -> str:
    """The axis along which loads are contiguous that are not so along the lane; "" where there is none, or with folds."""
    if stage.folds or not lane or stage.scattered:
        return ""
    stage, _, _ = split_merged(stage, program.axis, lane)
    for x in stage.loads():
        steps = _steps(program, x, stage.axis_names)
        if steps is not None and x.fill is None and steps.get(lane, 0) not in (0, 1):
            for axis, step in steps.items():
                if step == 1 and axis != lane:
                    return axis
    return ""


def _steps(program: TileProgram, x: Load, axes: Sequence[str]) -> dict[str, Extent] | None:
    """Elements between neighbours along each axis, in the row-major operand; None where an index is not affine."""
    shape = program.operand[x.operand].shape
    total: Extent = 0
    for d, i in enumerate(x.index):
        if not isinstance(i, int | Dim):
            return None
        total = total + i * product(shape[d + 1 :])
    split = linear(total, axes)
    return None if split is None else split[1]


def load_turned(point: Point, a: Access, step: Extent, copy: int) -> Value | None:
    """One vector of a square, the whole of which is loaded at its first use; None where the access makes no squares."""
    split = linear(a.offset, [point.lane, point.turned])
    if split is None or split[1].get(point.turned) != 1 or step == 0:
        return None
    rest = split[0] + symbol(point.turned)
    pointer, distance, level = anchored(point, a, rest, step, copy)
    if not isinstance(distance, int) or distance < 0:
        return None
    lanes, element = point.lanes, memory_type(a.storage.dtype)
    square = distance // lanes
    key = ("square", pointer.text, square)
    if not point.has(level, (*key, 0)):
        b = point.b
        start = b.gep(pointer, b.i64(square * lanes), element)
        rows = [b.load(vector(lanes, element), at) for at in _rows(point, start, step, element)]
        for k, v in enumerate(transpose(b, rows)):
            point.once(level, (*key, k), lambda v=v: v)  # type: ignore[misc]
    return point.once(level, (*key, distance % lanes), lambda: pointer)


def _rows(point: Point, start: Value, step: Extent, element: str) -> list[Value]:
    """Addresses of all lanes; in a partial vector those beyond its end are the last one's again."""
    b = point.b
    if point.left is not None:
        one, last = point.extent(step), b.sub(point.left, b.i64(1))
        return [b.gep(start, b.mul(b.smin(b.i64(k), last), one), element) for k in range(point.lanes)]
    one, three = point.ctx.slot(step), point.ctx.slot(step * 3)
    out: list[Value] = []
    for k in range(point.lanes):
        start = b.gep(start, three, element) if k and k % 3 == 0 else start
        out.append(start if k % 3 == 0 else b.gep(start, one if k % 3 == 1 else b.op("shl", one, b.i64(1)), element))
    return out


def transpose(b: Builder, rows: Sequence[Value]) -> list[Value]:
    """The columns of as many vectors as each has lanes: a power of two."""
    n = len(rows)
    if n < PACKED:
        return [b.shuffle(rows[0], rows[1], [k, 2 + k]) for k in range(n)] if n == 2 else list(rows)
    # four rows at a time: [quad][k] holds column k of each group of four columns
    quads = [_turn_four(b, rows[q : q + PACKED]) for q in range(0, n, PACKED)]
    columns: list[Value] = [rows[0]] * n
    for k in range(PACKED):
        for group, v in enumerate(_turn_groups(b, [quad[k] for quad in quads])):
            columns[group * PACKED + k] = v
    return columns


def _turn_four(b: Builder, rows: Sequence[Value]) -> list[Value]:
    n = rows[0].lanes

    def pick(x: Value, y: Value, places: Sequence[int]) -> Value:
        """The same places of each group of four lanes; from 4 on they are of `y`."""
        return b.shuffle(x, y, [g + (p if p < PACKED else n + p - PACKED) for g in range(0, n, PACKED) for p in places])

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    a, c = pick(rows[0], rows[1], low), pick(rows[2], rows[3], low)
    d, e = pick(rows[0], rows[1], high), pick(rows[2], rows[3], high)
    first, second = (0, 1, 4, 5), (2, 3, 6, 7)
    return [pick(a, c, first), pick(a, c, second), pick(d, e, first), pick(d, e, second)]


def _turn_groups(b: Builder, vectors: Sequence[Value]) -> list[Value]:
    """Vectors of as many groups of four lanes as there are vectors, turned around group by group."""
    out, n, count = list(vectors), vectors[0].lanes, len(vectors)
    step = count // 2
    while step:
        for i in range(count):
            if not i & step:
                x, y = out[i], out[i + step]
                even = [(g, x) if not g & step else (g - step, y) for g in range(count)]
                odd = [(g + step, x) if not g & step else (g, y) for g in range(count)]
                out[i], out[i + step] = (
                    b.shuffle(x, y, [g * PACKED + k + (n if v is y else 0) for g, v in places for k in range(PACKED)])
                    for places in (even, odd)
                )
        step //= 2
    return out
