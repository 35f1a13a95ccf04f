"""Shorthand for writing real functions: operations on one float type, with literals and bit patterns at hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from fusec.kernels.cpu.builder import Builder, Value, constant, vector
from fusec.target import Isa


class Floats:
    """Arithmetic on values of one LLVM type, `float` or `double`, scalar or vector."""

    def __init__(self, b: Builder, isa: Isa, type_: str, lanes: int) -> None:
        self.b = b
        self.isa = isa
        self.lanes = lanes
        self.single = type_ == "float"
        self.type = vector(lanes, type_)
        self.bits_type = vector(lanes, "i32" if self.single else "i64")
        self.mantissa = 23 if self.single else 52
        self.bias = 127 if self.single else 1023
        self.magic = 1.5 * 2.0**self.mantissa
        """Adding it rounds to an integer, which then stands in the low bits."""

    @staticmethod
    def of(b: Builder, isa: Isa, x: Value) -> Floats:
        """For values like `x`."""
        return Floats(b, isa, x.element, x.lanes)

    def c(self, value: float) -> Value:
        """A literal."""
        return constant(self.type, value)

    def i(self, value: int) -> Value:
        """A literal of the integer type of the same width."""
        return constant(self.bits_type, value)

    def add(self, x: Value, y: Value) -> Value:
        """x + y."""
        return self.b.op("fadd", x, y)

    def sub(self, x: Value, y: Value) -> Value:
        """x - y."""
        return self.b.op("fsub", x, y)

    def mul(self, x: Value, y: Value) -> Value:
        """x * y."""
        return self.b.op("fmul", x, y)

    def div(self, x: Value, y: Value) -> Value:
        """x / y."""
        return self.b.op("fdiv", x, y)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x * y + z, with one rounding where the level can."""
        if self.isa.fma:
            return self.b.intrinsic("llvm.fma", x, y, z)
        return self.add(self.mul(x, y), z)

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The highest power first. Odd and even powers are two chains of Horner's scheme: half the latency of one."""
        if len(coefficients) < 5:
            return self.horner(x, coefficients)
        square = self.mul(x, x)
        even = self.horner(square, coefficients[::-1][::2][::-1])
        odd = self.horner(square, coefficients[::-1][1::2][::-1])
        return self.fma(odd, x, even)

    def horner(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The same by one chain: the latency of as many FMAs, but where terms cancel each other less is lost."""
        p = self.c(coefficients[0])
        for a in coefficients[1:]:
            p = self.fma(p, x, self.c(a))
        return p

    def abs(self, x: Value) -> Value:
        """|x|."""
        return self.b.intrinsic("llvm.fabs", x)

    def sqrt(self, x: Value) -> Value:
        """The square root."""
        return self.b.intrinsic("llvm.sqrt", x)

    def copysign(self, x: Value, sign: Value) -> Value:
        """|x| with the sign of `sign`."""
        return self.b.intrinsic("llvm.copysign", x, sign)

    def lt(self, x: Value, y: Value) -> Value:
        """x < y, False for NaN."""
        return self.b.compare("olt", x, y)

    def eq(self, x: Value, y: Value) -> Value:
        """x == y, False for NaN."""
        return self.b.compare("oeq", x, y)

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        """x where the condition holds, else y."""
        return self.b.select(condition, x, y)

    def negate(self, condition: Value) -> Value:
        """The opposite of a condition."""
        return self.b.op("xor", condition, constant(condition.type, True))

    def at_least(self, x: Value, low: float) -> Value:
        """max(x, low), NaN kept."""
        return self.select(self.lt(x, self.c(low)), self.c(low), x)

    def at_most(self, x: Value, high: float) -> Value:
        """min(x, high), NaN kept."""
        return self.select(self.lt(self.c(high), x), self.c(high), x)

    def bits(self, x: Value) -> Value:
        """The bit pattern."""
        return self.b.bitcast(x, self.bits_type)

    def real(self, bits: Value) -> Value:
        """The float of a bit pattern."""
        return self.b.bitcast(bits, self.type)

    def power_of_two(self, n: Value) -> Value:
        """2^n for an n that `magic` was added to, -bias < n <= bias."""
        return self.real(self.b.op("shl", self.b.op("add", self.bits(n), self.i(self.bias)), self.i(self.mantissa)))

    def two_sum(self, x: Value, y: Value) -> tuple[Value, Value]:
        """x + y rounded, and the exact rest."""
        s = self.add(x, y)
        z = self.sub(s, x)
        return s, self.add(self.sub(x, self.sub(s, z)), self.sub(y, z))

    def two_product(self, x: Value, y: Value) -> tuple[Value, Value]:
        """x * y rounded, and the exact rest."""
        p = self.mul(x, y)
        if self.isa.fma:
            return p, self.b.intrinsic("llvm.fma", x, y, self.b.fneg(p))
        (a, c), (d, e) = self._halves(x), self._halves(y)
        rest = self.sub(self.mul(a, d), p)
        return p, self.add(self.add(self.add(rest, self.mul(a, e)), self.mul(c, d)), self.mul(c, e))

    def _halves(self, x: Value) -> tuple[Value, Value]:
        big = self.mul(x, self.c(2.0 ** (12 if self.single else 27) + 1.0))
        high = self.sub(big, self.sub(big, x))
        return high, self.sub(x, high)


def bit_pattern(value: float, single: bool) -> int:
    """The bits of a literal of type `float` or `double`."""
    return int.from_bytes(struct.pack("<f" if single else "<d", value), "little")
