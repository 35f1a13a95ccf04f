"""Ops along an order of elements: running sums and products, the largest elements.

`running[axis, fn, exclusive, reverse](x)` gives each place the sum (fn "sum") or product ("prod") of all elements along the
axis up to it, without it where `exclusive`, from the other end where `reverse`. Small floats are accumulated in float32.

`top_k[axis, k, largest](x)` gives the k largest (or smallest) elements along the axis, in order, and their places as i64. Of
equal elements the one with the smaller place comes first; NaN counts as the largest. More than there are is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ExecutionError, ModelError
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.body import reference
from fusec.ops.op import Attrs, Kind, Op, register
from fusec.ops.rules import NUMBERS, accept, check_axis, tensors

Array = npt.NDArray[Any]
NEUTRAL = {"sum": 0, "prod": 1}
"""What is accumulated at the start, by function."""


def _infer_running(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("running", inputs, 1)
    accept("running", x, NUMBERS)
    check_axis("running", attrs["axis"], len(x.dims))
    if attrs["fn"] not in NEUTRAL:
        raise ModelError(f"running: fn {attrs['fn']!r} is none of {', '.join(NEUTRAL)}", op="running")
    return (x,)


def _running(x: Array, axis: int, fn: str, exclusive: bool, reverse: bool) -> Array:
    if fn not in NEUTRAL:
        raise BugError(f"running: unknown fn {fn!r}")
    x = np.flip(x, axis) if reverse else x
    out = (np.cumsum if fn == "sum" else np.cumprod)(x, axis=axis, dtype=x.dtype)
    if exclusive:
        out = np.roll(out, 1, axis)
        first = (slice(None),) * axis + (slice(0, 1),)
        out[first] = NEUTRAL[fn]
    return np.ascontiguousarray(np.flip(out, axis) if reverse else out)


register(
    Op("running", Kind.RECURRENT, _infer_running, reference(_running, "axis", "fn", "exclusive", "reverse"), None, 1.0)
)


RANKED = frozenset([DType.F32, DType.F16, DType.BF16, DType.I32, DType.U32, DType.I16, DType.U16, DType.I8, DType.U8])
"""The dtypes that `top_k` takes: an element and its place fit into 64 bits."""


def _infer_top_k(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("top_k", inputs, 1)
    accept("top_k", x, ("numbers of 32 bits or less", lambda d: d in RANKED))
    axis, k = check_axis("top_k", attrs["axis"], len(x.dims)), attrs["k"]
    n = x.dims[axis]
    if isinstance(k, int) and (k < 0 or (isinstance(n, int) and k > n)):
        raise ModelError(f"top_k: k is {k}, axis {axis} of {x} has {n} elements", op="top_k")
    dims = (*x.dims[:axis], k, *x.dims[axis + 1 :])
    return TensorType(x.dtype, dims), TensorType(DType.I64, dims)


def _top_k(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    (x,) = args
    if x is None:
        raise BugError("a required input is missing")
    axis, k = attrs["axis"], attrs["k"]
    if not 0 <= k <= x.shape[axis]:
        raise ExecutionError(f"top_k: k is {k}, axis {axis} has {x.shape[axis]} elements", op="top_k")
    key: Array = x.astype(np.float64)  # exact, and -0 is equal to 0
    if attrs["largest"]:  # NaN comes last in numpy's order
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(key, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(key, axis, kind="stable")
    places = np.take(order, range(k), axis).astype(np.int64)
    return np.take_along_axis(x, places, axis), places


register(Op("top_k", Kind.RECURRENT, _infer_top_k, _top_k, None, 20.0))
