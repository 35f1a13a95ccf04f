"""Batch normalisation of every opset; the reference takes opset 9 to 13 for training where `momentum` is written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusec.host.compute import Compute


def _batch_norm(inputs: Sequence[Any], attrs: Mapping[str, Any], opset: int, outputs: int) -> Sequence[Any]:
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


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {("", "BatchNormalization"): _batch_norm}
