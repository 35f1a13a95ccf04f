"""Primitives of scalar expressions on registers: one value or a vector of them, every native dtype, every instruction level.

In registers f16 and bf16 are floats that were rounded to their narrow format, bool is i1; in memory they are two bytes
and one byte. Nothing here calls a library: what a level lacks (rounding and half precision on SSE2, float remainders
everywhere) is spelled out in integer and float instructions.
"""

from __future__ import annotations

from functools import partial

from fusec.errors import BugError
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Builder, Value, constant, mangle, vector
from fusec.kernels.cpu.floats import Floats
from fusec.kernels.cpu.math_exp import exp_below, exp_beside_one
from fusec.kernels.cpu.math_integer import integer_power, shift
from fusec.kernels.cpu.math_real import REAL_FUNCTIONS, real_function, real_power
from fusec.kernels.cpu.math_remainder import float_remainder
from fusec.kernels.cpu.powers import BELOW, BESIDE
from fusec.kernels.cpu.rounding import round_to_integer
from fusec.target import Isa

_NARROW = (DType.F16, DType.BF16)
_REGISTER = {
    DType.F64: "double", DType.F32: "float", DType.F16: "float", DType.BF16: "float", DType.I64: "i64", DType.U64: "i64",
    DType.I32: "i32", DType.U32: "i32", DType.I16: "i16", DType.U16: "i16", DType.I8: "i8", DType.U8: "i8",
    DType.BOOL: "i1",
}  # fmt: skip
_MEMORY = _REGISTER | {DType.F16: "i16", DType.BF16: "i16", DType.BOOL: "i8"}
_INEXACT = frozenset("add sub mul div floordiv mod rem sqrt".split()) | REAL_FUNCTIONS | {"pow", BELOW, BESIDE}


def register_type(dtype: DType, lanes: int = 0) -> str:
    """The LLVM type of a dtype's values in registers."""
    return vector(lanes, _REGISTER[dtype])


def memory_type(dtype: DType, lanes: int = 0) -> str:
    """The LLVM type of a dtype's elements in memory."""
    return vector(lanes, _MEMORY[dtype])


def literal(dtype: DType, value: float | int | bool, lanes: int = 0) -> Value:
    """A literal as it stands in registers; narrow floats are rounded here."""
    if dtype in _NARROW:
        import numpy as np

        with np.errstate(all="ignore"):
            value = float(np.asarray(value).astype(dtype.numpy))
    return constant(register_type(dtype, lanes), float(value) if dtype.is_float else value)


