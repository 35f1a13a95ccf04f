"""Rows of the quantised operators of onnxruntime: dequantised, computed in float32, quantised again."""

from __future__ import annotations

from functools import partial

import numpy as np

from fusec.frontend.call import ROWS, Call, row
from fusec.frontend.table.contract import matmul
from fusec.frontend.table.levels import shifted
from fusec.frontend.table.pool import average_pool
from fusec.frontend.table.quantise import saturated
from fusec.ir.dim import ceildiv
from fusec.ir.graph import Value
from fusec.ir.types import DType

F32 = DType.F32
MICROSOFT = "com.microsoft"


def real(call: Call, i: int) -> Value:
    """The numbers that inputs i (quantised), i + 1 (scale) and i + 2 (zero point, may be absent) stand for."""
    return _scaled(call, call.x(i), call.x(i + 1), call.maybe(i + 2))


def _scaled(call: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    out = call.cast(x, F32)
    if zero is not None:
        out = call.elementwise("sub", out, call.cast(_number(call, zero), F32))
    return call.elementwise("mul", out, _number(call, scale))


def _number(call: Call, v: Value) -> Value:
    return call.reshape(v, ()) if v.shape == (1,) else v


def quantised(call: Call, x: Value, i: int, like: DType) -> Value:
    """`x` with the scale of input i and the zero point of input i + 1, which may be absent."""
    zero = call.maybe(i + 1)
    out = call.elementwise("div", x, _number(call, call.x(i)))
    return saturated(call, out, None if zero is None else _number(call, zero), like)


def _binary(op: str, call: Call) -> Value:
    out = call.elementwise(op, real(call, 0), real(call, 3))
    return quantised(call, out, 6, call.x(0).dtype)


ROWS[MICROSOFT, "QLinearAdd"] = partial(_binary, "add")
ROWS[MICROSOFT, "QLinearMul"] = partial(_binary, "mul")


@row("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def _activation(call: Call) -> Value:
    x = real(call, 0)
    if call.op_type == "QLinearSigmoid":
        out = call.emit("sigmoid", x)
    else:
        out = call.emit("leaky_relu", x, alpha=float(call.attr("alpha", 0.01)))
    return quantised(call, out, 3, call.x(0).dtype)


@row("QLinearSoftmax", domain=MICROSOFT)
def _softmax(call: Call) -> Value:
    x = real(call, 0)
    rank = len(x.shape)
    axis = call.axis(int(call.attr("axis", -1)), rank)
    if int(call.attr("opset", 13)) >= 13 or axis == rank - 1:
        return quantised(call, call.emit("softmax", x, axis=axis), 3, call.x(0).dtype)
    from fusec.frontend.table.view import flatten_at  # the old rule flattens to a matrix first

    flat = call.emit("softmax", call.reshape(x, flatten_at(x.shape, axis)), axis=1)
    return quantised(call, call.reshape(flat, x.shape), 3, call.x(0).dtype)


@row("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MICROSOFT)
def _average(call: Call) -> Value:
    x = real(call, 0)
    rank, last = len(x.shape), bool(call.attr("channels_last", 0))
    x = call.transpose(x, (0, rank - 1, *range(1, rank - 1))) if last else x
    if call.op_type == "QLinearAveragePool":
        out = average_pool(call, x)
    else:
        out = call.emit("reduce_mean", x, axes=tuple(range(2, rank)), keepdims=True)
    out = call.transpose(out, (0, *range(2, rank), 1)) if last else out
    return quantised(call, out, 3, call.x(0).dtype)


@row("QLinearConcat", domain=MICROSOFT)
def _concat(call: Call) -> Value:
    parts = [real(call, i) for i in range(2, len(call.inputs), 3)]
    if not parts:
        raise call.error("it has no inputs")
    out = call.concat(parts, call.axis(int(call.attrs["axis"]), len(parts[0].shape)))
    return quantised(call, out, 0, call.x(2).dtype)


@row("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(call: Call) -> Value:
    """The left operand is quantised to bytes by its own range first."""
    from fusec.frontend.table.quantise import dynamic_quantise

    a, scale, zero = dynamic_quantise(call, call.x(0))
    left, right = shifted(call, a, zero, per_row=True), shifted(call, call.x(1), call.maybe(3), per_row=False)
    product = call.cast(matmul(call, left, right, integers=True), F32)
    factor = call.elementwise("mul", scale, _number(call, call.x(2)))
    out = call.elementwise("mul", product, factor)
    return call.elementwise("add", out, call.x(4)) if call.has(4) else out


@row("MatMulIntegerToFloat", domain=MICROSOFT)
def _to_float(call: Call) -> Value:
    left = shifted(call, call.x(0), call.maybe(4), per_row=True)
    right = shifted(call, call.x(1), call.maybe(5), per_row=False)
    product = call.cast(matmul(call, left, right, integers=True), F32)
    a_scale, b_scale = call.x(2), _number(call, call.x(3))
    per_row = len(a_scale.shape) == 1 and a_scale.shape != (1,)
    a_scale = call.reshape(a_scale, (*a_scale.shape, 1)) if per_row else _number(call, a_scale)
    out = call.elementwise("mul", product, call.elementwise("mul", a_scale, b_scale))
    return call.elementwise("add", out, call.x(6)) if call.has(6) else out


@row("QGemm", domain=MICROSOFT)
def _gemm(call: Call) -> Value:
    a, b = (shifted(call, call.x(i), call.maybe(i + 2), per_row=False) for i in (0, 3))
    a = call.transpose(a, (1, 0)) if call.attr("transA", 0) else a
    b = call.transpose(b, (1, 0)) if call.attr("transB", 0) else b
    total = call.integer_matmul(a, b)
    total = call.elementwise("add", total, call.x(6)) if call.has(6) else total
    factor = call.elementwise("mul", _number(call, call.x(1)), _number(call, call.x(4)))
    factor = call.elementwise("mul", factor, call.scalar(float(call.attr("alpha", 1.0)), F32))
    out = call.elementwise("mul", call.cast(total, F32), factor)
    return quantised(call, out, 7, call.x(0).dtype) if call.has(7) else out


@row("MatMulNBits", domain=MICROSOFT)
def _matmul_of_few_bits(call: Call) -> Value:
    """Weights of 2, 4 or 8 bits with a scale per block of a column, [columns, blocks, bytes of a block]."""
    from fusec.frontend.builder import NotNative

    k, n, bits, block = (int(call.attrs[name]) for name in ("K", "N", "bits", "block_size"))
    blocks = ceildiv(k, block)
    packed, zeros = call.static(1), call.static(3)
    if packed is None or (call.has(3) and zeros is None) or bits not in (2, 4, 8) or call.has(4):
        raise NotNative("weights that are not constant, of other bits, or in another order")
    if not isinstance(blocks, int) or packed.size != n * blocks * (block * bits // 8):
        raise call.error(f"weights of {packed.size} bytes for K {k}, N {n}, bits {bits}, block_size {block}")
    weights = _unpacked(packed.reshape(n, -1), bits)[:, : blocks * block].reshape(n, blocks, block)
    if zeros is None:
        point: np.ndarray = np.array(1 << (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        point = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].reshape(n, blocks, 1).astype(np.float32)
    else:
        point = zeros.reshape(n, blocks, 1).astype(np.float32)
    centred = call.builder.constant(weights.astype(np.float32) - point)
    scale = call.cast(call.reshape(call.x(2), (n, blocks, 1)), F32)
    full = call.reshape(call.emit("mul", centred, scale), (n, blocks * block))
    if blocks * block != k:
        full = call.emit("slice", full, starts=(0, 0), sizes=(n, k), steps=(1, 1))
    x = call.x(0)
    out = matmul(call, call.cast(x, F32), call.transpose(full, (1, 0)))
    out = call.elementwise("add", out, call.cast(call.x(5), F32)) if call.has(5) else out
    return call.cast(out, x.dtype)


def _unpacked(rows: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of `bits` bits, the first in the lowest bits of each byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((rows[:, :, None] >> shifts) & ((1 << bits) - 1)).reshape(len(rows), -1)
