"""Scalars in C++: the types of values and of elements in memory, literals, and every primitive as an expression.

16-bit floats are computed in float and rounded after each operation that is not exact, as ir/evaluate.py does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from fusec.errors import BugError
from fusec.ir.expr import REAL
from fusec.ir.types import DType

_VALUE = {
    DType.F64: "double", DType.F32: "float", DType.F16: "float", DType.BF16: "float", DType.I64: "long long",
    DType.U64: "fx_u64", DType.I32: "int", DType.U32: "fx_u32", DType.I16: "short", DType.U16: "fx_u16",
    DType.I8: "signed char", DType.U8: "fx_u8", DType.BOOL: "bool",
}  # fmt: skip
_ELEMENT = _VALUE | {DType.F16: "fx_half", DType.BF16: "fx_bf16", DType.BOOL: "fx_u8"}
_ROUND = {DType.F16: "fx_round_half", DType.BF16: "fx_round_bf16"}
_INEXACT = frozenset("add sub mul div floordiv mod rem sqrt pow".split()) | REAL - frozenset(
    "floor ceil round trunc".split()
)
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BOOLEAN = {"and": "&&", "min": "&&", "mul": "&&", "bitand": "&&", "or": "||", "max": "||", "add": "||", "bitor": "||"}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}


def value_type(dtype: DType) -> str:
    """The C++ type of a dtype's values in registers."""
    return _VALUE[dtype]


def element_type(dtype: DType) -> str:
    """The C++ type of a dtype's elements in memory."""
    return _ELEMENT[dtype]


def from_memory(x: str, dtype: DType) -> str:
    """An element as a value."""
    if dtype in _ROUND:
        return f"fx_float({x})"
    return f"{x} != 0" if dtype is DType.BOOL else x


def to_memory(x: str, dtype: DType) -> str:
    """A value as an element."""
    if dtype in _ROUND:
        return f"fx_to_half({x})" if dtype is DType.F16 else f"fx_to_bf16({x})"
    return f"(fx_u8){x}" if dtype is DType.BOOL else x


def rounded(x: str, dtype: DType) -> str:
    """A float that may have too many digits, as a value of a 16-bit float; nothing for other dtypes."""
    return f"{_ROUND[dtype]}({x})" if dtype in _ROUND else x


def literal(dtype: DType, value: float | int | bool) -> str:
    """A literal; integers wrap and floats are rounded here."""
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if dtype.is_float:
        return _float_literal(dtype, float(value))
    bits = 8 * dtype.itemsize
    whole = int(value) & (1 << bits) - 1
    if not dtype.is_signed:
        return f"({_VALUE[dtype]}){whole}ull"
    whole -= 1 << bits if whole >> bits - 1 else 0
    text = f"{whole}ll" if whole > -(1 << 63) else f"({whole + 1}ll - 1)"
    return (
        f"({_VALUE[dtype]}){text}" if bits != 32 or whole == -(1 << 31) else f"{whole}" if whole >= 0 else f"({whole})"
    )


def _float_literal(dtype: DType, value: float) -> str:
    import numpy as np

    with np.errstate(all="ignore"):
        value = float(np.asarray(value).astype(dtype.numpy))
    if math.isfinite(value):
        text = value.hex() + ("" if dtype is DType.F64 else "f")
        return f"({text})" if text.startswith("-") else text
    if dtype is DType.F64:
        return f"fx_bits<double>(0x{struct.pack('>d', value).hex()}ull)"
    return f"fx_bits<float>(0x{struct.pack('>f', value).hex()}u)"


def primitive(name: str, dtype: DType, args: Sequence[str], result: DType) -> str:
    """A primitive applied to names or literals of values of `dtype` (of the last ones, for `where`)."""
    if name == "where":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    if name == "cast":
        return _cast(args[0], dtype, result)
    if name == "bits":
        return f"fx_bits<{_VALUE[result]}>({args[0]})"
    if name in _COMPARISONS:
        return f"{args[0]} {_COMPARISONS[name]} {args[1]}"
    if dtype is DType.BOOL:
        return _boolean(name, args)
    if dtype.is_float:
        text = _float(name, args)
        return rounded(text, dtype) if name in _INEXACT else text
    return f"fx_{name}({', '.join(args)})"


def _float(name: str, args: Sequence[str]) -> str:
    if name in _ARITHMETIC:
        return f"{args[0]} {_ARITHMETIC[name]} {args[1]}"
    return f"-{args[0]}" if name == "neg" else f"fx_{name}({', '.join(args)})"


def _boolean(name: str, args: Sequence[str]) -> str:
    if name in _BOOLEAN:
        return f"{args[0]} {_BOOLEAN[name]} {args[1]}"
    if name in ("xor", "bitxor"):
        return f"{args[0]} != {args[1]}"
    if name in ("not", "bitnot"):
        return f"!{args[0]}"
    if name == "abs":
        return args[0]
    raise BugError(f"{name} of bools")


def _cast(x: str, source: DType, to: DType) -> str:
    if source is to:
        return x
    if to is DType.BOOL:
        return f"{x} != 0"
    if source.is_float and not to.is_float:
        return f"fx_truncate<{_VALUE[to]}>({x})"
    if source is DType.F64 and to in _ROUND:
        return f"{_ROUND[to]}(fx_odd_float({x}))"
    return rounded(f"({_VALUE[to]}){x}", to)
