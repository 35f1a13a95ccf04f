"""Normalisations of every opset.

The reference takes batch normalisation of opset 9 to 13 for training where `momentum` is written out, and softmax below
opset 13 for that of today.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute
from fusec.host.own.windows import Array


def _batch_norm(inputs: Sequence[Any], attrs: Attrs, opset: int, outputs: int) -> Sequence[Any]:
    x, scale, bias, mean, variance = inputs
    training = bool(attrs.get("training_mode", 0)) if opset >= 14 else outputs > 1
    spatial = bool(attrs.get("spatial", 1))
    axes = (0, *range(2, x.ndim)) if spatial else (0,)
    momentum = attrs.get("momentum", 0.9)
    used_mean, used_variance = mean, variance
    if training:
        used_mean, used_variance = x.mean(axis=axes, dtype=np.float64), x.var(axis=axes, dtype=np.float64)
    shape = (-1, *(1,) * (x.ndim - 2)) if spatial else x.shape[1:]
    s, b, m, v = (np.asarray(t).reshape(shape) for t in (scale, bias, used_mean, used_variance))
    y = ((x - m) * (s / np.sqrt(v + np.asarray(attrs.get("epsilon", 1e-5), v.dtype))) + b).astype(x.dtype)
    if not training:
        return (y,)
    running = [
        (old * momentum + new * (1 - momentum)).astype(old.dtype)
        for old, new in ((mean, used_mean), (variance, used_variance))
    ]
    saved = [used_mean.astype(mean.dtype), used_variance.astype(variance.dtype)]
    return (y, *running, *saved)[:outputs]


def _coerced(op: Callable[[Array], Array]) -> Compute:
    """Softmax and its relatives; before opset 13 everything from `axis` on is one row, which the reference forgets."""

    def compute(inputs: Sequence[Any], attrs: Attrs, opset: int, _outputs: int) -> Sequence[Any]:
        (x,) = inputs
        axis = int(attrs.get("axis", -1 if opset >= 13 else 1))
        axis = axis + x.ndim if axis < 0 else axis
        if opset >= 13:
            return (np.moveaxis(op(np.moveaxis(x, axis, -1)), -1, axis),)
        return (op(x.reshape(int(np.prod(x.shape[:axis])), -1)).reshape(x.shape),)

    return compute


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _hardmax(x: Array) -> Array:
    return np.asarray((np.arange(x.shape[-1]) == x.argmax(axis=-1)[..., None]).astype(x.dtype))


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("", "BatchNormalization"): _batch_norm,
    ("", "Softmax"): _coerced(_softmax),
    ("", "LogSoftmax"): _coerced(_log_softmax),
    ("", "Hardmax"): _coerced(_hardmax),
}
