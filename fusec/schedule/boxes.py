"""Boxes: int64[n, dims, 2] half-open intervals of a logical index, an entry per tile or task, and how much two sets share."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from fusec.kernels.kernel import IntArray


def hull(boxes: IntArray, starts: IntArray) -> IntArray:
    """The smallest box around boxes `starts[i]` to `starts[i + 1] - 1`, for each i. Empty boxes stretch it; that is safe."""
    if not len(starts):
        return boxes[:0]
    out = np.empty((len(starts), *boxes.shape[1:]), np.int64)
    np.minimum.reduceat(boxes[..., 0], starts, axis=0, out=out[..., 0])
    np.maximum.reduceat(boxes[..., 1], starts, axis=0, out=out[..., 1])
    return out


def overlaps(a: IntArray, b: IntArray) -> IntArray:
    """int64[len(a), len(b)]: the number of elements that two boxes of one shape share."""
    out: IntArray | None = None
    for d in range(a.shape[1]):
        shared = np.minimum(a[:, d, 1, None], b[:, d, 1])
        shared -= np.maximum(a[:, d, 0, None], b[:, d, 0])
        np.maximum(shared, 0, out=shared)
        out = shared if out is None else np.multiply(out, shared, out=out)
    return np.ones((len(a), len(b)), np.int64) if out is None else out


def common_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The finest row-major shape that both merge neighbouring dimensions into; None where they differ in size.

    `(N, 12, 64)` and `(N, 768)` meet in `(N, 768)`, unrelated shapes in `(size,)`.
    """
    if prod(a) != prod(b):
        return None
    sizes = sorted(_suffixes(a) & _suffixes(b))
    return tuple(big // small for small, big in pairwise(sizes))[::-1]


def merge(boxes: IntArray, shape: tuple[int, ...], coarse: tuple[int, ...]) -> IntArray:
    """Boxes of `shape` as hulls in `coarse`, a shape whose dimensions are merged ones of it."""
    out = np.empty((len(boxes), len(coarse), 2), np.int64)
    empty = (boxes[..., 0] >= boxes[..., 1]).any(1)
    d = len(shape)
    for c in reversed(range(len(coarse))):
        low, last, stride = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.int64), 1
        while d > 0 and stride < coarse[c]:
            d -= 1
            low += boxes[:, d, 0] * stride
            last += (boxes[:, d, 1] - 1) * stride
            stride *= shape[d]
        out[:, c, 0], out[:, c, 1] = low, last + 1
    out[empty] = 0
    return out


def _suffixes(shape: tuple[int, ...]) -> set[int]:
    out = {1}
    size = 1
    for n in reversed(shape):
        size *= n
        out.add(size)
    return out
