"""Rows of pooling, local and global, and of normalisation over neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from fusec.frontend.call import Call, row
from fusec.frontend.known import Known, is_at_least
from fusec.frontend.table.reduce import reduced
from fusec.frontend.table.spatial import Windows, windows_of
from fusec.frontend.table.view import check_size
from fusec.ir.dim import Extent, product
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType


def padded(call: Call, x: Value, before: Sequence[Extent], after: Sequence[Extent], fill: float = 0) -> Value:
    """`x` with a border of `fill`, or cropped where that is negative."""
    if all(p == 0 for p in (*before, *after)):
        return x
    inputs = (x,) if fill == 0 else (x, call.scalar(fill, x.dtype))
    check_size(call, TensorType(x.dtype, tuple(b + n + a for b, n, a in zip(before, x.shape, after))))
    return call.emit("pad", *inputs, before=tuple(before), after=tuple(after), mode="constant")


def spatial_windows(call: Call, x: Value, w: Windows, fill: float = 0) -> Value:
    """The windows of [N, C, ...]: their elements are the last axes."""
    x = padded(call, x, (0, 0, *w.before), (0, 0, *w.ends), fill)
    axes = tuple(range(2, len(x.shape)))
    return call.emit("windows", x, axes=axes, sizes=w.sizes, strides=w.strides, dilations=w.dilations)


def folded(call: Call, fn: str, view: Value, w: Windows) -> Value:
    """A reduction over the elements of each window."""
    rank = len(view.shape)
    return reduced(call, fn, view, tuple(range(rank - len(w.sizes), rank)), keepdims=False)


def lowest(dtype: DType) -> float:
    """What no element is less than."""
    bits = 8 * dtype.itemsize
    return -np.inf if dtype.is_float else -(1 << (bits - 1)) if dtype.is_signed else 0


def greatest(dtype: DType) -> float:
    """What no element is greater than."""
    bits = 8 * dtype.itemsize
    return np.inf if dtype.is_float else (1 << (bits - 1 if dtype.is_signed else bits)) - 1


def _pooled(call: Call, x: Value | None = None) -> tuple[Value, Windows]:
    x = call.x() if x is None else x
    if len(x.shape) < 3:
        raise call.error(f"needs channels and at least one more axis, got {x.type}")
    for i, n in enumerate(x.shape[2:], 2):
        call.require(
            n, 1, f"kernel_shape {list(call.attrs['kernel_shape'])} needs elements along axis {i}, the input has"
        )
    w = windows_of(call, x.shape[2:], call.attrs["kernel_shape"], bool(call.attr("ceil_mode", 0)))
    pads = call.attr("pads", ())
    if any(p >= k for p, k in zip(pads, w.sizes * 2)):
        raise call.error(f"pads {list(pads)} must be smaller than kernel_shape {list(w.sizes)}")
    return x, w


@row("MaxPool")
def _max_pool(call: Call) -> tuple[Value, Value | None]:
    x, w = _pooled(call)
    if call.attr("storage_order", 0) not in (0, 1):
        raise call.error(f"storage_order {call.attr('storage_order')} is neither 0 nor 1")
    view = spatial_windows(call, x, w, lowest(x.dtype))
    return folded(call, "max", view, w), _indices(call, x, view, w) if call.wants(1) else None


def _indices(call: Call, x: Value, view: Value, w: Windows) -> Value:
    """Where each maximum stands in the whole of `x`."""
    rank, spatial, kept = len(w.sizes), x.shape[2:], view.shape[: len(x.shape)]
    first = call.emit("argmax", call.reshape(view, (*kept, prod(w.sizes))), axis=len(kept), keepdims=False)
    rows = call.attr("storage_order", 0) == 0
    pitch = [product(spatial[i + 1 :] if rows else spatial[:i]) for i in range(rank)]
    whole = product(spatial)
    out = call.emit("add", _line(call, x.shape[0], 0, x.shape[1] * whole, rank + 1),
                    _line(call, x.shape[1], 0, whole, rank))  # fmt: skip
    for i in reversed(range(rank)):
        size = call.scalar(w.sizes[i], DType.I64)
        inside, first = call.emit("mod", first, size), call.emit("div", first, size)
        inside = call.emit("mul", inside, extent_data(call, w.dilations[i] * pitch[i]))
        start = _line(call, kept[2 + i], w.before[i] * pitch[i] * -1, w.strides[i] * pitch[i], rank - 1 - i)
        out = call.emit("add", out, call.emit("add", inside, start))
    return out


def extent_data(call: Call, value: Extent) -> Value:
    """A size as an i64 scalar."""
    return call.builder.data(Known(DType.I64, (), (value,)), call.origin)


def _line(call: Call, size: Extent, start: Extent, step: Extent, behind: int) -> Value:
    """start, start + step, ... along an axis that has `behind` others behind it."""
    line = call.emit("iota", size=size, start=start, step=step, dtype=DType.I64)
    return call.reshape(line, (size, *(1,) * behind))


@row("AveragePool")
def _average_pool(call: Call) -> Value:
    return average_pool(call, call.x())


def average_pool(call: Call, x: Value) -> Value:
    """The mean of each window that the node describes."""
    x, w = _pooled(call, x)
    total = folded(call, "sum", spatial_windows(call, x, w), w)
    return call.emit("div", total, _counts(call, x, w, bool(call.attr("count_include_pad", 0))))


def _counts(call: Call, x: Value, w: Windows, with_padding: bool) -> Value:
    """How many elements of each window count: those outside do not, nor does padding unless it is asked for.

    At least 1: all elements of a dilated window may lie outside, and their mean is then 0 and not undefined.
    """
    whole, out = 1, None
    rank = len(w.sizes)
    for i, (n, size) in enumerate(zip(x.shape[2:], w.sizes)):
        before, after = (0, w.beyond[i]) if with_padding else (w.before[i], w.after[i] + w.beyond[i])
        if before == 0 and is_at_least(0, after):
            whole *= size
            continue
        inside = n + w.before[i] + w.after[i] if with_padding else n
        ones = padded(call, call.expand(call.scalar(1, x.dtype), (inside,)), (before,), (after,))
        view = call.emit(
            "windows", ones, axes=(0,), sizes=(size,), strides=(w.strides[i],), dilations=(w.dilations[i],)
        )
        count = call.emit("reduce_sum", view, axes=(1,), keepdims=False)
        count = call.reshape(count, (*count.shape, *(1,) * (rank - 1 - i)))
        out = count if out is None else call.emit("mul", out, count)
    if out is None:
        return call.scalar(whole, x.dtype)
    if any(d > 1 for d in w.dilations):
        out = call.emit("max", out, call.scalar(1, x.dtype))
    return out if whole == 1 else call.emit("mul", out, call.scalar(whole, x.dtype))


@row("LpPool")
def _lp_pool(call: Call) -> Value:
    x, w = _pooled(call)
    p = _exponent(call)
    return _root(call, folded(call, "sum", spatial_windows(call, _power(call, x, p), w), w), p)


def _exponent(call: Call) -> float:
    p = float(call.attr("p", 2))
    if not p >= 1:
        raise call.error(f"p is {p}, less than 1")
    return p


def _power(call: Call, x: Value, p: float) -> Value:
    if p == 2:
        return call.emit("mul", x, x)
    magnitude = call.emit("abs", x)
    return magnitude if p == 1 else call.emit("pow", magnitude, call.scalar(p, x.dtype))


def _root(call: Call, x: Value, p: float) -> Value:
    if p in (1, 2):
        return x if p == 1 else call.emit("sqrt", x)
    return call.emit("pow", x, call.scalar(1 / p, x.dtype))


@row("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(call: Call) -> Value:
    x = call.x()
    axes = tuple(range(2, len(x.shape)))
    if not axes:
        raise call.error(f"needs channels and at least one more axis, got {x.type}")
    for i, n in enumerate(x.shape[2:], 2):
        call.require(n, 1, f"nothing to pool: the elements along axis {i} are")
    if call.op_type == "GlobalLpPool":
        p = _exponent(call)
        return _root(call, reduced(call, "sum", _power(call, x, p), axes, keepdims=True), p)
    return reduced(call, "mean" if call.op_type == "GlobalAveragePool" else "max", x, axes, keepdims=True)


@row("LRN")
def _local_response(call: Call) -> Value:
    x, size = call.x(), int(call.attrs["size"])
    if len(x.shape) < 2 or size < 1:
        raise call.error(f"size {size} does not fit {x.type}")
    alpha, beta, bias = (float(call.attr(k, v)) for k, v in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before, after = (tuple(p if i == 1 else 0 for i in range(len(x.shape))) for p in ((size - 1) // 2, size // 2))
    squares = padded(call, call.emit("mul", x, x), before, after)
    view = call.emit("windows", squares, axes=(1,), sizes=(size,), strides=(1,), dilations=(1,))
    total = call.emit("reduce_sum", view, axes=(len(x.shape),), keepdims=False)
    base = call.emit("mul", total, call.scalar(alpha / size, x.dtype))
    return call.emit("div", x, _fractional_power(call, call.emit("add", base, call.scalar(bias, x.dtype)), beta))


def _fractional_power(call: Call, x: Value, exponent: float) -> Value:
    """x ** exponent, by roots where that is cheaper."""
    if exponent == 1:
        return x
    if exponent not in (0.5, 0.75):
        return call.emit("pow", x, call.scalar(exponent, x.dtype))
    root = call.emit("sqrt", x)
    return root if exponent == 0.5 else call.emit("mul", root, call.emit("sqrt", root))
