"""exp, log and what is made of them: tanh, sinh, cosh, asinh, acosh, atanh, erf, pow; f32 short forms and doubles.

The polynomials are best approximations (Remez exchange, 40 digits, relative error below half a unit of the type on the
reduced range), written highest power first. f32 functions without a short form of their own go through doubles.
"""

from __future__ import annotations

import math

from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.floats import Floats, bit_pattern
from fusec.kernels.cpu.rounding import round_to_integer

# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
EXP32 = (0.0013950607135527625, 0.008368946607148839, 0.041666204078401124, 0.1666651838141962, 0.5000000095703401)
EXP64 = (
    2.092701250685862e-09, 2.5112328169341694e-08, 2.755723311367418e-07, 2.7557233995904845e-06,
    2.4801587374072712e-05, 0.00019841269897284176, 0.0013888888888858235, 0.008333333333316656, 0.04166666666666673,
    0.16666666666666685, 0.5,
)  # fmt: skip
# (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)
LOG32 = (
    0.0691695412650877, -0.11789376339591887, 0.11871939553608502, -0.12384359772139414, 0.14218821112373714,
    -0.16669255624708806, 0.2000221711259338, -0.24999986379393846, 0.33333310620395334,
)  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in z = s^2, for s = f / (2 + f)
LOG64 = (
    0.1324849857649503, 0.1325048282445431, 0.15387071600811528, 0.18181776192304921, 0.22222222638711953,
    0.28571428569153867, 0.40000000000005964, 0.6666666666666666,
)  # fmt: skip
# (2 atanh(s) - 2 s - 2/3 s^3) / s^5 in z = s^2
LOG_TAIL = (
    0.1085393787028572, 0.10445140942228283, 0.1176737190624856, 0.1333328189361444, 0.15384615975613952,
    0.18181818177932121, 0.22222222222235333, 0.28571428571428553, 0.4,
)  # fmt: skip
# erf(x) / x - 1 in z = x^2 for |x| <= 0.92 and 1
ERF32 = (
    -0.0005988752578958785, 0.004993277367400431, -0.026767105044945717, 0.11281844153743917, -0.3761249813663879,
    0.12837915058667598,
)  # fmt: skip
ERF64 = (
    -7.797685989081661e-10, 1.3721137893742711e-08, -1.6208760270995594e-07, 1.6447464712183857e-06,
    -1.4924740484580211e-05, 0.0001205529510940345, -0.000854832598287394, 0.0052239776072865625, -0.02686617064326027,
    0.11283791670945159, -0.37612638903183543, 0.12837916709551256,
)  # fmt: skip
# log(erfc(x)) for 0.91 <= x <= 4
ERFC32 = (
    0.0001970833184196655, -0.0030544303570435357, 0.02227149225938093, -0.1040237830669326, -0.637077547691357,
    -1.1277375884691945, -0.0001807337707127524,
)  # fmt: skip
# e^(x^2) erfc(x) in u = (x - 2) / (x + 2) for 1 <= x <= 6
ERFC64 = (
    6.36620047916956e-07, 3.443006889135148e-06, 1.5907651398625812e-06, -1.3867803963849063e-05,
    -2.761069129814047e-05, 2.7509847272282177e-05, 0.00017436311232268275, 4.355689577602346e-05,
    -0.0009819770329175732, -0.0008471433007482422, 0.00699746173584123, 0.0037328924049550047, -0.07897858101566632,
    0.24165819424246548, -0.4271858474139586, 0.25539567631050575,
)  # fmt: skip

# ln(2) in two parts: products of the first with exponents are exact
_LN2_32 = (0.693359375, -2.1219444e-4)
_LN2_64 = (0.693147180369123816490, 1.90821492927058770002e-10)


