"""Arithmetic, comparisons, logic, bits, rounding and selection: the ops that are one primitive, or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ModelError
from fusec.ir.evaluate import apply_primitive, convert
from fusec.ir.expr import TRANSCENDENTAL, Const, Expr, cast, prim
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.body import SMALL_FLOATS, compare, maximum, minimum, reference, scalar, where
from fusec.ops.op import Attrs, Kind, Op, as_tuple, register
from fusec.ops.rules import (
    ANY,
    BOOLS,
    FLOATS,
    INTEGERS,
    NUMBERS,
    DTypeSet,
    accept,
    broadcast,
    elementwise,
    native,
    same_dtype,
    tensors,
)

Array = npt.NDArray[Any]


def _primitive(name: str, count: int, allowed: tuple[str, DTypeSet], result: DType | None = None) -> None:
    """Declare an op that is the primitive of the same name."""
    register(
        Op(
            name,
            Kind.ELEMENTWISE,
            elementwise(name, count, allowed, result),
            reference(lambda *xs: apply_primitive(name, xs)),
            scalar(lambda *xs: prim(name, *xs)),
            flops_per_element=20.0 if name in TRANSCENDENTAL else 1.0,
        )
    )


_REAL = "sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf floor ceil round trunc"

for _name in _REAL.split():
    _primitive(_name, 1, FLOATS)
for _name in ("neg", "abs"):
    _primitive(_name, 1, NUMBERS)
for _name in ("add", "sub", "mul", "div", "mod", "rem", "pow"):
    _primitive(_name, 2, NUMBERS)
for _name in ("max", "min"):
    _primitive(_name, 2, ANY)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _primitive(_name, 2, ANY, DType.BOOL)
for _name in ("and", "or", "xor"):
    _primitive(_name, 2, BOOLS)
for _name in ("bitand", "bitor", "bitxor", "shl", "shr"):
    _primitive(_name, 2, INTEGERS)
_primitive("not", 1, BOOLS)
_primitive("bitnot", 1, INTEGERS)
_primitive("isnan", 1, FLOATS, DType.BOOL)


def _sign(x: Expr) -> Expr:
    positive = compare("gt", x, 0)
    if x.dtype.is_float or x.dtype.is_signed:
        return where(positive, 1, where(compare("lt", x, 0), -1, x, like=x), like=x)  # NaN and zeros stay what they are
    return where(positive, 1, 0, like=x)


register(Op("sign", Kind.ELEMENTWISE, elementwise("sign", 1, NUMBERS), reference(np.sign), scalar(_sign)))


def _isinf(x: Expr, detect_negative: bool, detect_positive: bool) -> Expr:
    if detect_negative and detect_positive:
        return prim("isinf", x)
    if not (detect_negative or detect_positive):
        return Const(False, DType.BOOL)
    return compare("eq", x, float("inf") if detect_positive else float("-inf"))


def _isinf_reference(x: Array, detect_negative: bool, detect_positive: bool) -> Array:
    return np.asarray(np.isneginf(x) & bool(detect_negative) | np.isposinf(x) & bool(detect_positive))


_BOTH = {"detect_negative": True, "detect_positive": True}
register(
    Op(
        "isinf",
        Kind.ELEMENTWISE,
        elementwise("isinf", 1, FLOATS, DType.BOOL),
        reference(_isinf_reference, *_BOTH, defaults=_BOTH),
        scalar(_isinf, *_BOTH, defaults=_BOTH),
    )
)


def _infer_cast(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("cast", inputs, 1)
    to = attrs["to"]
    if not isinstance(to, DType):
        raise ModelError(f"cast: attribute 'to' must be a dtype, got {to!r}", op="cast")
    return (native("cast", TensorType(to, x.dims)),)


def _cast_body(args: Sequence[Expr | None], attrs: Attrs) -> Expr:
    (x,) = args
    if x is None:
        raise BugError("cast: the input is missing")
    return cast(x, attrs["to"])


def _cast_reference(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    (x,) = args
    if x is None:
        raise BugError("cast: the input is missing")
    return as_tuple(convert(x, attrs["to"]))


register(Op("cast", Kind.ELEMENTWISE, _infer_cast, _cast_reference, _cast_body))


def _infer_where(inputs: Sequence[Type | None], _: Attrs) -> tuple[Type, ...]:
    c, a, b = tensors("where", inputs, 3)
    accept("where", c, BOOLS, "the condition")
    return (TensorType(same_dtype("where", [a, b]), broadcast("where", [c.dims, a.dims, b.dims])),)


register(
    Op("where", Kind.ELEMENTWISE, _infer_where, reference(np.where), scalar(lambda c, a, b: prim("where", c, a, b)))
)


def _infer_clip(inputs: Sequence[Type | None], _: Attrs) -> tuple[Type, ...]:
    ts = tensors("clip", inputs, 1, 3)
    accept("clip", ts[0], NUMBERS)
    return (TensorType(same_dtype("clip", ts), broadcast("clip", [t.dims for t in ts])),)


def _clip_body(args: Sequence[Expr | None], _: Attrs) -> Expr:
    x, low, high = (*args, None, None)[:3]
    if x is None:
        raise BugError("clip: the input is missing")
    narrow = x.dtype if x.dtype in SMALL_FLOATS else None
    wide = [None if e is None else cast(e, DType.F32) if narrow else e for e in (x, low, high)]
    out = wide[0] or x
    out = out if wide[1] is None else maximum(out, wide[1])
    out = out if wide[2] is None else minimum(out, wide[2])  # the upper bound wins where they cross, as ONNX says
    return cast(out, narrow) if narrow else out


def _clip_reference(args: Sequence[Array | None], _: Attrs) -> tuple[Array, ...]:
    x, low, high = (*args, None, None)[:3]
    if x is None:
        raise BugError("clip: the input is missing")
    out = x if low is None else apply_primitive("max", (x, low))
    return as_tuple(out if high is None else apply_primitive("min", (out, high)))


register(Op("clip", Kind.ELEMENTWISE, _infer_clip, _clip_reference, _clip_body, flops_per_element=2.0))