class Arithmetic:
    """Emits primitives into a builder for one instruction level."""

    def __init__(self, builder: Builder, isa: Isa) -> None:
        self.b = builder
        self.isa = isa
        self.has_half = isa.name != "generic"

    # ---- memory formats

    def from_memory(self, x: Value, dtype: DType) -> Value:
        """Memory format to register format."""
        b = self.b
        if dtype is DType.BOOL:
            return b.compare("ne", x, constant(x.type, 0))
        if dtype is DType.BF16:
            wide = b.convert("zext", x, "i32")
            return b.bitcast(b.op("shl", wide, constant(wide.type, 16)), vector(x.lanes, "float"))
        if dtype is DType.F16:
            return self._half_to_float(x)
        return x

    def to_memory(self, x: Value, dtype: DType) -> Value:
        """Register format to memory format; exact, because registers hold rounded values."""
        b = self.b
        if dtype is DType.BOOL:
            return b.convert("zext", x, "i8")
        if dtype is DType.BF16:
            bits = b.bitcast(x, vector(x.lanes, "i32"))
            return b.convert("trunc", b.op("lshr", bits, constant(bits.type, 16)), "i16")
        if dtype is DType.F16:
            return self._float_to_half(x)
        return x

    def round_to(self, x: Value, dtype: DType) -> Value:
        """A float rounded half-to-even to f16 or bf16, as a float again."""
        if dtype is DType.F16:
            return self._half_to_float(self._float_to_half(x))
        b = self.b
        bits = b.bitcast(x, vector(x.lanes, "i32"))
        c = partial(constant, bits.type)
        odd = b.op("and", b.op("lshr", bits, c(16)), c(1))
        up = b.op("add", b.op("add", bits, odd), c(0x7FFF))
        quiet = b.op("or", bits, c(0x400000))
        kept = b.select(b.compare("uno", x, x), quiet, up)
        return b.bitcast(b.op("and", kept, c(-65536)), x.type)

    def _half_to_float(self, x: Value) -> Value:
        b = self.b
        if self.has_half:
            return b.convert("fpext", b.bitcast(x, vector(x.lanes, "half")), "float")
        h = b.convert("zext", x, "i32")
        c = partial(constant, h.type)
        magnitude = b.op("and", h, c(0x7FFF))
        sign = b.op("shl", b.op("and", h, c(0x8000)), c(16))
        normal = b.op("add", b.op("shl", magnitude, c(13)), c(112 << 23))
        special = b.op("add", normal, c(112 << 23))
        tiny = b.op("fmul", b.convert("sitofp", magnitude, "float"), constant(vector(x.lanes, "float"), 2.0**-24))
        bits = b.select(b.compare("uge", magnitude, c(0x7C00)), special, normal)
        bits = b.select(b.compare("ult", magnitude, c(0x0400)), b.bitcast(tiny, h.type), bits)
        return b.bitcast(b.op("or", bits, sign), vector(x.lanes, "float"))

    def _float_to_half(self, x: Value) -> Value:
        b = self.b
        if self.has_half:
            return b.bitcast(b.convert("fptrunc", x, "half"), vector(x.lanes, "i16"))
        bits = b.bitcast(x, vector(x.lanes, "i32"))
        c = partial(constant, bits.type)
        sign = b.op("and", bits, c(-(1 << 31)))
        u = b.op("xor", bits, sign)
        # below the least normal half, adding a float whose last bit weighs one half-subnormal rounds as wanted
        magic = (127 - 15 + 23 - 10 + 1) << 23
        small = b.op("fadd", b.bitcast(u, x.type), b.bitcast(c(magic), x.type))
        tiny = b.op("sub", b.bitcast(small, bits.type), c(magic))
        odd = b.op("and", b.op("lshr", u, c(13)), c(1))
        normal = b.op("lshr", b.op("add", b.op("add", u, c(((15 - 127) << 23) + 0xFFF)), odd), c(13))
        special = b.select(b.compare("ugt", u, c(0x7F800000)), c(0x7E00), c(0x7C00))
        h = b.select(b.compare("ult", u, c(113 << 23)), tiny, normal)
        h = b.select(b.compare("uge", u, c((127 + 16) << 23)), special, h)
        return b.convert("trunc", b.op("or", h, b.op("lshr", sign, c(16))), "i16")

    # ---- primitives

    def apply(self, name: str, dtype: DType, args: tuple[Value, ...], result: DType) -> Value:
        """A primitive on arguments of `dtype` (of the last ones, for `where`), all of the same number of lanes."""
        if name == "where":
            return self.b.select(*args)
        if name == "cast":
            return self.cast(args[0], dtype, result)
        if name == "bits":
            return self.b.bitcast(args[0], vector(args[0].lanes, f"i{8 * result.itemsize}"))
        if dtype.is_float:
            out = self._float(name, args)
            return self.round_to(out, dtype) if dtype in _NARROW and name in _INEXACT else out
        if dtype is DType.BOOL:
            return self._bool(name, args)
        return self._integer(name, dtype, args)

    def fma(self, a: Value, c: Value, d: Value) -> Value:
        """a * c + d: one rounding where the level has the instruction, two elsewhere."""
        if self.isa.fma:
            return self.b.intrinsic("llvm.fma", a, c, d)
        return self.b.op("fadd", self.b.op("fmul", a, c), d)

    def _float(self, name: str, args: tuple[Value, ...]) -> Value:
        b, x = self.b, args[0]
        match name:
            case "add" | "sub" | "mul" | "div":
                return b.op("f" + name, x, args[1])
            case "neg":
                return b.fneg(x)
            case "abs":
                return b.intrinsic("llvm.fabs", x)
            case "sqrt":
                return b.intrinsic("llvm.sqrt", x)
            case "max" | "min":
                return self._extreme("ogt" if name == "max" else "olt", x, args[1])
            case "floor" | "ceil" | "round" | "trunc":
                return round_to_integer(b, self.isa, name, x)
            case "floordiv":
                return round_to_integer(b, self.isa, "floor", b.op("fdiv", x, args[1]))
            case "rem" | "mod":
                return float_remainder(b, self.isa, x, args[1], python=name == "mod")
            case "pow":
                return real_power(b, self.isa, x, args[1])
            case "isnan":
                return b.compare("uno", x, x)
            case "isinf":
                return b.compare("oeq", b.intrinsic("llvm.fabs", x), constant(x.type, float("inf")))
            case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
                return b.compare(("u" if name == "ne" else "o") + name, x, args[1])
        if name in (BELOW, BESIDE):
            return (exp_below if name == BELOW else exp_beside_one)(Floats.of(b, self.isa, x), x)
        if name in REAL_FUNCTIONS:
            return real_function(b, self.isa, name, x)
        raise BugError(f"{name} of floats")

    def _extreme(self, better: str, x: Value, y: Value) -> Value:
        """The better one, NaN where either is NaN. One instruction where a side is a literal other than NaN."""
        if y.is_constant and not x.is_constant:
            x, y = y, x
        best = self.plain_extreme(better, x, y)
        # a literal, not x itself: LLVM would make one select of two, with four instructions instead of three
        return best if _is_number(x) else self.nan_where(self.b.compare("uno", x, x), best)

    def plain_extreme(self, better: str, x: Value, y: Value) -> Value:
        """The better one (`ogt` or `olt`) by one instruction, maxps or minps: y where either is NaN."""
        return self.b.select(self.b.compare(better, x, y), x, y)

    def nan_where(self, condition: Value, x: Value) -> Value:
        """NaN where the condition holds, else x."""
        return self.b.select(condition, constant(x.type, float("nan")), x)

    def _bool(self, name: str, args: tuple[Value, ...]) -> Value:
        b, x = self.b, args[0]
        match name:
            case "and" | "min" | "mul" | "bitand":
                return b.op("and", x, args[1])
            case "or" | "max" | "add" | "bitor":
                return b.op("or", x, args[1])
            case "xor" | "ne" | "bitxor":
                return b.op("xor", x, args[1])
            case "not" | "bitnot":
                return b.op("xor", x, constant(x.type, True))
            case "eq":
                return b.compare("eq", x, args[1])
            case "lt" | "le" | "gt" | "ge":
                return b.compare("u" + name, x, args[1])
            case "abs":
                return x
        raise BugError(f"{name} of bools")

    def _integer(self, name: str, dtype: DType, args: tuple[Value, ...]) -> Value:
        b, x, s = self.b, args[0], "s" if dtype.is_signed else "u"
        match name:
            case "add" | "sub" | "mul":
                return b.op(name, x, args[1])
            case "bitand" | "bitor" | "bitxor":
                return b.op(name[3:], x, args[1])
            case "bitnot":
                return b.op("xor", x, constant(x.type, -1))
            case "neg":
                return b.op("sub", constant(x.type, 0), x)
            case "abs":
                return (
                    b.select(b.compare("slt", x, constant(x.type, 0)), b.op("sub", constant(x.type, 0), x), x)
                    if dtype.is_signed
                    else x
                )
            case "max" | "min":
                return b.intrinsic(f"llvm.{s}{name}", x, args[1])
            case "eq" | "ne":
                return b.compare(name, x, args[1])
            case "lt" | "le" | "gt" | "ge":
                return b.compare(s + name, x, args[1])
            case "div" | "floordiv" | "rem" | "mod":
                return self._divide(name, dtype, x, args[1])
            case "shl" | "shr":
                return shift(b, dtype, name, x, args[1])
            case "pow":
                return integer_power(b, dtype, x, args[1])
        raise BugError(f"{name} of {dtype}")

    def _divide(self, name: str, dtype: DType, x: Value, y: Value) -> Value:
        """Integer quotients and remainders that never trap: the divisor becomes 1 where the hardware would."""
        b, s = self.b, "s" if dtype.is_signed else "u"
        zero, one = constant(x.type, 0), constant(x.type, 1)
        nil = b.compare("eq", y, zero)
        bad = nil
        if dtype.is_signed:
            least = constant(x.type, -(1 << 8 * dtype.itemsize - 1))
            bad = b.op("or", nil, b.op("and", b.compare("eq", x, least), b.compare("eq", y, constant(x.type, -1))))
        safe = b.select(bad, one, y)
        if name == "div" or (name == "floordiv" and not dtype.is_signed):
            return b.select(nil, zero, b.op(s + "div", x, safe))
        rest = b.op(s + "rem", x, safe)  # 0 wherever the divisor was replaced
        if name == "rem" or not dtype.is_signed:
            return rest
        apart = b.compare("slt", b.op("xor", rest, safe), zero)
        crosses = b.op("and", b.compare("ne", rest, zero), apart)
        if name == "mod":
            return b.op("add", rest, b.select(crosses, safe, zero))
        lower = b.op("sub", b.op("sdiv", x, safe), b.select(crosses, one, zero))
        return b.select(nil, zero, lower)

    # ---- conversions

    def cast(self, x: Value, source: DType, to: DType) -> Value:
        """`cast` as ir.expr defines it, between any two native dtypes."""
        b = self.b
        if source is to:
            return x
        if to is DType.BOOL:
            return b.compare("une" if source.is_float else "ne", x, constant(x.type, 0.0 if source.is_float else 0))
        if source.is_float and to.is_float:
            return self._cast_float(x, source, to)
        if source.is_float:
            return self._float_to_integer(x, to)
        unsigned = source is DType.BOOL or not source.is_signed
        if to.is_float:
            out = b.convert("uitofp" if unsigned else "sitofp", x, _REGISTER[to])
            return self.round_to(out, to) if to in _NARROW else out
        narrower = source is not DType.BOOL and to.itemsize < source.itemsize
        return b.convert("trunc" if narrower else "zext" if unsigned else "sext", x, _REGISTER[to])

    def _cast_float(self, x: Value, source: DType, to: DType) -> Value:
        b = self.b
        if to is DType.F64:
            return b.convert("fpext", x, "double")
        if source is DType.F64 and to is DType.F32:
            return b.convert("fptrunc", x, "float")
        if source is DType.F64:
            x = self._odd_float(x)
        return x if to is DType.F32 else self.round_to(x, to)

    def _odd_float(self, x: Value) -> Value:
        """A double as float, rounded to odd: a second rounding to a narrow format is then as good as a single one."""
        b = self.b
        near = b.convert("fptrunc", x, "float")
        back = b.convert("fpext", near, "double")
        bits = b.bitcast(near, vector(x.lanes, "i32"))
        one = constant(bits.type, 1)
        above = b.compare("ogt", b.intrinsic("llvm.fabs", back), b.intrinsic("llvm.fabs", x))
        toward = b.select(above, b.op("sub", bits, one), bits)
        inexact = b.compare("one", back, x)
        return b.bitcast(b.select(inexact, b.op("or", toward, one), bits), near.type)

    def _float_to_integer(self, x: Value, to: DType) -> Value:
        b = self.b
        if to.itemsize < 4 and x.lanes:  # LLVM's own saturating conversions to these go lane by lane
            bits = 8 * to.itemsize
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if to.is_signed else (0, (1 << bits) - 1)
            number = b.select(b.compare("uno", x, x), constant(x.type, 0.0), x)
            above = self.plain_extreme("ogt", number, constant(x.type, float(low)))
            inside = self.plain_extreme("olt", above, constant(x.type, float(high)))
            return b.convert("trunc", b.convert("fptosi", inside, "i32"), _REGISTER[to])
        kind, e = "fptosi" if to.is_signed else "fptoui", _REGISTER[to]
        result = vector(x.lanes, e)
        if x.lanes and (to is DType.I32 or (to is DType.I64 and self.isa.name == "avx2")):
            return self._float_to_signed(x, 8 * to.itemsize)
        return b.call(f"llvm.{kind}.sat.{mangle(result)}.{mangle(x.type)}", result, x)

    def _float_to_signed(self, x: Value, bits: int) -> Value:
        """Vectors to i32 or i64, clamped to what converts; LLVM's saturating conversions go lane by lane here."""
        b, to = self.b, f"i{bits}"
        kept = x if bits == 32 else b.convert("fpext", x, "double") if x.element == "float" else x
        end, c = 2.0 ** (bits - 1), partial(constant, kept.type)
        last = end - 2.0 ** (bits - (25 if kept.element == "float" else 54))  # the greatest one below
        inside = self.plain_extreme("olt", self.plain_extreme("ogt", kept, c(-end)), c(last))
        out = b.convert("fptosi", inside, to) if bits == 32 else self._halves(inside)
        out = b.select(b.compare("oge", kept, c(end)), constant(out.type, (1 << bits - 1) - 1), out)
        return b.select(b.compare("uno", kept, kept), constant(out.type, 0), out)

    def _halves(self, x: Value) -> Value:
        """Doubles that fit into i64, by 32 bits at a time: AVX2 converts to no more."""
        b, c = self.b, partial(constant, x.type)
        whole = round_to_integer(b, self.isa, "trunc", x)
        high = round_to_integer(b, self.isa, "floor", b.op("fmul", whole, c(2.0**-32)))
        low = self.fma(high, c(-(2.0**32)), whole)  # exact, from 0 up to 2^32
        shifted = b.convert("fptosi", b.op("fsub", low, c(2.0**31)), "i32")
        lower = b.convert("zext", b.op("xor", shifted, constant(shifted.type, -(1 << 31))), "i64")
        upper = b.convert("sext", b.convert("fptosi", high, "i32"), "i64")
        return b.op("or", b.op("shl", upper, constant(upper.type, 32)), lower)


def _is_number(x: Value) -> bool:
    """A float literal (or its splat) that is not NaN."""
    if not x.is_constant or "0x" not in x.text:
        return False
    bits = int(x.text[x.text.index("0x") + 2 :].rstrip(")"), 16)
    return (bits & (1 << 63) - 1) <= 0x7FF << 52
