"""Exact remainders of floats, by long division of the mantissas: as many steps as the exponents are apart."""

from __future__ import annotations

import math

from fusec.kernels.cpu.builder import Builder, Value, constant, mangle
from fusec.kernels.cpu.floats import Floats
from fusec.target import Isa


def float_remainder(b: Builder, isa: Isa, x: Value, y: Value, python: bool) -> Value:
    """C's fmod, or with `python` the remainder that has the divisor's sign."""
    r = b.define(f"fusec.rem.{mangle(x.type)}", x.type, [x, y], lambda inner, p: _remainder(inner, isa, *p))
    if not python:
        return r
    f = Floats.of(b, isa, x)
    zero = f.c(0.0)
    apart = b.op("xor", f.lt(r, zero), f.lt(y, zero))
    return f.select(f.eq(r, zero), f.copysign(zero, y), f.select(apart, f.add(r, y), r))


def _remainder(b: Builder, isa: Isa, x: Value, y: Value) -> Value:
    f = Floats.of(b, isa, x)
    size, divisor = f.abs(x), f.abs(y)
    (mx, ex), (my, ey) = _mantissa(f, size), _mantissa(f, divisor)
    gap = b.op("sub", ex, ey)
    steps = b.call(f"llvm.vector.reduce.smax.{mangle(gap.type)}", gap.element, gap) if f.lanes else gap
    steps = b.convert("sext", steps, "i64")
    one, zero = f.i(1), f.i(0)
    with b.loop(b.i64(0), steps, 1, [mx, ex], hint="digit") as loop:
        m, e = loop.carried
        rest = b.op("sub", m, my)
        fits = b.select(b.compare("sge", rest, zero), rest, m)
        active = b.compare("sgt", e, ey)
        loop.next = [b.select(active, b.op("shl", fits, one), m), b.select(active, b.op("sub", e, one), e)]
    m, e = loop.results
    rest = b.op("sub", m, my)
    m = b.select(b.compare("sge", rest, zero), rest, m)
    r = f.copysign(_assemble(f, m, e), x)
    r = f.select(f.lt(size, divisor), x, r)
    defined = b.op("and", f.lt(size, f.c(math.inf)), f.lt(f.c(0.0), divisor))  # NaN fails both
    return f.select(defined, r, f.c(math.nan))


def _mantissa(f: Floats, size: Value) -> tuple[Value, Value]:
    """Mantissa with its leading one, and biased exponent, below 1 for subnormals; rubbish for 0, inf and NaN."""
    b, bits = f.b, f.bits(size)
    exponent = b.op("lshr", bits, f.i(f.mantissa))
    lead = 1 << f.mantissa
    normal = b.op("or", b.op("and", bits, f.i(lead - 1)), f.i(lead))
    subnormal = b.compare("eq", exponent, f.i(0))
    up = _leading_zeros(f, b.select(subnormal, b.op("or", bits, f.i(1)), f.i(lead)))
    shifted = b.op("shl", bits, up)
    return b.select(subnormal, shifted, normal), b.select(subnormal, b.op("sub", f.i(1), up), exponent)


def _leading_zeros(f: Floats, m: Value) -> Value:
    """How far a mantissa is from having its leading one."""
    width = 32 if f.single else 64
    count = f.b.call(f"llvm.ctlz.{mangle(m.type)}", m.type, m, constant("i1", False))
    return f.b.op("sub", count, f.i(width - 1 - f.mantissa))


def _assemble(f: Floats, m: Value, e: Value) -> Value:
    """The float of a mantissa and a biased exponent."""
    b, one = f.b, f.i(1)
    nothing = b.compare("eq", m, f.i(0))
    up = _leading_zeros(f, b.select(nothing, f.i(1 << f.mantissa), m))
    m, e = b.op("shl", m, up), b.op("sub", e, up)
    normal = b.op("add", b.op("sub", m, f.i(1 << f.mantissa)), b.op("shl", e, f.i(f.mantissa)))
    is_normal = b.compare("sge", e, one)
    down = b.select(is_normal, f.i(0), b.op("sub", one, e))
    bits = b.select(is_normal, normal, b.op("lshr", m, down))
    return f.real(b.select(nothing, f.i(0), bits))
