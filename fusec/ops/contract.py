"""Contractions: matrix products, and attention as one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.types import TensorType, Type
from fusec.ops.body import reference
from fusec.ops.normalize import softmax
from fusec.ops.op import Attrs, Kind, Op, register
from fusec.ops.product import product_dtype, product_reference
from fusec.ops.rules import FLOATS, accept, broadcast, same_dtype, tensors, unify

Array = npt.NDArray[Any]


def _infer_matmul(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    a, b = tensors("matmul", inputs, 2)
    dtype = product_dtype("matmul", a, b, attrs)
    if len(a.dims) < 2 or len(b.dims) < 2:
        raise ModelError(f"matmul: needs rank 2 or more: {a} @ {b}", op="matmul")
    if unify(a.dims[-1], b.dims[-2]) is None:
        raise ModelError(f"matmul: inner sizes differ: {a} @ {b}", op="matmul")
    batch = broadcast("matmul", [a.dims[:-2], b.dims[:-2]])
    return (TensorType(dtype, (*batch, a.dims[-2], b.dims[-1])),)


register(Op("matmul", Kind.CONTRACTION, _infer_matmul, product_reference(np.matmul), None, 2.0))


EMPTY_ROWS = ("nan", "zero")
"""What attention gives for a position that sees nothing, because its scores are all -inf or one is NaN."""


def _infer_attention(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    ts = tensors("attention", inputs, 3, 4)
    dtype = same_dtype("attention", ts)
    q, k, v = ts[:3]
    accept("attention", q, FLOATS)
    if attrs.get("empty_rows", "nan") not in EMPTY_ROWS:
        raise ModelError(f"attention: empty_rows must be one of {EMPTY_ROWS}", op="attention")
    if min(len(t.dims) for t in (q, k, v)) < 2:
        raise ModelError(f"attention: needs rank 2 or more: q {q}, k {k}, v {v}", op="attention")
    if unify(q.dims[-1], k.dims[-1]) is None or unify(k.dims[-2], v.dims[-2]) is None:
        raise ModelError(f"attention: sizes of q {q}, k {k} and v {v} do not fit", op="attention")
    batch = broadcast("attention", [t.dims[:-2] for t in (q, k, v)])
    scores = (*batch, q.dims[-2], k.dims[-2])
    if len(ts) == 4 and len(broadcast("attention", [scores, ts[3].dims])) != len(scores):
        raise ModelError(f"attention: the mask {ts[3]} has more dimensions than the scores", op="attention")
    return (TensorType(dtype, (*batch, q.dims[-2], v.dims[-1])),)


def _attention(
    q: Array, k: Array, v: Array, *mask: Array, scale: float, causal: bool, empty_rows: str, past: int
) -> Array:
    """Row t sees positions s <= t + past where `causal`."""
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * np.asarray(scale, q.dtype)
    if causal:
        rows, columns = np.indices(scores.shape[-2:])
        scores = np.where(columns <= rows + past, scores, np.asarray(-np.inf, q.dtype))
    if mask:
        scores = scores + mask[0]
    p = softmax(scores, -1)
    p = np.where(np.isnan(p), np.zeros((), p.dtype), p) if empty_rows == "zero" else p
    return np.asarray(np.matmul(p, v))


register(
    Op(
        "attention",
        Kind.CONTRACTION,
        _infer_attention,
        reference(_attention, "scale", "causal", "empty_rows", "past", defaults={"empty_rows": "nan", "past": 0}),
        None,
        4.0,
    )
)
