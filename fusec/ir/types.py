"""Types of values: dtypes, tensors with symbolic shapes, and the non-tensor values that host steps exchange."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Dim, Extent, parse_dim, product, symbols_of


class DType(enum.Enum):
    """Element types, by the short name that the text forms print."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U64 = "u64"
    U32 = "u32"
    U16 = "u16"
    U8 = "u8"
    BOOL = "bool"
    C64 = "c64"
    C128 = "c128"
    STRING = "string"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    F4E2M1 = "f4e2m1"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"

    def __str__(self) -> str:
        return self.value

    __hash__ = object.__hash__  # members are single objects, and types are hashed all the time: Enum's own is slow

    @property
    def is_float(self) -> bool:
        """One of f64, f32, f16, bf16: what the scalar expressions can compute on as real numbers."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """A signed or unsigned integer of 8 bits or more; bool is not one."""
        return self in _SIGNED or self in _UNSIGNED

    @property
    def is_signed(self) -> bool:
        """A signed integer of 8 bits or more."""
        return self in _SIGNED

    @property
    def is_native(self) -> bool:
        """Kernels can load, store and compute on it; everything else only passes through host steps."""
        return self in _NATIVE

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype (ml_dtypes for the small floats and integers, object for strings)."""
        return _PLAIN[self] if self in _PLAIN else _small()[self]

    @property
    def itemsize(self) -> int:
        """Bytes per element as stored in memory."""
        return int(self.numpy.itemsize)

    @staticmethod
    def of(dtype: npt.DTypeLike) -> DType:
        """The DType of a numpy dtype. KeyError where there is none."""
        d = np.dtype(dtype)
        if d.kind in "OUST":
            return DType.STRING
        native = d.newbyteorder("=")
        return _FROM_PLAIN[native] if native in _FROM_PLAIN else _from_small()[native]


_FLOATS = frozenset([DType.F64, DType.F32, DType.F16, DType.BF16])
_SIGNED = frozenset([DType.I64, DType.I32, DType.I16, DType.I8])
_UNSIGNED = frozenset([DType.U64, DType.U32, DType.U16, DType.U8])
_NATIVE = _FLOATS | _SIGNED | _UNSIGNED | {DType.BOOL}


_PLAIN: dict[DType, np.dtype[Any]] = {
    DType(name): np.dtype(kind)
    for name, kind in {
        "f64": np.float64, "f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16,
        "i8": np.int8, "u64": np.uint64, "u32": np.uint32, "u16": np.uint16, "u8": np.uint8, "bool": np.bool_,
        "c64": np.complex64, "c128": np.complex128, "string": np.object_,
    }.items()
}  # fmt: skip
_FROM_PLAIN = {n: d for d, n in _PLAIN.items()}


@cache
def _small() -> dict[DType, np.dtype[Any]]:
    """The dtypes of ml_dtypes, which costs 80 ms to import and is needed by few models."""
    import ml_dtypes as ml

    kinds = {
        "bf16": ml.bfloat16, "f8e4m3fn": ml.float8_e4m3fn, "f8e4m3fnuz": ml.float8_e4m3fnuz, "f8e5m2": ml.float8_e5m2,
        "f8e5m2fnuz": ml.float8_e5m2fnuz, "f8e8m0": ml.float8_e8m0fnu, "f4e2m1": ml.float4_e2m1fn, "i4": ml.int4,
        "u4": ml.uint4, "i2": ml.int2, "u2": ml.uint2,
    }  # fmt: skip
    return {DType(name): np.dtype(kind) for name, kind in kinds.items()}


@cache
def _from_small() -> dict[np.dtype[Any], DType]:
    return {n: d for d, n in _small().items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor: dtype and shape. `shape` is None where not even the rank is known (outputs of some host steps)."""

    dtype: DType
    shape: tuple[Extent, ...] | None

    @property
    def rank(self) -> int | None:
        """The number of dimensions, where known."""
        return None if self.shape is None else len(self.shape)

    @property
    def dims(self) -> tuple[Extent, ...]:
        """The shape where it is known to have a rank. TypeError otherwise."""
        if self.shape is None:
            raise TypeError(f"{self} has no known rank")
        return self.shape

    @property
    def size(self) -> Extent:
        """The number of elements."""
        return product(self.dims)

    @property
    def is_static(self) -> bool:
        """Every dimension is an integer."""
        return self.shape is not None and not any(isinstance(d, Dim) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]" if self.shape is not None else f"{self.dtype}[*]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A Python list of values of one type; only host steps make or read one."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value or None."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A Python dict, as the classical-model ops of ai.onnx.ml give it."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


Type = TensorType | SequenceType | OptionalType | MapType


def symbols_in(t: Type) -> frozenset[str]:
    """The dimension symbols that a type mentions."""
    if isinstance(t, TensorType):
        return frozenset[str]().union(*(symbols_of(d) for d in t.shape or ()))
    return symbols_in(t.value if isinstance(t, MapType) else t.element)


def parse_type(text: str) -> Type:
    """Read what `str` wrote: `f32[N, 128]`, `i64[]`, `f32[*]`, `seq(f32[*])`. ValueError otherwise."""
    text = text.strip()
    if m := re.fullmatch(r"(\w+)\[(.*)\]", text, re.S):
        inner = m[2].strip()
        shape = None if inner == "*" else tuple(parse_dim(p) for p in split_top(inner))
        return TensorType(DType(m[1]), shape)
    if m := re.fullmatch(r"(seq|optional)\((.*)\)", text, re.S):
        return (SequenceType if m[1] == "seq" else OptionalType)(parse_type(m[2]))
    if m := re.fullmatch(r"map\((\w+),(.*)\)", text, re.S):
        return MapType(DType(m[1]), parse_type(m[2]))
    raise ValueError(f"not a type: {text!r}")


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at separators that stand outside every bracket; empty text gives no parts."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [p for p in parts if p]
