"""Scatters without a Python loop over elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusec.errors import ExecutionError
from fusec.host.compute import Compute
from fusec.host.own.windows import Array

_AT = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _reduction(attrs: Mapping[str, Any]) -> str:
    r = attrs.get("reduction", b"none")
    return r.decode() if isinstance(r, bytes) else str(r)


def _put(out: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    if reduction == "none":
        out[where] = updates
    else:
        _AT[reduction].at(out, where, updates)
    return out


def _wrapped(indices: Array, size: int, op: str) -> Array:
    indices = indices.astype(np.int64)
    bad = (indices < -size) | (indices >= size)
    if bad.any():
        raise ExecutionError(f"{op}: index {indices[bad].flat[0]} is outside a dimension of {size}", op=op)
    return np.where(indices < 0, indices + size, indices)


def _elements(inputs: Sequence[Any], attrs: Mapping[str, Any], _opset: int, _outputs: int) -> Sequence[Any]:
    x, indices, updates = inputs
    axis = int(attrs.get("axis", 0)) % max(x.ndim, 1)
    rows = _rows(x, indices, axis)
    if rows is not None:
        rows = _wrapped(rows, x.shape[axis], "ScatterElements")
        out = x.copy()
        _put_rows(np.moveaxis(out, axis, 0), rows, np.moveaxis(updates, axis, 0), _reduction(attrs))
        return (out,)
    where = list(np.indices(indices.shape, sparse=True))
    where[axis] = _wrapped(indices, x.shape[axis], "ScatterElements")
    return (_put(x.copy(), tuple(where), updates, _reduction(attrs)),)


def _rows(x: Array, indices: Array, axis: int) -> Array | None:
    """The places along `axis`, where each is that of a whole row: graph networks expand one index per edge."""
    if (
        x.ndim < 2
        or not indices.size
        or any(n != m for d, (n, m) in enumerate(zip(x.shape, indices.shape)) if d != axis)
    ):
        return None
    first = indices[tuple(slice(None) if d == axis else slice(1) for d in range(x.ndim))]
    return np.asarray(first.reshape(-1)) if (indices == first).all() else None


def _put_rows(out: Array, rows: Array, updates: Array, reduction: str) -> None:
    """Rows of one place are reduced together, in their order, instead of element by element."""
    if reduction == "none":
        out[rows] = updates
        return
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    at = rows[starts]
    out[at] = _AT[reduction](out[at], _AT[reduction].reduceat(updates[order], starts, axis=0))


def _nd(inputs: Sequence[Any], attrs: Mapping[str, Any], _opset: int, _outputs: int) -> Sequence[Any]:
    x, indices, updates = inputs
    where = tuple(_wrapped(indices[..., i], x.shape[i], "ScatterND") for i in range(indices.shape[-1]))
    return (_put(x.copy(), where, updates, _reduction(attrs)),)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("", "ScatterElements"): _elements,
    ("", "Scatter"): _elements,
    ("", "ScatterND"): _nd,
}
