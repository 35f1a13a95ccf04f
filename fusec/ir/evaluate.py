"""The numpy interpreter of scalar expressions: the executable form of what `ir.expr` says about each primitive.

It never warns and never raises on data: division by zero, overflow, shifts by too much and casts out of range all have
the value that the primitive's definition gives them. float16 and bfloat16 are computed in float32 and rounded back.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Extent
from fusec.ir.expr import PRIMITIVES, Const, Expr, Index, Load, Prim, Ref
from fusec.ir.types import DType

Array = npt.NDArray[Any]
LoadFn = Callable[[Load, "tuple[Extent | Array, ...]"], Array]
"""Answers a Load: gets the load and its index, where entries that are expressions are already arrays of integers."""
IndexFn = Callable[[Extent], Array]
"""Answers an Index: the values of a polynomial over axes and parameters."""


def evaluate_expr(
    e: Expr, refs: Mapping[str, Array], load: LoadFn | None = None, index: IndexFn | None = None
) -> Array:
    """The values of an expression, for all elements at once; arrays broadcast against each other.

    `refs` gives the values of names, `load` and `index` those of operands and axes. A part that occurs several times as
    the same object is computed once. BugError where a name is unknown or a Load or Index has nobody to answer it.
    """
    done: dict[int, Array] = {}
    todo: list[tuple[Expr, bool]] = [(e, False)]
    with np.errstate(all="ignore"):
        while todo:
            x, ready = todo.pop()
            if id(x) in done:
                continue
            parts = _parts(x)
            if parts and not ready:
                todo.append((x, True))
                todo.extend((p, False) for p in parts)
                continue
            done[id(x)] = _value(x, done, refs, load, index)
    return done[id(e)]


def apply_primitive(name: str, args: tuple[Array, ...], dtype: DType | None = None) -> Array:
    """One primitive on arrays, broadcast; `dtype` is the result's where the primitive is `cast`."""
    with np.errstate(all="ignore"):
        if name == "cast":
            if dtype is None:
                raise BugError("a cast names its dtype")
            return convert(args[0], dtype)
        if name == "where":
            return np.asarray(np.where(*args))
        if name not in PRIMITIVES:
            raise BugError(f"unknown primitive {name!r}")
        kind = DType.of(args[0].dtype)
        if kind in (DType.F16, DType.BF16):
            wide = _RULES[name](*(a.astype(np.float32) for a in args))
            return np.asarray(wide if wide.dtype == np.bool_ else wide.astype(kind.numpy))
        if kind.is_integer and name in _INTEGER_RULES:
            return np.asarray(_INTEGER_RULES[name](*args))
        return np.asarray(_RULES[name](*args))


def convert(x: Array, to: DType) -> Array:
    """`cast`: float to integer truncates and saturates, NaN becomes 0; to bool is `x != 0`; integers wrap."""
    if to is DType.BOOL:
        return np.asarray(x != np.zeros((), x.dtype))
    source = DType.of(x.dtype)
    with np.errstate(all="ignore"):
        if not (source.is_float and to.is_integer):
            return np.asarray(x.astype(to.numpy))
        wide = x.astype(np.float64)  # exact for every float dtype
        low, high = (1 << 8 * to.itemsize - 1) * -1 if to.is_signed else 0, 1 << 8 * to.itemsize - to.is_signed
        inside = (wide > low - 1.0) & (wide < float(high))
        out = np.where(inside, np.trunc(np.where(inside, wide, 0.0)), 0.0).astype(to.numpy)
        out = np.where(wide >= float(high), np.asarray(high - 1, to.numpy), out)
        return np.asarray(np.where(wide <= low - 1.0, np.asarray(low, to.numpy), out))


def literal(value: float | int | bool, dtype: DType) -> Array:
    """A literal as an array of rank 0; integers wrap, floats round."""
    if not dtype.is_integer:
        with np.errstate(all="ignore"):
            return np.asarray(value).astype(dtype.numpy)
    bits = 8 * dtype.itemsize
    whole = int(value) & (1 << bits) - 1
    return np.asarray(whole - (1 << bits) if dtype.is_signed and whole >> bits - 1 else whole, dtype.numpy)


