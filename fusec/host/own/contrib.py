"""com.microsoft ops that onnxruntime's tools write into models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusec.errors import ExecutionError
from fusec.host.compute import Attrs, Compute
from fusec.host.own.recurrent import Product, lstm_step, make_layers, run_layers
from fusec.host.own.windows import Array


def _dynamic_quantize_lstm(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    """An LSTM whose products run in 8 bits: x and the state are quantised on the fly, as onnxruntime does it.

    Products are exact here. onnxruntime's are on processors with VNNI; its AVX2 kernels saturate sums of two products at
    16 bits, so that its own answers differ by a few per cent between machines.
    """
    x, w, r, bias, lengths, h0, c0, peepholes, w_scale, w_zero, r_scale, r_zero = (*inputs, *(None,) * 12)[:12]
    products = [
        (_quantised_product(w[d], w_scale[d], w_zero[d]), _quantised_product(r[d], r_scale[d], r_zero[d]))
        for d in range(len(w))
    ]
    layers = make_layers(
        products, bias, peepholes, r.shape[1], 4, ("Sigmoid", "Tanh", "Tanh"), attrs, np.dtype(np.float32)
    )
    return run_layers(x, layers, lstm_step, lengths, h0, c0)


def _quantised_product(weights: Array, scale: Array, zero: Array) -> Product:
    # f32 holds every integer up to 2^24, and 255 * 127 * 500 stays below; wider layers go through f64
    exact = np.float32 if weights.shape[0] <= 500 else np.float64
    shifted = np.ascontiguousarray(weights.astype(exact) - np.asarray(zero).astype(exact))

    def product(x: Array) -> Array:
        quantised, x_scale = _to_bytes(x)
        out = (quantised.astype(exact) @ shifted).astype(np.float32) * (x_scale * np.asarray(scale, np.float32))
        return np.asarray(out)

    return product


def _to_bytes(x: Array) -> tuple[Array, Any]:
    """x as (unsigned byte - zero point) and its scale."""
    low, high = min(float(x.min(initial=0.0)), 0.0), max(float(x.max(initial=0.0)), 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255)) if high != low else np.float32(1)
    zero = np.clip(np.rint(np.float32(-low) / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255) - zero, scale


def _matmul_nbits(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    """x @ W.T with W in blocks of 4 or 8 bit numbers that share a scale."""
    x, packed, scales, zeros, groups, bias = (*inputs, None, None, None)[:6]
    n, k, bits, block = (int(attrs[a]) for a in ("N", "K", "bits", "block_size"))
    if bits not in (4, 8) or groups is not None:
        raise ExecutionError(f"MatMulNBits: {bits} bits or a group index", op="MatMulNBits")
    blocks = -(-k // block)
    values = _unpacked(packed.reshape(n, blocks, -1), bits).astype(np.float32)[..., :block]
    if zeros is None:
        shift: Any = np.float32(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        shift = _unpacked(zeros.reshape(n, -1), bits).astype(np.float32)[:, :blocks, None]
    else:
        shift = zeros.reshape(n, blocks, 1).astype(np.float32)
    weights = ((values - shift) * scales.reshape(n, blocks, 1).astype(np.float32)).reshape(n, -1)[:, :k]
    out = x.astype(np.float32) @ weights.T
    return ((out if bias is None else out + bias.astype(np.float32)).astype(x.dtype),)


def _unpacked(packed: Array, bits: int) -> Array:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("com.microsoft", "DynamicQuantizeLSTM"): _dynamic_quantize_lstm,
    ("com.microsoft", "MatMulNBits"): _matmul_nbits,
}
