"""Scatter: elements written to, or folded into, places along an axis that are read from memory, in the order of the updates.

`scatter[axis, reduction](x, indices, updates)` is x with, for every place of `updates`, the element at the index found in
`indices` there set to it (reduction "none") or joined with it (add, mul, min, max). All three have one rank. Besides the
axis, updates may cover the beginning of x only; indices have the shape of the updates or 1 where they are the same all
along a dimension. Negative indices count from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ExecutionError, ModelError
from fusec.ir.types import Type
from fusec.ops.op import Attrs, Kind, Op, as_tuple, register
from fusec.ops.rules import INTEGERS, accept, check_axis, tensors, unify

Array = npt.NDArray[Any]
UFUNCS = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
"""The elementwise ops that an update may be joined by; their names are those of the catalogue."""


def _infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    x, indices, updates = tensors("scatter", inputs, 3)
    accept("scatter", indices, INTEGERS, "the indices")
    axis = check_axis("scatter", attrs["axis"], len(x.dims))
    if attrs["reduction"] != "none" and attrs["reduction"] not in UFUNCS:
        raise ModelError(
            f"scatter: reduction {attrs['reduction']!r} is none of none, {', '.join(UFUNCS)}", op="scatter"
        )
    fits = x.dtype is updates.dtype and len(x.dims) == len(indices.dims) == len(updates.dims)
    for d, (n, i, u) in enumerate(zip(x.dims, indices.dims, updates.dims)):
        larger = d != axis and isinstance(n, int) and isinstance(u, int) and u > n
        fits = fits and not larger and (unify(i, u) is not None or (i == 1 and d != axis))
    if not fits:
        raise ModelError(f"scatter: indices {indices} and updates {updates} do not fit {x}", op="scatter")
    return (x,)


def _scatter(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, indices, updates = args
    if x is None or indices is None or updates is None:
        raise BugError("a required input is missing")
    axis, n = attrs["axis"], x.shape[attrs["axis"]]
    places = np.broadcast_to(indices.astype(np.int64), updates.shape)
    bad = (places < -n) | (places >= n)
    if bad.any():
        raise ExecutionError(f"scatter: index {places[bad].flat[0]} is outside a dimension of {n}", op="scatter")
    where: list[Any] = list(np.indices(updates.shape, sparse=True))
    where[axis] = np.where(places < 0, places + n, places)
    out = x.copy()
    for j in range(updates.shape[axis]):  # one after the other: the last one of equal places wins
        at = tuple(w.take([j], axis) if w.shape[axis] > 1 else w for w in where)
        new = updates.take([j], axis)
        out[at] = new if attrs["reduction"] == "none" else UFUNCS[attrs["reduction"]](out[at], new)
    return as_tuple(out)


register(Op("scatter", Kind.SCATTER, _infer, _scatter))
