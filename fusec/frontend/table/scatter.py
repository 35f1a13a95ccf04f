"""Rows of ops that write elements to places given by index.

Where few indices write, or constant ones, each place looks for what is written to it: places are spread over workers then.
Else the updates are walked in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.table.gather import positions
from fusec.frontend.table.pool import extent_data, greatest, lowest
from fusec.ir.dim import Extent, product
from fusec.ir.graph import Value
from fusec.ir.types import DType

I64 = DType.I64
FEW_ROWS = 64
"""Indices that each row may look through: finding the writer costs less than copying the row."""
FEW = 4
"""Indices that each element may look through."""
MOST_PLACES = 1 << 21
"""Places whose writers are worked out from constant indices: they become a constant, too."""
FOLDS = {"add": ("add", "sum"), "mul": ("mul", "prod"), "max": ("max", "max"), "min": ("min", "min")}


def _reduction(call: Call) -> str:
    kind = str(call.attr("reduction", "none") or "none")
    if kind != "none" and kind not in FOLDS:
        raise call.error(f"reduction {kind!r} is none of none, {', '.join(FOLDS)}")
    return kind


def _is_few(indices: Extent, few: int) -> bool:
    return isinstance(indices, int) and indices <= few


def _check_constant(call: Call, indices: Value, size: Extent) -> None:
    """Notice now what would be noticed in every run."""
    if call.builder.array(indices) is not None:
        checked(call, indices, size)


def checked(call: Call, indices: Value, size: Extent) -> Value:
    """Indices counted from the start; one outside is noticed while running."""
    array = call.builder.array(indices)
    if array is not None and isinstance(size, int):
        if array.size and not (-size <= int(array.min()) and int(array.max()) < size):
            raise call.error(f"indices from {array.min()} to {array.max()} are outside a dimension of {size}")
        return call.builder.constant(np.where(array < 0, array + size, array).astype(np.int64))
    return call.emit("gather", call.emit("iota", size=size, start=0, step=1, dtype=I64), indices, axis=0)


def _neutral(kind: str, dtype: DType) -> float:
    if kind in ("max", "min"):
        if dtype is DType.BOOL:
            return kind == "min"
        return lowest(dtype) if kind == "max" else greatest(dtype)
    return 0 if kind == "add" else 1


@row("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> Value:
    x, indices, updates = call.x(0), call.x(1), call.x(2)
    rank, kind = len(x.shape), _reduction(call)
    axis = call.axis(int(call.attr("axis", 0)), rank)
    if len(indices.shape) == len(updates.shape):
        for i in range(len(indices.shape)):
            indices, updates = call.paired(indices, i, updates, i)
    if indices.shape != updates.shape or len(indices.shape) != rank:
        raise call.error(f"indices {indices.type} and updates {updates.type} do not fit")
    covers = True
    for i, (a, b) in enumerate(zip(x.shape, indices.shape)):
        if i != axis and a != b:
            covers = False
            call.require(a - b, 0, f"indices must not cover more than the data; along axis {i} that is larger by")
    n, m = x.shape[axis], indices.shape[axis]
    if m == 0:
        return x
    known = call.builder.array(indices)
    whole = product(x.shape)
    if covers and kind == "none" and known is not None and isinstance(whole, int) and whole <= MOST_PLACES:
        return _chosen(call, x, updates, _last_writer(call, checked(call, indices, n), x.shape, axis), axis)
    if not covers or not _is_few(m, FEW):
        _check_constant(call, indices, n)
        return call.emit("scatter", x, indices, updates, axis=axis, reduction=kind)
    places = checked(call, indices, n)
    every = call.reshape(places, (*places.shape[:axis], 1, *places.shape[axis:]))
    behind = rank - axis
    hit = call.emit("eq", every, positions(call, n, behind + 1))
    if kind == "none":
        writer = call.emit("where", hit, positions(call, m, behind), call.scalar(-1, I64))
        return _chosen(call, x, updates, call.emit("reduce_max", writer, axes=(axis + 1,), keepdims=False), axis)
    op, fold = FOLDS[kind]
    other = call.reshape(updates, (*updates.shape[:axis], 1, *updates.shape[axis:]))
    written = call.emit("where", hit, other, call.scalar(_neutral(kind, x.dtype), x.dtype))
    return call.emit(op, x, call.emit(f"reduce_{fold}", written, axes=(axis + 1,), keepdims=False))


def _last_writer(call: Call, places: Value, shape: Sequence[Extent], axis: int) -> Value:
    """Which update comes last to each place, -1 where none does: computed here from constant indices."""
    array: npt.NDArray[np.int64] | None = call.builder.array(places)
    assert array is not None
    out = np.full([int(n) for n in shape if isinstance(n, int)], -1, np.int64)
    for j in range(array.shape[axis]):
        np.put_along_axis(out, array.take([j], axis), j, axis)
    return call.builder.constant(out)


def _chosen(call: Call, x: Value, updates: Value, writer: Value, axis: int) -> Value:
    zero = call.scalar(0, I64)
    new = call.emit("gather_elements", updates, call.emit("max", writer, zero), axis=axis)
    return call.emit("where", call.emit("ge", writer, zero), new, x)


@row("ScatterND")
def _scatter_nd(call: Call) -> Value:
    x, indices, updates = call.x(0), call.x(1), call.x(2)
    kind, depth = _reduction(call), indices.shape[-1] if indices.shape else None
    if not isinstance(depth, int) or depth > len(x.shape):
        raise call.error(f"indices {indices.type} do not fit {x.type}")
    inner = x.shape[depth:]
    if updates.shape != (*indices.shape[:-1], *inner):
        if len(updates.shape) != len(indices.shape) - 1 + len(inner):
            raise call.error(f"updates {updates.type} do not fit {indices.type} and {x.type}")
        for a, b in zip(updates.shape, (*indices.shape[:-1], *inner)):
            check_equal(a, b)
            if a != b:
                raise call.error(f"updates {updates.type} do not fit {indices.type} and {x.type}")
    rows, count = product(x.shape[:depth]), product(indices.shape[:-1])
    if count == 0:
        return x
    place = call.reshape(_row_number(call, x, indices, depth), (count,))
    data, new = call.reshape(x, (rows, *inner)), call.reshape(updates, (count, *inner))
    known = call.builder.array(place) if kind == "none" else None
    if known is not None and isinstance(rows, int) and rows <= MOST_PLACES:
        writers = np.full(rows, -1, np.int64)
        writers[known] = np.arange(len(known))
        writer = call.builder.constant(writers)
    else:
        if not _is_few(count, FEW_ROWS if kind == "none" else FEW):
            column = call.reshape(place, (count, *(1,) * len(inner)))
            return call.reshape(call.emit("scatter", data, column, new, axis=0, reduction=kind), x.shape)
        hit = call.emit("eq", place, positions(call, rows, 2))
        if kind != "none":
            return call.reshape(_accumulated(call, data, new, hit, kind), x.shape)
        writer = call.emit("where", hit, positions(call, count, 1), call.scalar(-1, I64))
        writer = call.emit("reduce_max", writer, axes=(1,), keepdims=False)
    zero = call.scalar(0, I64)
    written = call.reshape(call.emit("ge", writer, zero), (rows, *(1,) * len(inner)))
    found = call.emit("gather", new, call.emit("max", writer, zero), axis=0)
    return call.reshape(call.emit("where", written, found, data), x.shape)


def _row_number(call: Call, x: Value, indices: Value, depth: int) -> Value:
    """The indices' last axis as one number."""
    known = call.builder.array(indices)
    if known is not None and all(isinstance(n, int) for n in x.shape[:depth]):
        columns = [checked(call, call.builder.constant(known[..., j]), x.shape[j]) for j in range(depth)]
        arrays = [call.builder.array(c) for c in columns]
        total = np.zeros(known.shape[:-1], np.int64)
        for array, n in zip(arrays, x.shape):
            assert array is not None
            assert isinstance(n, int)
            total = total * n + array
        return call.builder.constant(total)
    out: Value | None = None
    lead = indices.shape[:-1]
    for j in range(depth):
        starts, sizes = (*(0,) * len(lead), j), (*lead, 1)
        column = call.emit("slice", indices, starts=starts, sizes=sizes, steps=(1,) * len(sizes))
        column = checked(call, call.reshape(column, lead), x.shape[j])
        out = column if out is None else call.emit(
            "add", call.emit("mul", out, extent_data(call, x.shape[j])), column
        )  # fmt: skip
    return out if out is not None else call.expand(call.scalar(0, I64), lead)


