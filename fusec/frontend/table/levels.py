"""Quantised numbers as levels: (x - zero point) * scale with x in bytes, and products of two of these in integers.

A product of dequantised matrices sums whole numbers, exactly, and is scaled once: rounded once where float32 rounds each
term. Convolutions of dequantised images stay in floats, where Winograd's transforms need less than half of the products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call
from fusec.ir.dim import product
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType

BYTES = (DType.I8, DType.U8)
DEEPEST = 32768
"""Products of a sum at most: each is at most 255 * 255, and int32 holds that many."""


def shifted(call: Call, x: Value, zero: Value | None, per_row: bool) -> Value:
    """`x - zero` of bytes, in as few bits as hold it for certain: those of `x`, or i16; a vector of zero points stands for
    the rows (of A) or the columns (of B)."""
    if x.dtype not in (DType.I8, DType.U8):
        raise NotNative(f"integer products of {x.dtype}")
    point = None if zero is None else call.builder.array(zero)
    if zero is None or (point is not None and not point.any()):
        return x
    if len(zero.shape) == 1 and zero.shape != (1,) and per_row:
        zero = call.reshape(zero, (zero.shape[0], 1))
    elif zero.shape == (1,):
        zero = call.reshape(zero, ())
    array = call.builder.array(x)
    if array is not None and point is not None and len(zero.shape) <= len(x.shape):
        shape = tuple(d for d in zero.shape if isinstance(d, int))
        centred = array.astype(np.int16) - point.reshape(shape).astype(np.int16)
        fits = centred.size == 0 or (centred.min() >= -128 and centred.max() <= 127)
        return call.builder.constant(centred.astype(np.int8) if fits else centred)
    return call.elementwise("sub", call.cast(x, DType.I16), call.cast(zero, DType.I16))


@dataclass(frozen=True, slots=True)
class Levels:
    """What a dequantised value was made of."""

    x: Value
    zero: Value | None
    scale: Value


def product_of_levels(call: Call, a: Value, b: Value, turn_a: bool = False, turn_b: bool = False) -> Value | None:
    """a @ b, each transposed first where asked, in integers; None where a is not dequantised with one scale and b is not a
    constant that was, with one scale or one for each column."""
    left, right = _levels(call, a), _levels(call, b)
    if left is None or right is None or call.builder.array(right.x) is None:
        return None
    if min(len(a.shape), len(b.shape)) < 2 or any(
        product(v.shape) != 1 for v in (left.scale, left.zero) if v is not None
    ):
        return None
    depth, columns = left.x.shape[-2 if turn_a else -1], right.x.shape[-2 if turn_b else -1]
    per_column = (columns, 1) if turn_b else (columns,)
    if not isinstance(depth, int) or depth > DEEPEST:
        return None
    if any(product(v.shape) != 1 and v.shape != per_column for v in (right.scale, right.zero) if v is not None):
        return None
    x = shifted(call, left.x, _number(call, left.zero), per_row=False)
    w = shifted(call, right.x, right.zero, per_row=False)
    total = call.integer_matmul(_turned(call, x) if turn_a else x, _turned(call, w) if turn_b else w)
    scale = call.reshape(right.scale, () if product(right.scale.shape) == 1 else (columns,))
    factor = call.elementwise("mul", call.reshape(left.scale, ()), scale)
    return call.elementwise("mul", call.cast(total, DType.F32), factor)


def _levels(call: Call, v: Value) -> Levels | None:
    """How a value was dequantised in float32; None where it was not."""
    scaled = call.builder.makers.get(v.name)
    if scaled is None or scaled.op != "mul" or v.dtype is not DType.F32:
        return None
    inner, scale = scaled.operands
    maker, zero = call.builder.makers.get(inner.name), None
    if maker is not None and maker.op == "sub":
        inner, point = maker.operands
        zero = _uncast(call.builder.makers.get(point.name))
        if zero is None:
            return None
        maker = call.builder.makers.get(inner.name)
    x = _uncast(maker)
    if x is None or (zero is not None and zero.dtype is not x.dtype):
        return None
    return Levels(x, zero, scale) if x.shape == v.shape else None


def _uncast(maker: Node | None) -> Value | None:
    """The bytes that a node casts."""
    if maker is None or maker.op != "cast" or maker.operands[0].dtype not in BYTES:
        return None
    return maker.operands[0]


def _number(call: Call, v: Value | None) -> Value | None:
    return None if v is None else call.reshape(v, ())


def _turned(call: Call, v: Value) -> Value:
    """The last two axes exchanged."""
    n = len(v.shape)
    return call.transpose(v, (*range(n - 2), n - 1, n - 2))
