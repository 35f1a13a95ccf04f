"""Rows of ops that choose elements by index."""

from __future__ import annotations

from fusec.frontend.attributes import dtype_of
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.known import Known, is_at_least, is_equal
from fusec.frontend.table.view import check_size
from fusec.ir.dim import Extent, product
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType


@row("Gather")
def _gather(call: Call) -> Value:
    x, indices = call.x(0), call.x(1)
    return call.emit("gather", x, indices, axis=call.axis(int(call.attr("axis", 0)), len(x.shape)))


@row("GatherElements")
def _gather_elements(call: Call) -> Value:
    x, indices = call.x(0), call.x(1)
    axis = call.axis(int(call.attr("axis", 0)), len(x.shape))
    for i, (a, b) in enumerate(zip(x.shape, indices.shape)):
        if i != axis and is_at_least(a, b) is not True:
            raise NotNative("indices that may be larger than the data")
    return call.emit("gather_elements", x, indices, axis=axis)


@row("GatherND")
def _gather_nd(call: Call) -> Value:
    x, indices = call.x(0), call.x(1)
    batch = int(call.attr("batch_dims", 0))
    for a, b in zip(x.shape[:batch], indices.shape[:batch]):
        check_equal(a, b)
    return call.emit("gather_nd", x, indices, batch_dims=batch)


@row("OneHot")
def _one_hot(call: Call) -> Value:
    indices, values = call.x(0), call.x(2)
    depth = _depth(call)
    if is_at_least(depth, 0) is False:
        raise call.error(f"depth is {depth}")
    if is_equal(product(values.shape), 2) is False:
        raise call.error(f"values must be two numbers, got {values.type}")
    rank = len(indices.shape)
    axis = call.axis(int(call.attr("axis", -1)), rank + 1)
    wide = call.cast(indices, DType.I64)
    size = call.builder.data(Known(DType.I64, (), (depth,)), call.origin)
    negative = call.emit("lt", wide, call.scalar(0, DType.I64))
    wide = call.emit("where", negative, call.emit("add", wide, size), wide)
    shape: list[Extent] = list(wide.shape)
    check_size(call, TensorType(values.dtype, (*shape[:axis], depth, *shape[axis:])))
    shape.insert(axis, 1)
    column = call.reshape(wide, shape)
    classes = call.emit("iota", size=depth, start=0, step=1, dtype=DType.I64)
    classes = call.reshape(classes, (depth, *(1,) * (rank - axis)))
    off, on = (call.reshape(_element(call, values, i), ()) for i in (0, 1))
    return call.emit("where", call.elementwise("eq", column, classes), on, off)


def _depth(call: Call) -> Extent:
    given = call.static(1)
    if given is not None and given.size == 1:
        return int(given.reshape(()).item())  # some models have it as a float
    (depth,) = call.extents(1)
    return depth


def _element(call: Call, x: Value, i: int) -> Value:
    return call.emit("slice", x, starts=(i,), sizes=(1,), steps=(1,))


def positions(call: Call, size: Extent, axis_from_end: int, start: Extent = 0) -> Value:
    """0, 1, ... along an axis counted from the end, shaped to broadcast."""
    line = call.emit("iota", size=size, start=start, step=1, dtype=DType.I64)
    return call.reshape(line, (size, *(1,) * (axis_from_end - 1)))


@row("Trilu")
def _trilu(call: Call) -> Value:
    x = call.x(0)
    if len(x.shape) < 2:
        raise call.error(f"needs a matrix, got {x.type}")
    rows = positions(call, x.shape[-2], 2)
    columns = positions(call, x.shape[-1], 1)
    if call.has(1):
        k = call.static(1)
        offset = call.reshape(call.x(1), ()) if k is None else call.scalar(int(k), DType.I64)
        rows = call.emit("add", rows, offset)
    test = "ge" if call.attr("upper", 1) else "le"
    return call.emit("where", call.emit(test, columns, rows), x, call.scalar(0, x.dtype))


@row("EyeLike")
def _eye_like(call: Call) -> Value:
    t = call.type(0)
    if len(t.dims) != 2:
        raise call.error(f"needs a matrix, got {t}")
    dtype = dtype_of(int(call.attrs["dtype"]), call.origin[0]) if "dtype" in call.attrs else t.dtype
    if not dtype.is_native:
        raise NotNative(f"kernels cannot make {dtype}")
    rows, columns = positions(call, t.dims[0], 2, int(call.attr("k", 0))), positions(call, t.dims[1], 1)
    return call.cast(call.emit("eq", rows, columns), dtype)
