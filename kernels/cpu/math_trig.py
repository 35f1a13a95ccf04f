"""sin, cos, tan and their inverses. All compute in doubles, so the f32 functions are good to well below one ulp; where there
is FMA, math_arc.py has the inverses in floats.

Angles are reduced by multiples of pi/2 in three steps (Cody and Waite) up to 2^20, and beyond, in a loop over the lanes
that is rarely entered, by multiplying with as many bits of 2/pi as the exponent asks for (Payne and Hanek).
"""

from __future__ import annotations

import math
from functools import cache

from fusec.kernels.cpu.builder import Builder, Value, constant
from fusec.kernels.cpu.floats import Floats

# (sin(x) - x) / x^3 and (cos(x) - 1 + x^2 / 2) / x^4 in z = x^2 for |x| <= pi/4; short forms for results in f32
SIN64 = (
    -7.57870687586324e-13, 1.6058366857901593e-10, -2.5052104913865933e-08, 2.755731921420143e-06,
    -0.00019841269841255093, 0.008333333333333323, -0.16666666666666666,
)  # fmt: skip
COS64 = (
    4.738137281332176e-14, -1.147029402319788e-11, 2.087675437426393e-09, -2.755731921541997e-07,
    2.4801587301571625e-05, -0.0013888888888888874, 0.041666666666666664,
)  # fmt: skip
SIN32 = (2.718279409203774e-06, -0.0001983933174133402, 0.008333329377534764, -0.1666666664157063)
COS32 = (-2.721004564737395e-07, 2.4799518025672242e-05, -0.0013888883747641887, 0.04166666662279033)
# (asin(x) - x) / x^3 in z = x^2 for |x| <= 0.5; the short forms, here and below, are for results in f32: 6e-11 and 8e-11
# of the result
ASIN = (
    0.0326832881980006, -0.021085101362638758, 0.021767140796556308, 0.0036824003626326632, 0.010786444566649147,
    0.011397842869228741, 0.013980945906086721, 0.017351602122010014, 0.02237221549703119, 0.030381942691701885,
    0.04464285717488725, 0.07499999999970608, 0.1666666666666676,
)  # fmt: skip
ASIN32 = (
    0.030974540371280803, 0.01057441551696671, 0.0236118170088772, 0.030269138728590987, 0.04464766388813474,
    0.07499992404401838, 0.16666666686085643,
)  # fmt: skip
# (atan(x) - x) / x^3 in z = x^2 for |x| <= sqrt(2) - 1
ATAN = (
    0.01520276521986127, -0.03348253922212389, 0.04503926102839018, -0.05218505637667359, 0.05877039141945054,
    -0.06666228731779608, 0.07692282909755226, -0.09090908152213867, 0.11111111088428595, -0.14285714285392906,
    0.1999999999999772, -0.33333333333333326,
)  # fmt: skip
ATAN32 = (
    0.05048138512080742, -0.08624676145249567, 0.11071365021884737, -0.14284151193628605, 0.19999977258688384,
    -0.333333332792548,
)  # fmt: skip

# pi/2 in pieces of 33 bits, whose products with n < 2^20 are exact
_PIECES = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624871116645580e-21, 8.47842766036889956997e-32)
_FAR = 2.0**20
_PI_TAIL = 1.2246467991473532e-16  # pi - float(pi)


def sin(f: Floats, x: Value, short: bool) -> Value:
    """The sine of doubles."""
    quadrant, sine, cosine = _sine_cosine(f, x, short)
    return _turn(f, quadrant, sine, cosine)


def cos(f: Floats, x: Value, short: bool) -> Value:
    """The cosine of doubles."""
    quadrant, sine, cosine = _sine_cosine(f, x, short)
    return _turn(f, f.b.op("add", quadrant, f.i(1)), sine, cosine)


def tan(f: Floats, x: Value, short: bool) -> Value:
    """The tangent of doubles."""
    quadrant, sine, cosine = _sine_cosine(f, x, short)
    odd = _is_odd(f, quadrant)
    return f.div(f.select(odd, f.b.fneg(cosine), sine), f.select(odd, sine, cosine))


def _is_odd(f: Floats, quadrant: Value) -> Value:
    return f.b.compare("ne", f.b.op("and", quadrant, f.i(1)), f.i(0))


def _turn(f: Floats, quadrant: Value, sine: Value, cosine: Value) -> Value:
    b = f.b
    sign = b.op("shl", b.op("and", quadrant, f.i(2)), f.i(62))
    return f.real(b.op("xor", f.bits(f.select(_is_odd(f, quadrant), cosine, sine)), sign))


