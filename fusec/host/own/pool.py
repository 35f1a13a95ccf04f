"""Pools over windows, one vectorised step per kernel position, and global pools of any rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute
from fusec.host.own.windows import Array, Windows, inside


def _max_pool(inputs: Sequence[Any], attrs: Attrs, _opset: int, outputs: int) -> Sequence[Any]:
    (x,) = inputs
    windows = Windows.of(x.shape[2:], tuple(attrs["kernel_shape"]), attrs)
    lowest = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
    padded = windows.padded(x, lowest)
    out = np.full((*x.shape[:2], *windows.counts), lowest, dtype=x.dtype)
    if outputs < 2:
        for position in windows.positions():
            np.maximum(out, windows.under(padded, position), out=out)
        return (out,)
    return out, _positions_of_largest(x, padded, windows, out, int(attrs.get("storage_order", 0)))


def _positions_of_largest(x: Array, padded: Array, windows: Windows, out: Array, column_major: int) -> Array:
    """Flat indices into the unpadded input; `out` is filled on the way."""
    sizes = x.shape[2:]
    flat = (
        np.arange(int(np.prod(sizes))).reshape(sizes[::-1]).T
        if column_major
        else np.arange(int(np.prod(sizes))).reshape(sizes)
    )
    numbered = windows.padded(flat[None, None], -1)
    where = np.full(out.shape, -1, dtype=np.int64)
    for position in windows.positions():
        value, index = windows.under(padded, position), windows.under(numbered, position)
        better = (index >= 0) & ((value > out) | (where < 0))
        np.copyto(out, value, where=better)
        np.copyto(where, np.broadcast_to(index, where.shape), where=better)
    image = int(np.prod(sizes))
    base = (np.arange(x.shape[0] * x.shape[1]) * image).reshape(*x.shape[:2], *(1,) * len(sizes))
    return np.asarray(where + base)


def _average_pool(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    (x,) = inputs
    windows = Windows.of(x.shape[2:], tuple(attrs["kernel_shape"]), attrs)
    wide = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    ones = np.ones((1, 1, *x.shape[2:]), wide.dtype)
    if attrs.get("count_include_pad", 0):  # the padding that was asked for counts, what ceil_mode adds does not
        n = x.ndim - 2
        pads = tuple(attrs.get("pads") or (0,) * 2 * n)
        extra = [max(a - pads[n + i], 0) for i, a in enumerate(windows.after)]
        if attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            extra = [0] * n
        inner = [b + s + a - e for b, s, a, e in zip(windows.before, x.shape[2:], windows.after, extra)]
        counted = np.zeros((1, 1, *(i + e for i, e in zip(inner, extra))), wide.dtype)
        counted[inside([0] * n, inner)] = 1
    else:
        counted = windows.padded(ones, 0)
    padded = windows.padded(wide, 0)
    total = np.zeros((*x.shape[:2], *windows.counts), wide.dtype)
    count = np.zeros((1, 1, *windows.counts), wide.dtype)
    for position in windows.positions():
        total += windows.under(padded, position)
        count += windows.under(counted, position)
    return ((total / count).astype(x.dtype, copy=False),)


def _global_average(inputs: Sequence[Any], _attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    (x,) = inputs
    if 0 in x.shape[2:]:
        raise ValueError(f"there is nothing to pool in {list(x.shape)}")
    return (x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float64).astype(x.dtype),)


def _global_max(inputs: Sequence[Any], _attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    (x,) = inputs
    return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("", "MaxPool"): _max_pool,
    ("", "AveragePool"): _average_pool,
    ("", "GlobalAveragePool"): _global_average,
    ("", "GlobalMaxPool"): _global_max,
}
