"""Ops along an order of elements: running sums and products.

`running[axis, fn, exclusive, reverse](x)` gives each place the sum (fn "sum") or product ("prod") of all elements along the
axis up to it, without it where `exclusive`, from the other end where `reverse`. Small floats are accumulated in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ModelError
from fusec.ir.types import Type
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