def _sine_cosine(f: Floats, x: Value, short: bool) -> tuple[Value, Value, Value]:
    """Quadrant (in the low bits of an integer), and sine and cosine of the angle within it."""
    shifted, angle, tail = _reduce(f, x)
    z = f.mul(angle, angle)
    cube = f.mul(z, angle)
    half = f.mul(f.c(0.5), z)
    near_one = f.sub(f.c(1.0), half)
    sine = f.fma(cube, f.polynomial(z, SIN32 if short else SIN64), f.mul(tail, near_one))
    cosine = f.mul(f.mul(z, z), f.polynomial(z, COS32 if short else COS64))
    cosine = f.add(f.sub(f.sub(f.c(1.0), near_one), half), f.sub(cosine, f.mul(angle, tail)))
    sine = f.select(f.eq(x, f.c(0.0)), x, f.add(angle, sine))  # a zero keeps its sign
    return f.bits(shifted), sine, f.add(near_one, cosine)


def _reduce(f: Floats, x: Value) -> tuple[Value, Value, Value]:
    """n + magic, and x - n pi/2 as a sum of two."""
    shifted = f.fma(x, f.c(2.0 / math.pi), f.c(f.magic))
    n = f.sub(shifted, f.c(f.magic))
    p0, p1, p2, p3 = (f.c(-p) for p in _PIECES)
    r, first = f.two_sum(f.add(x, f.mul(n, p0)), f.mul(n, p1))
    r, second = f.two_sum(r, f.mul(n, p2))
    rest = f.add(f.add(first, second), f.mul(n, p3))
    angle = f.add(r, rest)
    tail = f.add(f.sub(r, angle), rest)
    far = f.lt(f.c(_FAR), f.abs(x))
    b = f.b
    someone = far if not f.lanes else b.compare("ne", b.bitcast(far, f"i{f.lanes}"), Value(f"i{f.lanes}", "0"))

    def reduce_far() -> list[Value]:
        angles, quadrants = _reduce_lanes(b, f, x)
        finite = f.lt(f.abs(x), f.c(math.inf))
        angles = f.select(finite, angles, f.c(math.nan))
        quadrants = f.add(quadrants, f.c(f.magic))
        return [f.select(far, quadrants, shifted), f.select(far, angles, angle), f.select(far, f.c(0.0), tail)]

    shifted, angle, tail = b.when(someone, reduce_far, [shifted, angle, tail])
    return shifted, angle, tail


def _reduce_lanes(b: Builder, f: Floats, x: Value) -> tuple[Value, Value]:
    """Angle and quadrant of every lane, one after the other."""
    lanes = max(1, f.lanes)
    arguments, angles, quadrants = (b.stack("double", lanes) for _ in range(3))
    b.store(x, arguments)
    with b.loop(b.i64(0), b.i64(lanes), hint="lane") as loop:
        argument = b.load("double", b.gep(arguments, loop.index, "double"))
        places = (b.gep(p, loop.index, "double") for p in (angles, quadrants))
        b.define("fusec.far_angle", "void", [argument, *places], _write_far_angle)
    return b.load(f.type, angles), b.load(f.type, quadrants)


def _write_far_angle(b: Builder, args: tuple[Value, ...]) -> None:
    """Angle and quadrant of one double from 2^20 on: its mantissa times a window of 192 bits of 2/pi, modulo 4."""
    x, angle_at, quadrant_at = args

    def c(v: int) -> Value:
        return constant("i64", v)

    bits = b.bitcast(x, "i64")
    exponent = b.op("and", b.op("lshr", bits, c(52)), c(0x7FF))
    mantissa = b.op("or", b.op("and", bits, c((1 << 52) - 1)), c(1 << 52))
    # x = mantissa * 2^(exponent - 1075); the window's top bit is worth 2, hence everything above it a multiple of 4
    start = b.smax(b.op("sub", exponent, c(1075 - 62)), c(0))  # lanes that are near come here with the far ones
    words = b.table("two_over_pi", "i64", two_over_pi())
    place = b.gep(words, b.op("lshr", start, c(6)), "i64")
    offset = b.op("and", start, c(63))
    w = [b.load("i64", b.gep(place, c(k), "i64")) for k in range(4)]
    high, middle, low = (b.intrinsic("llvm.fshl", w[k], w[k + 1], offset) for k in range(3))
    wide = [b.op("mul", b.convert("zext", mantissa, "i128"), b.convert("zext", v, "i128")) for v in (low, middle)]
    carry = b.op("add", wide[1], b.op("lshr", wide[0], constant("i128", 64)))
    top = b.op("add", b.op("mul", mantissa, high), b.convert("trunc", b.op("lshr", carry, constant("i128", 64)), "i64"))
    quadrant = b.op("lshr", b.op("add", top, c(1 << 61)), c(62))
    fraction = b.op("sub", top, b.op("shl", quadrant, c(62)))
    product = b.convert("zext", fraction, "i192")
    for part in (b.convert("trunc", carry, "i64"), b.convert("trunc", wide[0], "i64")):
        product = b.op("or", b.op("shl", product, constant("i192", 64)), b.convert("zext", part, "i192"))
    below = b.compare("slt", fraction, c(0))
    size = b.select(below, b.op("sub", constant("i192", 0), product), product)
    total = constant("double", 0.0)
    for k in (0, 1, 2):  # smallest first
        word = b.convert("trunc", b.op("lshr", size, constant("i192", 64 * k)), "i64")
        scaled = b.op("fmul", b.convert("uitofp", word, "double"), constant("double", 2.0 ** (64 * k - 190)))
        total = b.op("fadd", total, scaled)
    angle = b.op("fmul", total, constant("double", math.pi / 2))
    minus = b.op("xor", below, b.compare("slt", bits, c(0)))
    b.store(b.select(minus, b.fneg(angle), angle), angle_at)
    turns = b.convert("sitofp", quadrant, "double")
    b.store(b.select(b.compare("slt", bits, c(0)), b.fneg(turns), turns), quadrant_at)


