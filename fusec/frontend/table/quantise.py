"""Rows of quantised arithmetic: everything is an integer product between pointwise scaling."""

from __future__ import annotations

import numpy as np

from fusec.frontend.attributes import dtype_of
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.table.contract import matmul
from fusec.frontend.table.levels import shifted
from fusec.ir.dim import ceildiv
from fusec.ir.graph import Value
from fusec.ir.types import DType

WIDER = {DType.I4: DType.I8, DType.I2: DType.I8, DType.U4: DType.U8, DType.U2: DType.U8}
"""Dtypes that kernels cannot load -> those in which constants of them are kept."""
RANGES = {DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-32768, 32767), DType.U16: (0, 65535)}


def loadable(call: Call, i: int) -> Value | None:
    """Input `i`; a constant of less than a byte per element, or of a small float, in the next dtype that kernels load."""
    array = call.static(i) if call.has(i) else None
    dtype = None if array is None else DType.of(array.dtype)
    if array is None or dtype is None or dtype.is_native:
        return call.maybe(i)
    return call.builder.constant(array.astype(WIDER.get(dtype, DType.F32).numpy))


def needed(call: Call, i: int) -> Value:
    """The same of an input that must be there."""
    value = loadable(call, i)
    return call.x(i) if value is None else value


def along_axis(call: Call, v: Value, x: Value, default_axis: int = 1) -> Value:
    """A scale or zero point, shaped to broadcast: a scalar, one per position of an axis of `x`, or one per block of it."""
    block = int(call.attr("block_size", 0))
    if block:
        return _per_block(call, v, x, call.axis(int(call.attr("axis", default_axis)), len(x.shape)), block)
    if len(v.shape) == 0 or v.shape == (1,):
        return call.reshape(v, ())
    if len(v.shape) != 1:
        raise call.error(f"a scale or zero point of {v.type} needs block_size")
    axis = call.axis(int(call.attr("axis", default_axis)), len(x.shape))
    return call.reshape(v, (v.shape[0], *(1,) * (len(x.shape) - 1 - axis)))


def _per_block(call: Call, v: Value, x: Value, axis: int, block: int) -> Value:
    n = x.shape[axis]
    if not isinstance(n, int):
        raise NotNative(f"blocks of an axis of {n} elements")
    if len(v.shape) != len(x.shape) or block < 1 or v.shape[axis] != ceildiv(n, block):
        raise call.error(f"block_size {block} along axis {axis} of {x.type} does not fit {v.type}")
    for i, (a, b) in enumerate(zip(v.shape, x.shape)):
        if i != axis:
            check_equal(a, b)
    return call.emit("gather", v, call.builder.constant(np.arange(n) // block), axis=axis)


def saturated(call: Call, x: Value, zero_point: Value | None, to: DType) -> Value:
    """round(x) + zero point, clipped to the range of `to`."""
    if to not in RANGES:
        raise NotNative(f"quantising to {to}")
    out = call.emit("round", x)
    if zero_point is not None:
        out = call.elementwise("add", out, call.cast(zero_point, x.dtype))
    low, high = (call.scalar(float(v), x.dtype) for v in RANGES[to])
    return call.cast(call.emit("clip", out, low, high), to)


@row("QuantizeLinear")
@row("QuantizeLinear", domain="com.microsoft")
def _quantize(call: Call) -> Value:
    x, scale, zero = call.x(0), call.x(1), call.maybe(2)
    named = int(call.attr("output_dtype", 0))
    to = zero.dtype if zero is not None else dtype_of(named, call.origin[0]) if named else DType.U8
    work = x if x.dtype in (DType.F32, DType.F64) else call.cast(x, DType.F32)
    divisor = call.cast(along_axis(call, scale, x), work.dtype)
    return saturated(
        call, call.elementwise("div", work, divisor), None if zero is None else along_axis(call, zero, x), to
    )


@row("DequantizeLinear")
@row("DequantizeLinear", domain="com.microsoft")
def _dequantize(call: Call) -> Value:
    x, scale, zero = needed(call, 0), needed(call, 1), loadable(call, 2)
    named = int(call.attr("output_dtype", 0))
    to = dtype_of(named, call.origin[0]) if named else scale.dtype
    out = call.cast(x, scale.dtype)
    if zero is not None:
        out = call.elementwise("sub", out, call.cast(along_axis(call, zero, x), scale.dtype))
    return call.cast(call.elementwise("mul", out, along_axis(call, scale, x)), to)


@row("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call) -> tuple[Value, Value, Value]:
    return dynamic_quantise(call, call.x())


def dynamic_quantise(call: Call, x: Value) -> tuple[Value, Value, Value]:
    """`x` as bytes by its own range, with the scale and the zero point of that."""
    axes, zero = tuple(range(len(x.shape))), call.scalar(0.0, x.dtype)
    if not axes:
        raise NotNative("quantising a scalar")
    high = call.emit("max", call.emit("reduce_max", x, axes=axes, keepdims=False), zero)
    low = call.emit("min", call.emit("reduce_min", x, axes=axes, keepdims=False), zero)
    top = call.scalar(255.0, x.dtype)
    scale = call.emit("div", call.emit("sub", high, low), top)
    point = call.emit("clip", call.emit("round", call.emit("div", call.emit("neg", low), scale)), zero, top)
    quantised = call.emit("add", call.emit("round", call.emit("div", x, scale)), point)
    return call.cast(call.emit("clip", quantised, zero, top), DType.U8), scale, call.cast(point, DType.U8)


@row("MatMulInteger")
def _matmul_integer(call: Call) -> Value:
    a = shifted(call, call.x(0), call.maybe(2), per_row=True)
    return matmul(call, a, shifted(call, call.x(1), call.maybe(3), per_row=False), integers=True)


@row("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.x(i) for i in range(8))
    a_scale, b_scale, y_scale = (call.cast(v, DType.F32) for v in (a_scale, b_scale, y_scale))
    left, right = shifted(call, a, a_zero, per_row=True), shifted(call, b, b_zero, per_row=False)
    product = call.cast(matmul(call, left, right, integers=True), DType.F32)
    a_scale = (
        call.reshape(a_scale, (*a_scale.shape, 1)) if len(a_scale.shape) == 1 and a_scale.shape != (1,) else a_scale
    )
    factor = call.elementwise("div", call.elementwise("mul", a_scale, b_scale), y_scale)
    if len(y_zero.shape) > 1 or len(factor.shape) > len(product.shape):
        raise NotNative("scales of more dimensions than the product")
    return saturated(call, call.elementwise("mul", product, factor), y_zero, y_zero.dtype)
