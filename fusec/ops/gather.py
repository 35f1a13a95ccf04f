"""Gathers: elements chosen by an index that is read from memory. Negative indices count from the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ExecutionError, ModelError
from fusec.ir.types import TensorType, Type
from fusec.ops.op import Attrs, Kind, Op, as_tuple, register
from fusec.ops.rules import INTEGERS, accept, check_axis, same_shape, tensors

Array = npt.NDArray[Any]


def _inputs(op: str, inputs: Sequence[Type | None]) -> tuple[TensorType, TensorType]:
    x, indices = tensors(op, inputs, 2)
    accept(op, indices, INTEGERS, "the indices")
    return x, indices


def _arrays(args: Sequence[Array | None]) -> tuple[Array, Array]:
    x, indices = args
    if x is None or indices is None:
        raise BugError("a required input is missing")
    return x, indices.astype(np.int64)


def _wrap(op: str, indices: Array, n: int) -> Array:
    bad = (indices < -n) | (indices >= n)
    if bad.any():
        raise ExecutionError(f"{op}: index {indices[bad].flat[0]} is outside a dimension of {n}", op=op)
    return np.where(indices < 0, indices + n, indices)


def _infer_gather(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    x, indices = _inputs("gather", inputs)
    axis = check_axis("gather", attrs["axis"], len(x.dims))
    return (TensorType(x.dtype, (*x.dims[:axis], *indices.dims, *x.dims[axis + 1 :])),)


def _gather(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, indices = _arrays(args)
    return as_tuple(np.take(x, _wrap("gather", indices, x.shape[attrs["axis"]]), axis=attrs["axis"]))


register(Op("gather", Kind.GATHER, _infer_gather, _gather, flops_per_element=0.0))


def _infer_elements(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    x, indices = _inputs("gather_elements", inputs)
    axis = check_axis("gather_elements", attrs["axis"], len(x.dims))
    pairs = enumerate(zip(indices.dims, x.dims))
    larger = any(i != axis and isinstance(a, int) and isinstance(b, int) and a > b for i, (a, b) in pairs)
    if len(indices.dims) != len(x.dims) or larger:
        raise ModelError(f"gather_elements: indices {indices} do not fit {x}", op="gather_elements")
    return (TensorType(x.dtype, indices.dims),)


def _gather_elements(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, indices = _arrays(args)
    position: list[Any] = list(np.indices(indices.shape, sparse=True))
    position[attrs["axis"]] = _wrap("gather_elements", indices, x.shape[attrs["axis"]])
    return as_tuple(x[tuple(position)])


register(Op("gather_elements", Kind.GATHER, _infer_elements, _gather_elements, flops_per_element=0.0))


def _infer_nd(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    x, indices = _inputs("gather_nd", inputs)
    batch = attrs["batch_dims"]
    depth = indices.dims[-1] if indices.dims else None
    if not isinstance(depth, int) or not 0 <= batch <= min(len(indices.dims) - 1, len(x.dims)):
        raise ModelError(f"gather_nd: indices {indices} do not fit {x} with {batch} batch dimensions", op="gather_nd")
    if batch + depth > len(x.dims):
        raise ModelError(f"gather_nd: {depth} indices per element are too many for {x}", op="gather_nd")
    joint = same_shape("gather_nd", [x.dims[:batch], indices.dims[:batch]])
    return (TensorType(x.dtype, (*joint, *indices.dims[batch:-1], *x.dims[batch + depth :])),)


def _gather_nd(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, indices = _arrays(args)
    batch, depth = attrs["batch_dims"], indices.shape[-1]
    grid: tuple[Array, ...] = np.indices(x.shape[:batch], sparse=True)
    position = [p.reshape(p.shape + (1,) * (indices.ndim - 1 - batch)) for p in grid]
    position += [_wrap("gather_nd", indices[..., i], x.shape[batch + i]) for i in range(depth)]
    if not position:
        return as_tuple(np.broadcast_to(x, indices.shape[:-1] + x.shape))
    return as_tuple(x[tuple(position)])


register(Op("gather_nd", Kind.GATHER, _infer_nd, _gather_nd, flops_per_element=0.0))
