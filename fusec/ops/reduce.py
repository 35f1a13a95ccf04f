"""Reductions over axes, and the position of the largest or smallest element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.dim import Extent
from fusec.ir.evaluate import apply_primitive
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.body import reference
from fusec.ops.op import Attrs, Infer, Kind, Op, register
from fusec.ops.rules import ANY, NUMBERS, DTypeSet, accept, check_axis, tensors

Array = npt.NDArray[Any]
Axes = tuple[int, ...]


def reduced(shape: Sequence[Extent], axes: Sequence[int], keepdims: bool) -> tuple[Extent, ...]:
    """The shape after reducing over axes."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes)


def _infer_axes(op: str, allowed: tuple[str, DTypeSet]) -> Infer:
    def infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(op, inputs, 1)
        accept(op, x, allowed)
        axes = tuple(check_axis(op, a, len(x.dims)) for a in attrs["axes"])
        if list(axes) != sorted(set(axes)):
            raise ModelError(f"{op}: axes {axes} are not in order, each once", op=op)
        return (TensorType(x.dtype, reduced(x.dims, axes, attrs["keepdims"])),)

    return infer


def _infer_position(op: str) -> Infer:
    def infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
        (x,) = tensors(op, inputs, 1)
        axis = check_axis(op, attrs["axis"], len(x.dims))
        if x.dims[axis] == 0:
            raise ModelError(f"{op}: there is no element along axis {axis} of {x}", op=op)
        return (TensorType(DType.I64, reduced(x.dims, (axis,), attrs["keepdims"])),)

    return infer


def _sum(x: Array, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype))


def _prod(x: Array, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype))


def _mean(x: Array, axes: Axes, keepdims: bool) -> Array:
    count = np.asarray(np.prod([x.shape[a] for a in axes], dtype=np.int64)).astype(x.dtype)
    return apply_primitive("div", (_sum(x, axes, keepdims), count))


def _extreme(fn: Callable[..., Any], least: bool) -> Callable[[Array, Axes, bool], Array]:
    """The extreme of nothing is the fold's neutral element, as numpy gives it for an explicit `initial`."""

    def compute(x: Array, axes: Axes, keepdims: bool) -> Array:
        dtype = DType.of(x.dtype)
        if dtype is DType.BOOL:
            start: Any = least
        elif dtype.is_float:
            start = np.inf if least else -np.inf
        else:
            start = np.iinfo(x.dtype).max if least else np.iinfo(x.dtype).min
        return np.asarray(fn(x, axis=axes, keepdims=keepdims, initial=start))

    return compute


def _reduction(
    name: str, compute: Callable[[Array, Axes, bool], Array], allowed: tuple[str, DTypeSet] = NUMBERS
) -> None:
    register(Op(name, Kind.REDUCTION, _infer_axes(name, allowed), reference(compute, "axes", "keepdims")))


_reduction("reduce_sum", _sum)
_reduction("reduce_prod", _prod)
_reduction("reduce_mean", _mean)
_reduction("reduce_max", _extreme(np.max, False), ANY)
_reduction("reduce_min", _extreme(np.min, True), ANY)


def _argmax(x: Array, axis: int, keepdims: bool) -> Array:
    return np.asarray(np.argmax(x, axis=axis, keepdims=keepdims), np.int64)


def _argmin(x: Array, axis: int, keepdims: bool) -> Array:
    return np.asarray(np.argmin(x, axis=axis, keepdims=keepdims), np.int64)


register(Op("argmax", Kind.REDUCTION, _infer_position("argmax"), reference(_argmax, "axis", "keepdims"), None, 2.0))
register(Op("argmin", Kind.REDUCTION, _infer_position("argmin"), reference(_argmin, "axis", "keepdims"), None, 2.0))
