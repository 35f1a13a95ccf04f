"""Words for writing scalar bodies: literals of the operand's dtype, and computing the small floats in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.expr import Const, Expr, cast, prim
from fusec.ir.types import DType
from fusec.ops.op import Attrs, Reference, Scalar

Array = npt.NDArray[Any]
SMALL_FLOATS = frozenset([DType.F16, DType.BF16])


def const(value: float | int, like: Expr) -> Const:
    """A literal of the dtype of another expression."""
    return Const(float(value) if like.dtype.is_float else int(value), like.dtype)


def add(a: Expr, b: Expr | float) -> Expr:
    """a + b; a Python number becomes a literal."""
    return prim("add", a, _lift(b, a))


def sub(a: Expr, b: Expr | float) -> Expr:
    """a - b."""
    return prim("sub", a, _lift(b, a))


def mul(a: Expr, b: Expr | float) -> Expr:
    """a * b."""
    return prim("mul", a, _lift(b, a))


def div(a: Expr, b: Expr | float) -> Expr:
    """a / b."""
    return prim("div", a, _lift(b, a))


def maximum(a: Expr, b: Expr | float) -> Expr:
    """The larger, NaN if either is."""
    return prim("max", a, _lift(b, a))


def minimum(a: Expr, b: Expr | float) -> Expr:
    """The smaller, NaN if either is."""
    return prim("min", a, _lift(b, a))


def where(c: Expr, a: Expr | float, b: Expr | float, like: Expr) -> Expr:
    """Choose; numbers become literals of the dtype of `like`."""
    return prim("where", c, _lift(a, like), _lift(b, like))


def compare(name: str, a: Expr, b: Expr | float) -> Expr:
    """A comparison by the primitive's name."""
    return prim(name, a, _lift(b, a))


def exp(a: Expr) -> Expr:
    """e to the power of a."""
    return prim("exp", a)


def _lift(x: Expr | float, like: Expr) -> Expr:
    return const(x, like) if isinstance(x, int | float) else x


def present(args: Sequence[Expr | None]) -> list[Expr]:
    """All arguments of an op without optional inputs."""
    out = [a for a in args if a is not None]
    if len(out) != len(args):
        raise BugError("a required input is missing")
    return out


Body = Callable[..., Expr]


def scalar(body: Body, *names: str, defaults: Attrs | None = None) -> Scalar:
    """A scalar body from a function of expressions and of the named attributes.

    Small floats are computed in float32: the arguments are converted, and the result is converted back if it is a float.
    """

    def build(args: Sequence[Expr | None], attrs: Attrs) -> Expr:
        given = present(args)
        small = given[0].dtype if given[0].dtype in SMALL_FLOATS else None
        wide = [cast(a, DType.F32) if a.dtype is small else a for a in given] if small else given
        out = body(*wide, **{n: attrs.get(n, (defaults or {}).get(n)) for n in names})
        return cast(out, small) if small and out.dtype is DType.F32 else out

    return build


def reference(fn: Callable[..., Any], *names: str, defaults: Attrs | None = None) -> Reference:
    """A numpy reference from a function of arrays and of the named attributes; small floats are computed in float32."""

    def compute(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
        given = [a for a in args if a is not None]
        small = given[0].dtype if DType.of(given[0].dtype) in SMALL_FLOATS else None
        wide = [a.astype(np.float32) if a.dtype == small else a for a in given] if small else given
        with np.errstate(all="ignore"):
            out = np.asarray(fn(*wide, **{n: attrs.get(n, (defaults or {}).get(n)) for n in names}))
            narrow = out.astype(small) if small and out.dtype == np.float32 else out
        return (narrow if small else _keep(narrow, given[0]),)

    return compute


def _keep(out: Array, like: Array) -> Array:
    """Undo numpy's promotion of float32 by Python or rank-0 numbers, which would otherwise change the dtype."""
    return out.astype(like.dtype) if out.dtype.kind == "f" and like.dtype.kind == "f" else out
