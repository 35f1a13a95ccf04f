"""Integer powers and shifts, total for every pair of arguments."""

from __future__ import annotations

from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Builder, Value, constant


def shift(b: Builder, dtype: DType, name: str, x: Value, by: Value) -> Value:
    """x << by or x >> by; by the width or more (or by a negative number) nothing of x is left but its sign."""
    bits = 8 * dtype.itemsize
    inside = b.compare("ult", by, constant(by.type, bits))
    if name == "shr" and dtype.is_signed:
        return b.op("ashr", x, b.select(inside, by, constant(by.type, bits - 1)))
    zero = constant(x.type, 0)
    moved = b.op("shl" if name == "shl" else "lshr", x, b.select(inside, by, zero))
    return b.select(inside, moved, zero)


def integer_power(b: Builder, dtype: DType, x: Value, exponent: Value) -> Value:
    """Square and multiply, wrapping; a negative exponent gives the truncated quotient 1 / x^n (0 for x = 0).

    One step per bit of the exponent's width, so small dtypes are cheap and i64 is long but rare.
    """
    zero, one = constant(x.type, 0), constant(x.type, 1)
    odd = b.compare("ne", b.op("and", exponent, one), zero)
    out, square, left = b.select(odd, x, one), x, exponent
    for _ in range(8 * dtype.itemsize - 1 - dtype.is_signed):
        square = b.op("mul", square, square)
        left = b.op("lshr", left, one)
        taken = b.compare("ne", b.op("and", left, one), zero)
        out = b.op("mul", out, b.select(taken, square, one))
    if not dtype.is_signed:
        return out
    minus = constant(x.type, -1)
    flipped = b.select(b.compare("eq", x, minus), b.select(odd, minus, one), zero)
    unit = b.select(b.compare("eq", x, one), one, flipped)
    return b.select(b.compare("slt", exponent, zero), unit, out)
