"""Loads of every second element, as windows with a stride of two make them: two contiguous vectors and a shuffle.

    0 . 2 . 4 . 6 .                  the first vector
                  . 8 . 10 . 12 . 14         the second one ends where the last lane's element is

Nothing behind the last element is read. Element by element a vector would take as many loads and insertions as it has lanes.
"""

from __future__ import annotations

from fusec.kernels.cpu.builder import Builder, Value, constant, vector


def load_every_second(b: Builder, element: str, lanes: int, pointer: Value, mask: Value | None) -> Value:
    """`lanes` elements, the first at `pointer`; where there is a mask the level must have masked loads, and lanes outside
    read 0."""
    half, type_ = lanes // 2, vector(lanes, element)
    following = b.gep(pointer, b.i64(lanes - 1), element)
    if mask is None:
        first, second = b.load(type_, pointer), b.load(type_, following)
    else:
        never, zero = constant(mask.type, False), constant(type_, 0.0 if element in ("float", "double") else 0)
        below = [k // 2 if k % 2 == 0 else lanes for k in range(lanes)]
        above = [half + k // 2 if k % 2 else lanes for k in range(lanes)]
        first = b.masked_load(type_, pointer, b.shuffle(mask, never, below), zero)
        second = b.masked_load(type_, following, b.shuffle(mask, never, above), zero)
    return b.shuffle(first, second, [2 * k if k < half else lanes + 2 * (k - half) + 1 for k in range(lanes)])