def _accumulated(call: Call, data: Value, new: Value, hit: Value, kind: str) -> Value:
    op, fold = FOLDS[kind]
    rank = len(data.shape)
    hit = call.reshape(hit, (*hit.shape, *(1,) * (rank - 1)))
    written = call.emit("where", hit, new, call.scalar(_neutral(kind, data.dtype), data.dtype))
    return call.emit(op, data, call.emit(f"reduce_{fold}", written, axes=(1,), keepdims=False))


@row("TensorScatter")
def _tensor_scatter(call: Call) -> Value:
    past, update = call.x(0), call.x(1)
    rank = len(past.shape)
    axis = call.axis(int(call.attr("axis", -2)), rank)
    mode = str(call.attr("mode", "linear"))
    if axis == 0 or mode not in ("linear", "circular") or len(update.shape) != rank:
        raise call.error(f"axis {axis} and mode {mode!r} do not fit {past.type}")
    for i in range(rank):
        if i != axis:
            past, update = call.paired(past, i, update, i)
    slots, count = past.shape[axis], update.shape[axis]
    if count == 0:
        return past
    behind = rank - axis
    place = positions(call, slots, 1)
    if call.has(2):
        first = call.cast(call.x(2), I64)
        if mode == "linear":  # the last place that is written must exist
            last = call.emit("add", first, extent_data(call, count - 1))
            first = call.emit("sub", checked(call, last, slots), extent_data(call, count - 1))
        place = call.emit("sub", place, call.reshape(first, (past.shape[0], 1)))
    else:
        place = call.expand(place, (past.shape[0], slots))
    if mode == "circular":
        place = call.emit("mod", place, extent_data(call, slots))
    inside = call.emit("lt", place, extent_data(call, count))
    inside = call.emit("and", inside, call.emit("ge", place, call.scalar(0, I64)))
    place = call.emit("where", inside, place, call.scalar(0, I64))
    others = [i for i in range(1, rank) if i != axis]
    moved = call.transpose(update, (0, axis, *others))
    found = call.emit("gather_nd", moved, call.reshape(place, (*place.shape, 1)), batch_dims=1)
    back = sorted(range(rank), key=lambda i: (0, axis, *others)[i])
    mask = call.reshape(inside, (past.shape[0], *(1,) * (axis - 1), slots, *(1,) * (behind - 1)))
    return call.emit("where", mask, call.transpose(found, back), past)
