"""Rows of reductions, and the position of an extreme."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.ir.graph import Value
from fusec.ir.types import DType

PLAIN = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
AXES_INPUT_SINCE = 18
"""ReduceSum took its axes as an input five versions before the others."""


def reduction_axes(call: Call, rank: int) -> tuple[int, ...]:
    """The axes of a Reduce op, all where none are given; () where it shall do nothing."""
    since = 13 if call.op_type == "ReduceSum" else AXES_INPUT_SINCE
    if call.version >= since:
        axes = call.ints(1) if call.has(1) else ()
    else:
        axes = tuple(call.attr("axes", ()))
    if not axes:
        return () if call.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return call.axes(axes, rank)


def reduced(call: Call, fn: str, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """A plain reduction; `x` itself where there is nothing to reduce over."""
    return call.emit(f"reduce_{fn}", x, axes=axes, keepdims=keepdims) if axes else x


def _parts(call: Call) -> tuple[Value, tuple[int, ...], bool]:
    x = call.x()
    return x, reduction_axes(call, len(x.shape)), bool(call.attr("keepdims", 1))


@row(*PLAIN)
def _plain(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    return reduced(call, PLAIN[call.op_type], x, axes, keepdims)


@row("ReduceL1")
def _l1(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    return reduced(call, "sum", call.emit("abs", x), axes, keepdims)


@row("ReduceSumSquare")
def _sum_square(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    return reduced(call, "sum", call.emit("mul", x, x), axes, keepdims)


@row("ReduceL2")
def _l2(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    if not x.dtype.is_float:
        raise NotNative("the root of integers")
    return call.emit("sqrt", reduced(call, "sum", call.emit("mul", x, x), axes, keepdims))


@row("ReduceLogSum")
def _log_sum(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    if not x.dtype.is_float:
        raise NotNative("the logarithm of integers")
    return call.emit("log", reduced(call, "sum", x, axes, keepdims))


@row("ReduceLogSumExp")
def _log_sum_exp(call: Call) -> Value:
    x, axes, keepdims = _parts(call)
    if not x.dtype.is_float:
        raise NotNative("the logarithm of integers")
    if not axes:
        return x
    top = call.emit("reduce_max", x, axes=axes, keepdims=True)
    infinite = call.emit("isinf", top, detect_negative=True, detect_positive=True)
    top = call.emit("where", infinite, call.scalar(0.0, x.dtype), top)  # inf - inf would be NaN
    total = call.emit("reduce_sum", call.emit("exp", call.emit("sub", x, top)), axes=axes, keepdims=True)
    out = call.emit("add", call.emit("log", total), top)
    return out if keepdims else call.reshape(out, [d for i, d in enumerate(x.shape) if i not in axes])


@row("ArgMax", "ArgMin")
def _position(call: Call) -> Value:
    x = call.x()
    if not x.shape:
        raise NotNative("the position in a scalar")
    op, axis = call.op_type.lower(), call.axis(int(call.attr("axis", 0)), len(x.shape))
    call.require(x.shape[axis], 1, f"there must be something to choose from along axis {axis}, the input has")
    keepdims = bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return call.emit(op, x, axis=axis, keepdims=keepdims)
    size = x.shape[axis]
    flipped = call.emit(
        "slice",
        x,
        starts=tuple(size - 1 if i == axis else 0 for i in range(len(x.shape))),
        sizes=x.shape,
        steps=tuple(-1 if i == axis else 1 for i in range(len(x.shape))),
    )
    if not isinstance(size, int):
        raise NotNative("the last position in a dimension of unknown size")
    return call.emit("sub", call.scalar(size - 1, DType.I64), call.emit(op, flipped, axis=axis, keepdims=keepdims))