@cache
def two_over_pi() -> tuple[int, ...]:
    """64 zero bits and then the first 1408 bits of 2/pi, as signed words, the highest first."""
    count = 22
    one = 1 << (64 * count + 64)

    def inverse_tangent(n: int) -> int:  # of 1 / n
        total, term, k = 0, one // n, 0
        while term:
            total += (-1) ** k * (term // (2 * k + 1))
            term, k = term // (n * n), k + 1
        return total

    pi = 4 * (4 * inverse_tangent(5) - inverse_tangent(239))  # Machin
    digits = (2 * one * one // pi) >> 64
    words = [0, *(digits >> 64 * (count - 1 - k) & (1 << 64) - 1 for k in range(count))]
    return tuple(w - (1 << 64) if w >> 63 else w for w in words)


def asin(f: Floats, x: Value, short: bool) -> Value:
    """The inverse sine of doubles, NaN outside -1..1."""
    size = f.abs(x)
    outer = f.lt(f.c(0.5), size)
    z = f.select(outer, f.mul(f.c(0.5), f.sub(f.c(1.0), size)), f.mul(size, size))
    s = f.select(outer, f.sqrt(z), size)
    r = f.fma(f.mul(s, z), f.polynomial(z, ASIN32 if short else ASIN), s)
    far = f.sub(f.c(math.pi / 2), f.sub(f.add(r, r), f.c(_PI_TAIL / 2)))
    return f.copysign(f.select(outer, far, r), x)


def acos(f: Floats, x: Value, short: bool) -> Value:
    """The inverse cosine of doubles, NaN outside -1..1."""
    size = f.abs(x)
    outer = f.lt(f.c(0.5), size)
    z = f.select(outer, f.mul(f.c(0.5), f.sub(f.c(1.0), size)), f.mul(size, size))
    s = f.select(outer, f.sqrt(z), x)
    rest = f.mul(f.mul(s, z), f.polynomial(z, ASIN32 if short else ASIN))
    near = f.sub(f.c(math.pi / 2), f.add(s, f.sub(rest, f.c(_PI_TAIL / 2))))
    far = f.add(f.add(s, s), f.add(rest, rest))
    far = f.select(f.lt(x, f.c(0.0)), f.sub(f.c(math.pi), f.sub(far, f.c(_PI_TAIL))), far)
    return f.select(outer, far, near)


def atan(f: Floats, x: Value, short: bool) -> Value:
    """The inverse tangent of doubles."""
    size = f.abs(x)
    far, middle = f.lt(f.c(1.0 + math.sqrt(2.0)), size), f.lt(f.c(math.sqrt(2.0) - 1.0), size)
    top = f.select(far, f.c(-1.0), f.select(middle, f.sub(size, f.c(1.0)), size))
    bottom = f.select(far, size, f.select(middle, f.add(size, f.c(1.0)), f.c(1.0)))
    t = f.div(top, bottom)
    z = f.mul(t, t)
    base = f.select(far, f.c(math.pi / 2), f.select(middle, f.c(math.pi / 4), f.c(0.0)))
    tail = f.select(far, f.c(_PI_TAIL / 2), f.select(middle, f.c(_PI_TAIL / 4), f.c(0.0)))
    r = f.fma(f.mul(t, z), f.polynomial(z, ATAN32 if short else ATAN), tail)
    return f.copysign(f.add(base, f.add(t, r)), x)
