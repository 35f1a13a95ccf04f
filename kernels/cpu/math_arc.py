"""asin, acos and atan of floats in float arithmetic: half to two thirds of the time of the doubles in math_trig.py.

What one operation rounds off is found by the next one, through an FMA or as the exact rest of a difference, and added where
the result is small: so one rounding counts, the last. Levels without FMA go through doubles.
"""

from __future__ import annotations

import math

import numpy as np

from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.floats import Floats

# best approximations (Remez exchange) relative to the functions: (asin(x) - x) / x^3 in z = x^2 for |x| <= 0.5, to 5e-9,
# and (atan(x) - x) / x^3 for |x| <= 1, to 5e-10
ASIN = (0.042211804538965225, 0.024152090772986412, 0.0454760417342186, 0.07495252043008804, 0.16666753590106964)
ATAN = (
    0.0011345221428200603, -0.007425363175570965, 0.02277761697769165, -0.04498325660824776, 0.06763648986816406,
    -0.08821462094783783, 0.11061233282089233, -0.14280343055725098, 0.1999971568584442, -0.333333283662796,
)  # fmt: skip
PI = float(np.float32(math.pi))
PI_TAIL = math.pi - PI
LEAST = 1e-20
"""A divisor in place of a root of 0, whose rest is 0."""
MOST = 2.0**60
"""The arc tangent of anything greater is that of this."""


def asin(f: Floats, x: Value) -> Value:
    """The inverse sine, NaN outside -1..1."""
    size = f.abs(x)
    outer, s, rest = _half_angle(f, size, size)
    near, lost = _difference(f, f.c(PI / 2), f.add(s, s))
    far = f.add(near, f.fma(f.c(-2.0), rest, f.add(lost, f.c(PI_TAIL / 2))))
    return f.copysign(f.select(outer, far, f.add(s, rest)), x)


def acos(f: Floats, x: Value) -> Value:
    """The inverse cosine, NaN outside -1..1."""
    outer, s, rest = _half_angle(f, f.abs(x), x)
    below = f.lt(x, f.c(0.0))
    # pi/2 - asin(x), or pi - 2 asin(...) and 0 + 2 asin(...) on the left and on the right
    sign = f.select(below, f.c(2.0), f.c(-2.0))
    factor = f.select(outer, sign, f.c(1.0))

    def from_sides(value: float) -> Value:
        return f.select(outer, f.select(below, f.c(value), f.c(0.0)), f.c(value / 2))

    near, lost = _difference(f, from_sides(PI), f.mul(factor, s))
    return f.add(near, f.fma(f.b.fneg(factor), rest, f.add(lost, from_sides(PI_TAIL))))


def _half_angle(f: Floats, size: Value, x: Value) -> tuple[Value, Value, Value]:
    """Whether |x| is over a half, and asin(x), or there asin(sqrt((1 - |x|) / 2)), as a sum of two."""
    outer = f.lt(f.c(0.5), size)
    z = f.select(outer, f.fma(size, f.c(-0.5), f.c(0.5)), f.mul(size, size))
    root = f.sqrt(z)
    lost = f.div(f.mul(f.c(0.5), f.fma(f.b.fneg(root), root, z)), f.at_least(root, LEAST))
    s = f.select(outer, root, x)
    return outer, s, f.fma(f.mul(s, z), f.polynomial(z, ASIN), f.select(outer, lost, f.c(0.0)))


def atan(f: Floats, x: Value) -> Value:
    """The inverse tangent: pi/2 less that of the reciprocal above 1."""
    size = f.at_most(f.abs(x), MOST)
    far = f.lt(f.c(1.0), size)
    inverse = f.div(f.c(1.0), size)
    t = f.select(far, inverse, size)
    z = f.mul(t, t)
    rest = f.mul(z, f.horner(z, ATAN))
    near, lost = _difference(f, f.c(PI / 2), t)
    slope = f.fma(z, f.c(-0.5), f.c(1.0))  # 1 / (1 + z), nearly
    more = f.mul(f.mul(inverse, f.fma(f.b.fneg(inverse), size, f.c(1.0))), slope)
    tail = f.add(lost, f.sub(f.c(PI_TAIL / 2), more))
    return f.copysign(f.select(far, f.add(near, f.fma(f.b.fneg(t), rest, tail)), f.fma(t, rest, t)), x)


def _difference(f: Floats, x: Value, y: Value) -> tuple[Value, Value]:
    """x - y rounded, and the exact rest, where x is 0 or at least |y|."""
    d = f.sub(x, y)
    return d, f.sub(f.sub(x, d), y)