def exp(f: Floats, x: Value, tail: Value | None = None) -> Value:
    """e^(x + tail). Arguments are clamped before scaling: what ends as 0 never passes through subnormals."""
    least, most = (-103.98, 89.0) if f.single else (-745.14, 710.0)
    dead = f.lt(x, f.c(least))
    y = f.select(dead, f.c(0.0), f.at_most(x, most))
    # 2^n in two steps, so that n may lie a little outside the exponents and results may be subnormal
    b = f.b
    if f.single:
        shifted, _, r = _reduce(f, y, 2 * f.bias)
        whole = f.bits(shifted)
        half = b.op("ashr", whole, f.i(1))
        first, second = (f.real(b.op("shl", k, f.i(f.mantissa))) for k in (half, b.op("sub", whole, half)))
    else:
        _, n, r = _reduce(f, y)
        half = f.fma(n, f.c(0.5), f.c(f.magic))
        rest = f.sub(n, f.sub(half, f.c(f.magic)))
        first, second = f.power_of_two(half), f.power_of_two(f.add(rest, f.c(f.magic)))
    p = _exp_reduced(f, r if tail is None else f.add(r, tail))
    return f.select(dead, f.c(0.0), f.mul(f.mul(p, first), second))


def exp_below(f: Floats, x: Value) -> Value:
    """e^x for x <= 0 or NaN, where results below the least normal number may be 0: the powers of a softmax."""
    return f.select(f.lt(x, f.c(-87.33)), f.c(0.0), exp_within(f, x)) if f.single else exp(f, x)


def exp_beside_one(f: Floats, x: Value) -> Value:
    """e^x that is added to 1 and divided by: the least normal number below that, infinite from 2^127.5 on."""
    return exp_within(f, f.at_least(f.at_most(x, 89.0), -87.33)) if f.single else exp(f, x)


def exp_within(f: Floats, x: Value) -> Value:
    """e^x of floats where that is a normal number; NaN for NaN, infinite up to e^89, elsewhere something."""
    shifted, _, r = _reduce(f, x, f.bias)
    return f.mul(_exp_reduced(f, r), f.real(f.b.op("shl", f.bits(shifted), f.i(f.mantissa))))


def _exp_reduced(f: Floats, r: Value) -> Value:
    """e^r for |r| <= ln(2) / 2."""
    return f.add(f.fma(f.polynomial(r, EXP32 if f.single else EXP64), f.mul(r, r), r), f.c(1.0))


def _reduce(f: Floats, y: Value, bias: int = 0) -> tuple[Value, Value, Value]:
    """n + bias + magic, n and r with y = n ln(2) + r: with the right bias the first is an exponent as it stands."""
    magic = f.c(f.magic + bias)
    shifted = f.fma(y, f.c(1.4426950408889634), magic)
    n = f.sub(shifted, magic)
    high, low = _LN2_32 if f.single else _LN2_64
    minus = f.b.fneg(n)
    return shifted, n, f.fma(minus, f.c(low), f.fma(minus, f.c(high), y))


def expm1(f: Floats, x: Value) -> Value:
    """e^x - 1 for x in -40..709, of floats in -17..88."""
    shifted, _, r = _reduce(f, x, f.bias)
    p = f.fma(f.polynomial(r, EXP32 if f.single else EXP64), f.mul(r, r), r)
    scale = f.real(f.b.op("shl", f.bits(shifted), f.i(f.mantissa)))
    return f.fma(scale, p, f.sub(scale, f.c(1.0)))


def _split(f: Floats, x: Value) -> tuple[Value, Value]:
    """Exponent k and f with x = 2^k (1 + f), 1 + f within sqrt(1/2)..sqrt(2), for positive finite x."""
    b = f.b
    least = 2.0 ** (1 - f.bias)
    tiny = f.lt(x, f.c(least))
    x = f.select(tiny, f.mul(x, f.c(2.0**f.mantissa)), x)
    root = bit_pattern(math.sqrt(0.5), f.single)
    moved = b.op("add", f.bits(x), f.i(bit_pattern(1.0, f.single) - root))
    mantissa = b.op("add", b.op("and", moved, f.i((1 << f.mantissa) - 1)), f.i(root))
    # the exponent becomes a float by standing in the low bits of 2^mantissa
    plain = 2.0**f.mantissa
    digits = b.op("or", b.op("lshr", moved, f.i(f.mantissa)), f.i(bit_pattern(plain, f.single)))
    offset = f.select(tiny, f.c(plain + f.bias + f.mantissa), f.c(plain + f.bias))
    return f.sub(f.real(digits), offset), f.sub(f.real(mantissa), f.c(1.0))


