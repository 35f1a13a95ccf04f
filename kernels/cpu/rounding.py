"""floor, ceil, round half-to-even and trunc: instructions where the level has them, else the 2^23 (2^52) addition."""

from __future__ import annotations

from fusec.kernels.cpu.builder import Builder, Value, constant
from fusec.target import Isa

_INTRINSIC = {"floor": "llvm.floor", "ceil": "llvm.ceil", "round": "llvm.roundeven", "trunc": "llvm.trunc"}


def round_to_integer(b: Builder, isa: Isa, name: str, x: Value) -> Value:
    """Round every lane; NaN, infinities and -0 stay what they are."""
    if isa.name != "generic":
        return b.intrinsic(_INTRINSIC[name], x)
    whole = constant(x.type, 2.0**23 if x.element == "float" else 2.0**52)  # from here on every float is an integer
    one, zero = constant(x.type, 1.0), constant(x.type, 0.0)
    size = b.intrinsic("llvm.fabs", x)
    rounded = b.op("fsub", b.op("fadd", size, whole), whole)
    if name == "trunc":
        rounded = b.op("fsub", rounded, b.select(b.compare("ogt", rounded, size), one, zero))
    rounded = b.intrinsic("llvm.copysign", rounded, x)
    if name == "floor":
        rounded = b.op("fsub", rounded, b.select(b.compare("ogt", rounded, x), one, zero))
    if name == "ceil":
        rounded = b.op("fadd", rounded, b.select(b.compare("olt", rounded, x), one, zero))
    rounded = b.intrinsic("llvm.copysign", rounded, x)  # ceil(-0.5) is -0
    return b.select(b.compare("olt", size, whole), rounded, x)