def _parts(x: Expr) -> tuple[Expr, ...]:
    if isinstance(x, Prim):
        return x.args
    if isinstance(x, Load):
        return tuple(i for i in x.index if isinstance(i, Const | Ref | Index | Load | Prim))
    return ()


def _value(
    x: Expr, done: Mapping[int, Array], refs: Mapping[str, Array], load: LoadFn | None, index: IndexFn | None
) -> Array:
    match x:
        case Const(value, dtype):
            return literal(value, dtype)
        case Ref(name, dtype):
            if name not in refs:
                raise BugError(f"the expression reads {name!r}, which has no value")
            return np.asarray(refs[name])
        case Index(value):
            if index is None:
                raise BugError(f"nobody answers the index {value}")
            return np.asarray(index(value), np.int64)
        case Load():
            if load is None:
                raise BugError(f"nobody answers the load of {x.operand!r}")
            entries = (done[id(i)] if isinstance(i, Const | Ref | Index | Load | Prim) else i for i in x.index)
            return np.asarray(load(x, tuple(entries)))
        case Prim(name, args, dtype):
            return apply_primitive(name, tuple(done[id(a)] for a in args), dtype)


_ERF = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_ERF(x.astype(np.float64)), np.float64).astype(x.dtype)


def _divide_integers(a: Array, b: Array) -> Array:
    """Truncating; 0 where b is 0, wrapping where the quotient does not fit."""
    quotient = _floor_divide_integers(a, b)
    inexact = quotient * b != a
    return np.where((b != 0) & inexact & ((a < 0) != (b < 0)), quotient + np.ones((), a.dtype), quotient)


def _floor_divide_integers(a: Array, b: Array) -> Array:
    """Rounding down; numpy itself gives 0 for a zero divisor and wraps MIN / -1."""
    return np.asarray(np.floor_divide(a, b))


def _power_integers(a: Array, b: Array) -> Array:
    """Wrapping; a negative exponent gives the truncated quotient: 1 and -1 keep their powers, all else is 0."""
    base, exponent = np.broadcast_arrays(a, b)
    negative = exponent < 0
    out = np.power(base, np.where(negative, np.zeros((), b.dtype), exponent))
    odd = (exponent & np.ones((), b.dtype)) != 0
    unit = np.where(odd | (base == 1), base, np.ones((), a.dtype))
    is_unit = (base == 1) | (np.negative(base) == 1) & (base < 0)
    return np.where(negative, np.where(is_unit, unit, np.zeros((), a.dtype)), out)


def _shift(a: Array, b: Array, left: bool) -> Array:
    bits = 8 * a.dtype.itemsize
    inside = (b >= 0) & (b < bits)
    safe = np.where(inside, b, np.zeros((), b.dtype))
    over = np.zeros((), a.dtype) if left or DType.of(a.dtype) not in _SIGNED else np.right_shift(a, bits - 1)
    return np.where(inside, np.left_shift(a, safe) if left else np.right_shift(a, safe), over)


_SIGNED = frozenset([DType.I64, DType.I32, DType.I16, DType.I8])

_INTEGER_RULES: dict[str, Callable[..., Array]] = {
    "div": _divide_integers,
    "floordiv": _floor_divide_integers,
    "mod": lambda a, b: np.where(b == 0, np.zeros((), a.dtype), np.mod(a, b)),
    "rem": lambda a, b: np.where(b == 0, np.zeros((), a.dtype), np.fmod(a, b)),
    "pow": _power_integers,
    "shl": lambda a, b: _shift(a, b, True),
    "shr": lambda a, b: _shift(a, b, False),
}

_RULES: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": lambda a, b: np.floor(np.divide(a, b)),
    "mod": np.mod,
    "rem": np.fmod,
    "neg": np.negative,
    "abs": np.abs,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": _erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitnot": np.invert,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "bits": lambda a: a.view(f"i{a.dtype.itemsize}"),
}