def log(f: Floats, x: Value) -> Value:
    """The natural logarithm: NaN below 0, -inf at 0."""
    k, m = _split(f, x)
    half = f.mul(f.c(0.5), f.mul(m, m))
    if f.single:
        high, low = _LN2_32
        r = f.mul(f.mul(f.mul(m, m), m), f.polynomial(m, LOG32))
        r = f.add(m, f.sub(f.fma(k, f.c(low), r), half))
    else:
        high, low = _LN2_64
        s = f.div(m, f.add(f.c(2.0), m))
        z = f.mul(s, s)
        r = f.mul(z, f.polynomial(z, LOG64))
        r = f.sub(m, f.sub(half, f.fma(s, f.add(half, r), f.mul(k, f.c(low)))))
    r = f.fma(k, f.c(high), r)
    r = f.select(f.lt(x, f.c(math.inf)), r, x)
    r = f.select(f.lt(x, f.c(0.0)), f.c(math.nan), r)
    return f.select(f.eq(x, f.c(0.0)), f.c(-math.inf), r)


def log1p(f: Floats, x: Value) -> Value:
    """log(1 + x) of doubles: what the rounding of 1 + x lost is added to the first order."""
    u = f.add(f.c(1.0), x)
    lost = f.sub(x, f.sub(u, f.c(1.0)))
    r = f.add(log(f, u), f.div(lost, u))
    return f.select(f.lt(u, f.c(math.inf)), f.select(f.eq(u, f.c(0.0)), f.c(-math.inf), r), u)


def tanh(f: Floats, x: Value) -> Value:
    """The hyperbolic tangent."""
    size = f.abs(x)
    t = expm1(f, f.at_most(f.add(size, size), 18.1 if f.single else 44.0))
    return f.copysign(f.div(t, f.add(t, f.c(2.0))), x)


def erf(f: Floats, x: Value) -> Value:
    """The error function."""
    size, z = f.abs(x), f.mul(x, x)
    small = f.fma(f.polynomial(z, ERF32 if f.single else ERF64), x, x)
    if f.single:
        rest = exp_within(f, f.polynomial(f.at_most(size, 4.0), ERFC32))
        border = 0.92
    else:
        t = f.at_most(size, 6.0)
        u = f.div(f.sub(t, f.c(2.0)), f.add(t, f.c(2.0)))
        rest = f.mul(exp(f, f.b.fneg(f.mul(t, t))), f.polynomial(u, ERFC64))
        border = 1.0
    large = f.copysign(f.sub(f.c(1.0), rest), x)
    return f.select(f.lt(size, f.c(border)), small, large)


def sinh(f: Floats, x: Value) -> Value:
    """The hyperbolic sine of doubles."""
    size = f.abs(x)
    t = expm1(f, f.at_most(size, 40.0))
    small = f.mul(f.c(0.5), f.add(t, f.div(t, f.add(t, f.c(1.0)))))
    return f.copysign(f.select(f.lt(f.c(36.0), size), _half_exp(f, size), small), x)


def cosh(f: Floats, x: Value) -> Value:
    """The hyperbolic cosine of doubles."""
    size = f.abs(x)
    e = exp(f, f.at_most(size, 40.0))
    small = f.fma(f.c(0.5), e, f.div(f.c(0.5), e))
    return f.select(f.lt(f.c(36.0), size), _half_exp(f, size), small)


def _half_exp(f: Floats, x: Value) -> Value:
    """e^x / 2 where e^x alone may overflow."""
    root = exp(f, f.mul(f.c(0.5), x))
    return f.mul(f.mul(f.c(0.5), root), root)


def asinh(f: Floats, x: Value) -> Value:
    """The inverse hyperbolic sine of doubles."""
    size = f.abs(x)
    t = f.at_most(size, 2.0**30)
    z = f.mul(t, t)
    small = log1p(f, f.add(t, f.div(z, f.add(f.c(1.0), f.sqrt(f.add(f.c(1.0), z))))))
    large = f.add(log(f, size), f.c(math.log(2.0)))
    return f.copysign(f.select(f.lt(size, f.c(2.0**30)), small, large), x)


def acosh(f: Floats, x: Value) -> Value:
    """The inverse hyperbolic cosine of doubles, NaN below 1."""
    t = f.sub(f.at_most(x, 2.0**30), f.c(1.0))
    small = log1p(f, f.add(t, f.sqrt(f.fma(t, t, f.add(t, t)))))
    large = f.add(log(f, x), f.c(math.log(2.0)))
    r = f.select(f.lt(x, f.c(2.0**30)), small, large)
    return f.select(f.lt(x, f.c(1.0)), f.c(math.nan), r)


