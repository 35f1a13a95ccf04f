"""The row of onnxruntime's DynamicQuantizeLSTM: weights are bytes, inputs and states are rounded to 256 levels on the way.

Products of levels and of weights without their zero points are whole numbers, which are summed in int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.table.levels import shifted
from fusec.frontend.table.recurrent import (
    INITIAL_C,
    INITIAL_H,
    PEEPHOLES,
    directions_of,
    functions_of,
    initial,
    part_of,
    states_of,
    whole,
)
from fusec.ir.graph import Value
from fusec.ir.types import DType

W_SCALE, W_ZERO, R_SCALE, R_ZERO = 8, 9, 10, 11


@row("DynamicQuantizeLSTM", domain="com.microsoft")
def _quantised_lstm(call: Call) -> tuple[Value | None, ...]:
    x, w, r = call.x(0), call.x(1), call.x(2)
    reverse = directions_of(call)
    functions = functions_of(call, len(reverse))
    if len(x.shape) != 3 or len(w.shape) != 3 or len(r.shape) != 3 or not isinstance(r.shape[1], int):
        raise NotNative("sizes that are not known")
    (steps, batch, inner), hidden, ways = x.shape, r.shape[1], len(reverse)
    width = 4 * hidden
    for name, v, wanted in (("W", w, (ways, inner, width)), ("R", r, (ways, hidden, width))):
        if v.shape != wanted:
            raise call.error(f"input {name} is {v.type}, wanted {list(wanted)} (direction and R say so)")
    rounded, size = _levels(call, call.reshape(x, (steps * batch, inner)))
    matrix = _side_by_side(call, [_whole_numbers(call, w, W_ZERO, d, width) for d in range(ways)])
    scale = call.concat([_scales(call, W_SCALE, d, width) for d in range(ways)], 0)
    sums = call.cast(call.integer_matmul(call.cast(rounded, DType.I16), matrix), DType.F32)
    projected = call.emit("mul", sums, call.emit("mul", scale, size))
    if (b := call.maybe(3)) is not None:
        halves = [
            call.emit("slice", b, starts=(0, at), sizes=(ways, width), steps=(1, 1)) for at in (0, width)
        ]  # fmt: skip
        projected = call.elementwise("add", projected, call.reshape(call.emit("add", *halves), (ways * width,)))
    projected = call.reshape(projected, (steps, batch, ways * width))
    made = []
    for d in range(ways):
        weights = call.reshape(_whole_numbers(call, r, R_ZERO, d, width), (hidden, 4, hidden))
        peepholes = call.maybe(PEEPHOLES)
        inputs = (
            projected,
            call.transpose(weights, (1, 0, 2)),
            initial(call, d, INITIAL_H),
            initial(call, d, INITIAL_C),
            None if peepholes is None else part_of(call, peepholes, d, (3, hidden)),
            call.maybe(4),
            call.reshape(_scales(call, R_SCALE, d, width), (4, hidden)),
        )
        made.append(
            call.builder.emit_all(
                "lstm",
                inputs,
                call.origin,
                part=d,
                reverse=reverse[d],
                activations=functions[d],
                clip=float(call.attr("clip", 0.0)),
                input_forget=bool(call.attr("input_forget", 0)),
            )
        )
    states = [states_of(call, [m[s] for m in made], 0) for s in (1, 2)]
    return (whole(call, [m[0] for m in made], 0) if call.wants(0) else None, *states)


def _levels(call: Call, x: Value) -> tuple[Value, Value]:
    """(levels of x counted from that of 0, the distance of two), as floats; the distance is 1 where x is all zeros."""
    zero, top = call.scalar(0.0, x.dtype), call.scalar(255.0, x.dtype)
    high = call.emit("max", call.emit("reduce_max", x, axes=(0, 1), keepdims=False), zero)
    low = call.emit("min", call.emit("reduce_min", x, axes=(0, 1), keepdims=False), zero)
    size = call.emit("div", call.emit("sub", high, low), top)
    size = call.emit("where", call.emit("eq", high, low), call.scalar(1.0, x.dtype), size)
    point = call.emit("clip", call.emit("round", call.emit("div", call.emit("neg", low), size)), zero, top)
    level = call.emit("add", call.emit("round", call.emit("div", x, size)), point)
    return call.emit("sub", call.emit("clip", level, zero, top), point), size


def _whole_numbers(call: Call, v: Value, zero: int, d: int, width: int) -> Value:
    """The matrix of a direction without its zero points, in as few bits as hold it for certain."""
    matrix, point = call.builder.array(v), call.builder.array(call.x(zero))
    if matrix is None or point is None:
        return shifted(call, part_of(call, v, d, v.shape[1:]), _scales(call, zero, d, width), per_row=False)
    part = call.builder.constant(np.ascontiguousarray(matrix[d]))
    return shifted(call, part, call.builder.constant(np.broadcast_to(point[d], (width,)).copy()), per_row=False)


def _side_by_side(call: Call, matrices: Sequence[Value]) -> Value:
    """Matrices of short integers joined along their columns."""
    dtypes = {m.dtype for m in matrices}
    return call.concat([m if len(dtypes) == 1 else call.cast(m, DType.I16) for m in matrices], 1)


def _scales(call: Call, which: int, d: int, width: int) -> Value:
    """Scales or zero points of a direction, one per column."""
    v = call.x(which)
    if len(v.shape) == 2 and v.shape[1] == width:
        return part_of(call, v, d, (width,))
    if len(v.shape) != 1:
        raise NotNative(f"scales or zero points of {v.type}")
    return call.expand(part_of(call, v, d, (1,)), (width,))
