"""DynamicQuantizeLSTM as its description says, written for tests alone: products in int64, gates in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


def product(x: Any, w: Any, scale: Any, zero: Any) -> Any:
    """x @ w with x quantised to bytes as DynamicQuantizeLinear says, summed in int64."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    x_scale = (high - low) / np.float32(255)
    x_zero = np.clip(np.rint(-low / x_scale), 0, 255) if x_scale else np.float32(0)
    x_scale = x_scale or np.float32(1)
    q = np.clip(np.rint(x / x_scale) + x_zero, 0, 255).astype(np.int64) - np.int64(x_zero)
    whole = q @ (w.astype(np.int64) - zero.astype(np.int64))
    return whole * (np.float64(x_scale) * np.float64(scale))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


class DynamicQuantizeLSTM(OpRun):
    """Gates in the order input, output, forget, cell; no peepholes, no clipping, all sequences of full length."""

    op_domain = "com.microsoft"

    def _run(
        self, x: Any, w: Any, r: Any, b: Any, lengths: Any, h0: Any, c0: Any, p: Any, *scales: Any, **attrs: Any
    ) -> Any:
        assert (lengths is None or (lengths == len(x)).all()) and p is None and not attrs.get("clip")
        w_scale, w_zero, r_scale, r_zero = scales
        y, last_h, last_c = [], [], []
        for d in range(len(w)):
            backwards = d == 1 or attrs.get("direction") == "reverse"
            hidden = r.shape[1]
            bias = b[d].astype(np.float64).reshape(2, -1).sum(axis=0)
            inputs = product(x, w[d], w_scale[d], w_zero[d]) + bias
            h = np.zeros((x.shape[1], hidden), np.float32) if h0 is None else h0[d]
            c = np.zeros((x.shape[1], hidden)) if c0 is None else c0[d].astype(np.float64)
            rows = []
            for gates in inputs[::-1] if backwards else inputs:
                i, o, f, g = np.split(gates + product(h, r[d], r_scale[d], r_zero[d]), 4, axis=1)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = (sigmoid(o) * np.tanh(c)).astype(np.float32)
                rows.append(h)
            y.append(np.stack(rows[::-1] if backwards else rows))
            last_h.append(h)
            last_c.append(c.astype(np.float32))
        return np.stack(y, axis=1), np.stack(last_h), np.stack(last_c)