def atanh(f: Floats, x: Value) -> Value:
    """The inverse hyperbolic tangent of doubles, NaN outside -1..1."""
    size = f.abs(x)
    twice = f.add(size, size)
    r = f.mul(f.c(0.5), log1p(f, f.div(twice, f.sub(f.c(1.0), size))))
    return f.select(f.lt(f.c(1.0), size), f.c(math.nan), f.copysign(r, x))


def log_pair(f: Floats, x: Value) -> tuple[Value, Value]:
    """log(x) of positive finite doubles as a sum of two, good to about 2^-64."""
    k, m = _split(f, x)
    c = f.c
    below = f.add(f.add(m, c(1.0)), c(1.0))  # 2 + m, and what rounding took
    lost = f.sub(m, f.sub(below, c(2.0)))
    s = f.div(m, below)
    p, e = f.two_product(s, below)
    rest = f.sub(f.sub(f.sub(m, p), e), f.mul(s, lost))
    t = f.div(rest, below)
    z, zt = f.two_product(s, s)
    zt = f.fma(f.add(s, s), t, zt)
    cube, ct = f.two_product(s, z)
    ct = f.add(ct, f.fma(s, zt, f.mul(t, z)))
    third = 2.0 / 3.0
    q, qt = f.two_product(cube, c(third))
    qt = f.add(qt, f.fma(cube, c(3.700743415417188e-17), f.mul(ct, c(third))))
    qt = f.fma(f.mul(cube, z), f.polynomial(z, LOG_TAIL), qt)
    high, low = _LN2_64
    a, at = f.two_sum(f.mul(k, c(high)), f.add(s, s))
    at = f.add(at, f.fma(k, c(low), f.add(t, t)))
    a, bt = f.two_sum(a, q)
    tail = f.add(f.add(bt, at), qt)
    return _renormalise(f, a, tail)


def _renormalise(f: Floats, a: Value, tail: Value) -> tuple[Value, Value]:
    total = f.add(a, tail)
    return total, f.add(f.sub(a, total), tail)


def power(f: Floats, x: Value, y: Value, exact: bool) -> Value:
    """x^y of doubles by IEEE's rules; `exact` carries the logarithm in two parts, which results in f32 do not need."""
    b, c, size = f.b, f.c, f.abs(x)
    if exact:
        log_high, log_low = log_pair(f, size)
        bounded = f.at_least(f.at_most(y, 2.0**64), -(2.0**64))  # any more gives 0 or inf, or 1 where x is 1
        p, e = f.two_product(bounded, log_high)
        tail = f.fma(bounded, log_low, e)
        r = exp(f, p, f.select(f.lt(f.abs(p), c(800.0)), tail, c(0.0)))
    else:
        r = exp(f, f.mul(y, log(f, size)))
    zero, infinite = f.eq(size, c(0.0)), f.eq(size, c(math.inf))
    goes_up = b.op("xor", zero, f.lt(c(0.0), y))
    r = f.select(b.op("or", zero, infinite), f.select(goes_up, c(math.inf), c(0.0)), r)
    r = f.select(b.op("or", b.compare("uno", x, x), b.compare("uno", y, y)), c(math.nan), r)
    integer, odd = _parity(f, y)
    sign = b.op("and", f.bits(x), f.i(-(1 << 63)))
    r = f.select(odd, f.real(b.op("xor", f.bits(r), sign)), r)
    below = b.op("and", f.lt(x, c(0.0)), f.lt(size, c(math.inf)))
    refused = b.op("and", below, f.negate(integer))
    r = f.select(refused, c(math.nan), r)
    flat = b.op("and", f.eq(size, c(1.0)), f.eq(f.abs(y), c(math.inf)))
    one = b.op("or", b.op("or", f.eq(x, c(1.0)), f.eq(y, c(0.0))), flat)
    return f.select(one, c(1.0), r)


def _parity(f: Floats, y: Value) -> tuple[Value, Value]:
    """Whether y is an integer (infinities are), and whether an odd one."""
    integer = f.eq(round_to_integer(f.b, f.isa, "trunc", y), y)
    half = f.mul(y, f.c(0.5))
    whole_half = f.eq(round_to_integer(f.b, f.isa, "trunc", half), half)
    return integer, f.b.op("and", integer, f.negate(whole_half))
