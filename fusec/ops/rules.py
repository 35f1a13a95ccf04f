"""Type rules shared by the op families: which inputs an op takes, and how symbolic shapes combine.

A dimension that is not known yet never makes a rule fail: two different symbols are taken to be equal (the run checks
inputs), a symbol against an integer other than 1 becomes that integer. Two different integers are an error that shows
both shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fusec.errors import ModelError, UnsupportedError
from fusec.ir.dim import Extent
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.op import Attrs, Infer

Shape = tuple[Extent, ...]


class DTypeSet(Protocol):
    """A question about a dtype, with words for the error."""

    def __call__(self, dtype: DType, /) -> bool:
        """Whether the dtype belongs to the set."""


FLOATS: tuple[str, DTypeSet] = ("floats", lambda d: d.is_float)
INTEGERS: tuple[str, DTypeSet] = ("integers", lambda d: d.is_integer)
NUMBERS: tuple[str, DTypeSet] = ("numbers", lambda d: d.is_float or d.is_integer)
SIGNED: tuple[str, DTypeSet] = ("floats and signed integers", lambda d: d.is_float or d.is_signed)
BOOLS: tuple[str, DTypeSet] = ("bools", lambda d: d is DType.BOOL)
ANY: tuple[str, DTypeSet] = ("numbers and bools", lambda d: d.is_native)


def tensors(op: str, inputs: Sequence[Type | None], least: int, most: int | None = None) -> list[TensorType]:
    """The inputs as tensors of known rank and native dtype.

    The first `least` must be there, up to `most` may follow; absent ones in between are left out. ModelError for a wrong
    count, UnsupportedError where a value is not a tensor that kernels can hold.
    """
    most = least if most is None else most
    if not least <= len(inputs) <= most or any(t is None for t in inputs[:least]):
        given = sum(t is not None for t in inputs)
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ModelError(f"{op}: takes {wanted} inputs, got {given}", op=op)
    return [native(op, t) for t in inputs if t is not None]


def native(op: str, t: Type) -> TensorType:
    """The type, where it is a tensor of known rank and of a dtype that kernels compute on. UnsupportedError otherwise."""
    if not isinstance(t, TensorType) or t.shape is None:
        raise UnsupportedError(f"{op}: needs a tensor of known rank, got {t}", op=op)
    if not t.dtype.is_native:
        raise UnsupportedError(f"{op}: no kernel computes on {t.dtype}, got {t}", op=op)
    return t


def accept(op: str, t: TensorType, allowed: tuple[str, DTypeSet], what: str = "input") -> None:
    """ModelError where a dtype is not among those that the op is defined for."""
    words, test = allowed
    if not test(t.dtype):
        raise ModelError(f"{op}: {what} must be {words}, got {t}", op=op)


def same_dtype(op: str, ts: Sequence[TensorType]) -> DType:
    """The dtype that all share. ModelError where they differ."""
    if len({t.dtype for t in ts}) != 1:
        raise ModelError(f"{op}: inputs have different dtypes: {', '.join(map(str, ts))}", op=op)
    return ts[0].dtype


def unify(a: Extent, b: Extent) -> Extent | None:
    """The dimension that both are, integers before symbols; None where they are different integers."""
    if isinstance(a, int) and isinstance(b, int):
        return a if a == b else None
    return b if isinstance(b, int) else a


def broadcast(op: str, shapes: Sequence[Shape]) -> Shape:
    """The shape that numpy's rule gives. ModelError where two integers contradict each other."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Extent] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            if d == 1:
                continue
            joint = d if out[i] == 1 else unify(out[i], d)
            if joint is None:
                raise ModelError(f"{op}: shapes do not broadcast: {show(*shapes)}", op=op)
            out[i] = joint
    return tuple(out)


def same_shape(op: str, shapes: Sequence[Shape], free: int | None = None) -> Shape:
    """The shape that all have, leaving out dimension `free` (taken from the first). ModelError where they differ."""
    out = list(shapes[0])
    for shape in shapes[1:]:
        joint = [unify(a, b) if i != free else a for i, (a, b) in enumerate(zip(out, shape))]
        if len(shape) != len(out) or None in joint:
            raise ModelError(f"{op}: shapes differ: {show(*shapes)}", op=op)
        out = [d for d in joint if d is not None]
    return tuple(out)


def check_axis(op: str, axis: Any, rank: int) -> int:
    """An axis 0 <= axis < rank. ModelError otherwise."""
    if not isinstance(axis, int) or not 0 <= axis < rank:
        raise ModelError(f"{op}: axis {axis!r} is outside rank {rank}", op=op)
    return axis


def show(*shapes: Shape) -> str:
    """Shapes for a message: `[2, N] and [3]`."""
    return " and ".join("[" + ", ".join(map(str, s)) + "]" for s in shapes)


def elementwise(
    op: str,
    count: int,
    allowed: tuple[str, DTypeSet],
    result: DType | None = None,
    optional: int = 0,
) -> Infer:
    """The rule of most elementwise ops: equal dtypes, broadcast shapes, the dtype of the inputs or `result`."""

    def infer(inputs: Sequence[Type | None], _: Attrs) -> tuple[Type, ...]:
        ts = tensors(op, inputs, count, count + optional)
        for t in ts:
            accept(op, t, allowed)
        dtype = same_dtype(op, ts)
        return (TensorType(result or dtype, broadcast(op, [t.dims for t in ts])),)

    return infer


def shape_preserving(op: str, allowed: tuple[str, DTypeSet]) -> Infer:
    """The rule of ops with one main input and an `axis` whose output has the main input's type."""

    def infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(op, inputs, 1)
        accept(op, x, allowed)
        check_axis(op, attrs["axis"], len(x.dims))
        return (x,)

    return infer
