"""Addresses of neighbours: loads whose offsets differ by parameters only share one moving pointer.

Points side by side read `x[q*C + c]`, `x[(q+1)*C + c]`, and so on. The code generator would keep an address for each of
them and run out of registers. Here one pointer moves, hidden from its loop optimiser, and instructions add the distance:
once or twice `C` in the addressing mode, from a further pointer every third time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent, linear
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.polynomial import as_extent
from fusec.kernels.cpu.vector import memory_type

if TYPE_CHECKING:
    from fusec.kernels.cpu.access import Access
    from fusec.kernels.cpu.expression import Point

EVERY = 3
"""Distances 0, 1 and 2 times a register fit into an addressing mode."""


def neighbour_address(point: Point, a: Access, copy: int) -> Value:
    """The address of the first lane of an access that is contiguous along the lane."""
    split = linear(a.offset, [point.lane])
    if split is None:
        raise BugError(f"the offset {a.offset} is not affine in {point.lane!r}")
    pointer, distance, level = anchored(point, a, split[0], 1, copy)
    element, b = memory_type(a.storage.dtype), point.b
    if isinstance(distance, int):
        return b.gep(pointer, b.i64(distance), element)
    ((mono, count),) = distance.terms
    unit = as_extent([(mono, 1)])
    if count < 0:
        return b.gep(pointer, point.ctx.slot(distance), element)

    def further(k: int) -> Value:
        if k == 0:
            return pointer
        before = further(k - 1)
        key = ("further", pointer.text, unit, k)
        return point.once(level, key, lambda: b.gep(before, point.ctx.slot(unit * EVERY), element))

    pointer, count = further(count // EVERY), count % EVERY
    if count == 0:
        return pointer
    step = point.ctx.slot(unit)
    return b.gep(pointer, step if count == 1 else b.op("shl", step, b.i64(1)), element)


def anchored(point: Point, a: Access, rest: Extent, step: Extent, copy: int) -> tuple[Value, Extent, int]:
    """A moving pointer that serves an access, how far beyond it the access lies, and the loop in which it moves.

    `rest` is the offset apart from the lane, along which neighbours are `step` elements apart.
    """
    moving, fixed = _parts(point, rest)
    anchor, distance = _anchor(point, (a.name, moving, step), fixed)
    level = max(point.fact_of(moving)[0], point.lane_level)
    element, b = memory_type(a.storage.dtype), point.b

    def start() -> Value:
        at = b.gep(a.storage.pointer, point.extent(moving + anchor), element)
        return b.opaque(b.gep(at, b.mul(point.bases[copy], point.extent(step)), element))

    return point.once(level, ("anchor", a.name, moving, anchor, step, copy), start), distance, level


def _parts(point: Point, x: Extent) -> tuple[Extent, Extent]:
    """The terms that mention axes and others whose values are in registers, and the rest."""
    if isinstance(x, int):
        return 0, x
    moving = [(m, c) for m, c in x.terms if any(point.is_bound(a) for a in m)]
    fixed = [(m, c) for m, c in x.terms if not any(point.is_bound(a) for a in m)]
    return as_extent(moving), as_extent(fixed)


def _anchor(point: Point, key: tuple[str, Extent, Extent], rest: Extent) -> tuple[Extent, Extent]:
    """A fixed offset met before from which `rest` is a multiple of one product away, and that distance."""
    known = point.anchors.setdefault(key, [])
    for anchor in known:
        distance = rest - anchor
        if isinstance(distance, int) or (isinstance(distance, Dim) and len(distance.terms) == 1):
            return anchor, distance
    known.append(rest)
    return rest, 0
