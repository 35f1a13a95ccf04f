"""Integer functions of index polynomials (floordiv, mod, max, ...) on i64 registers, scalar or one index per lane."""

from __future__ import annotations

from fusec.errors import BugError
from fusec.ir.dim import Atom, Dim, Extent, Monomial
from fusec.kernels.cpu.builder import Builder, Value, constant, vector
from fusec.kernels.cpu.rounding import round_to_integer
from fusec.target import Isa


def as_extent(terms: list[tuple[Monomial, int]]) -> Extent:
    """The polynomial with these terms."""
    total: Extent = 0
    for mono, c in terms:
        total = total + (Dim(((mono, c),)) if mono else c)
    return total


def is_nonnegative(x: Extent) -> bool:
    """Whether a polynomial cannot be negative because every part of it is not; symbols count as not negative."""
    if isinstance(x, int):
        return x >= 0
    return all(c >= 0 and all(isinstance(a, str) or _atom_nonnegative(a) for a in mono) for mono, c in x.terms)


def _atom_nonnegative(a: Atom) -> bool:
    if a.fn == "max":
        return is_nonnegative(a.a) or is_nonnegative(a.b)
    return is_nonnegative(a.b) and (a.fn == "mod" or is_nonnegative(a.a))


def apply_function(b: Builder, isa: Isa, atom: Atom, x: Value, y: Value) -> Value:
    """An atom's function on registers. Divisors below 1 count as 1: they belong to empty loops."""
    if atom.fn in ("min", "max"):
        return b.smin(x, y) if atom.fn == "min" else b.smax(x, y)
    if not y.is_constant:
        y = b.smax(y, constant(y.type, 1))
    plain = is_nonnegative(atom.a) and is_nonnegative(atom.b)
    if atom.fn == "ceildiv":
        zero = constant(x.type, 0)
        return b.sub(zero, _floor_divide(b, isa, b.sub(zero, x), y, plain=False))
    if atom.fn == "floordiv":
        return _floor_divide(b, isa, x, y, plain)
    if atom.fn == "mod":
        if plain and not x.lanes:
            return b.op("urem", x, y)
        return b.sub(x, b.mul(_floor_divide(b, isa, x, y, plain), y))
    raise BugError(f"unknown function of dimensions: {atom.fn!r}")


def _floor_divide(b: Builder, isa: Isa, x: Value, y: Value, plain: bool) -> Value:
    if plain:
        return _divide_lanes(b, isa, x, y) if x.lanes else b.op("udiv", x, y)
    quotient = b.op("sdiv", x, y)
    rest = b.sub(x, b.op("mul", quotient, y))
    below = b.convert("sext", b.compare("slt", rest, constant(x.type, 0)), "i64")  # y > 0: the sign decides
    return b.add(quotient, below)


def _divide_lanes(b: Builder, isa: Isa, x: Value, y: Value) -> Value:
    """Indices below 2^52 through doubles: exact, and no level divides 64-bit integers by vectors.

    The quotient of two such doubles is never rounded up to an integer: it is at least 1/y below the next one.
    """
    real = vector(x.lanes, "double")
    bias, bits = constant(real, 2.0**52), constant(x.type, 0x4330 << 48)

    def widen(v: Value) -> Value:
        return b.op("fsub", b.bitcast(b.op("or", v, bits), real), bias)

    quotient = round_to_integer(b, isa, "floor", b.op("fdiv", widen(x), widen(y)))
    return b.op("xor", b.bitcast(b.op("fadd", quotient, bias), x.type), bits)
