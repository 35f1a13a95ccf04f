"""Quantised ops: old QuantizeLinear and DequantizeLinear, integer convolutions, and the QLinear family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute
from fusec.host.own.convolve import convolve
from fusec.host.own.resize import by_reference
from fusec.host.own.windows import Array


def along(v: Any, rank: int, axis: int) -> Any:
    """A scale or zero point per position of `axis`, shaped to broadcast."""
    v = np.asarray(v)
    return v.reshape(()) if v.size == 1 else v.reshape(-1, *(1,) * (rank - 1 - axis % max(rank, 1)))


def saturate(x: Array, dtype: Any) -> Array:
    """Clip to an integer type's range."""
    info = np.iinfo(dtype)
    return np.asarray(np.clip(x, info.min, info.max)).astype(dtype)


def dequantised(x: Any, scale: Any, zero: Any, axis: int = 1) -> Array:
    """(x - zero) * scale in f32."""
    x = np.asarray(x)
    shift = 0 if zero is None else along(zero, x.ndim, axis).astype(np.float32)
    return np.asarray((x.astype(np.float32) - shift) * along(scale, x.ndim, axis).astype(np.float32))


def quantised(x: Array, scale: Any, zero: Any, axis: int = 1) -> Array:
    """round(x / scale) + zero, saturated to the zero point's type."""
    zero = np.asarray(np.uint8(0) if zero is None else zero)
    out = np.rint(x / along(scale, x.ndim, axis).astype(x.dtype)) + along(zero, x.ndim, axis).astype(x.dtype)
    return saturate(out, zero.dtype)


def _quantize(inputs: Sequence[Any], attrs: Attrs, opset: int, _outputs: int) -> Sequence[Any]:
    x, scale, zero = (*inputs, None)[:3]
    small = (zero is None and attrs.get("output_dtype")) or (
        zero is not None and np.asarray(zero).dtype.name not in _PLAIN
    )
    if small or attrs.get("block_size") or np.asarray(scale).dtype != np.float32:
        return by_reference("QuantizeLinear", inputs, attrs, max(opset, 19))
    return (quantised(np.asarray(x, np.float32), scale, zero, int(attrs.get("axis", 1))),)


def _dequantize(inputs: Sequence[Any], attrs: Attrs, opset: int, _outputs: int) -> Sequence[Any]:
    x, scale, zero = (*inputs, None)[:3]
    if x.dtype.name not in (*_PLAIN, "int32") or attrs.get("block_size") or attrs.get("output_dtype"):
        return by_reference("DequantizeLinear", inputs, attrs, max(opset, 19))
    return (dequantised(x, scale, zero, int(attrs.get("axis", 1))).astype(np.asarray(scale).dtype),)


_PLAIN = ("int8", "uint8", "int16", "uint16")


def _conv_integer(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x, w, x_zero, w_zero = (*inputs, None, None)[:4]
    wide, weights = _shifted(x, x_zero, 1), _shifted(w, w_zero, 0)
    return (convolve(wide, weights, attrs).astype(np.int32),)


def _shifted(x: Any, zero: Any, axis: int) -> Array:
    """x - zero in f64, where products and sums of small integers are exact."""
    out = np.asarray(x).astype(np.float64)
    return out if zero is None else out - along(zero, out.ndim, axis).astype(np.float64)


def _qlinear_conv(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*inputs, None)[:9]
    total = convolve(_shifted(x, x_zero, 1), _shifted(w, w_zero, 0), attrs)
    if bias is not None:
        total += np.asarray(bias, np.float64).reshape(-1, *(1,) * (total.ndim - 2))
    factor = np.asarray(x_scale, np.float32) * along(w_scale, total.ndim, 1).astype(np.float32)
    y = np.rint(total.astype(np.float32) * (factor / np.asarray(y_scale, np.float32)))
    return (saturate(y + np.asarray(y_zero, np.float32), np.asarray(y_zero).dtype),)


def _qlinear_binary(fn: Callable[[Array, Array], Array]) -> Compute:
    def compute(inputs: Sequence[Any], _attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = (*inputs, None)[:8]
        c_zero = np.zeros((), np.asarray(a).dtype) if c_zero is None else c_zero
        return (quantised(fn(dequantised(a, a_scale, a_zero), dequantised(b, b_scale, b_zero)), c_scale, c_zero),)

    return compute


def _qlinear_unary(fn: Callable[[Array, Attrs], Array]) -> Compute:
    def compute(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
        x, x_scale, x_zero, y_scale, y_zero = (*inputs, None)[:5]
        y_zero = np.zeros((), np.asarray(x).dtype) if y_zero is None else y_zero
        return (quantised(fn(dequantised(x, x_scale, x_zero), attrs), y_scale, y_zero),)

    return compute


def _global_mean(x: Array, attrs: Attrs) -> Array:
    first = 1 if attrs.get("channels_last") else 2
    return np.asarray(x.mean(axis=tuple(range(first, first + x.ndim - 2)), keepdims=True))


def _leaky(x: Array, attrs: Attrs) -> Array:
    return np.where(x >= 0, x, x * np.float32(attrs.get("alpha", 0.01)))


def _qlinear_concat(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    y_scale, y_zero, *parts = inputs
    arrays = [dequantised(*parts[i : i + 3]) for i in range(0, len(parts), 3)]
    return (quantised(np.concatenate(arrays, axis=int(attrs["axis"])), y_scale, y_zero),)


def _qgemm(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero = (*inputs, *(None,) * 3)[:9]
    left, right = _shifted(a, a_zero, 0), np.asarray(b).astype(np.float64)
    left = left.T if attrs.get("transA", 0) else left
    right = right.T if attrs.get("transB", 0) else right
    total = left @ (right - (0 if b_zero is None else np.asarray(b_zero, np.float64)))
    factor = np.asarray(a_scale, np.float32) * np.asarray(b_scale, np.float32) * np.float32(attrs.get("alpha", 1.0))
    total = (total + (0 if bias is None else np.asarray(bias, np.float64))).astype(np.float32) * factor
    return (total,) if y_scale is None else (quantised(total, y_scale, y_zero),)


MS = "com.microsoft"
IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    (MS, "QuantizeLinear"): _quantize,
    (MS, "DequantizeLinear"): _dequantize,
    ("", "ConvInteger"): _conv_integer,
    ("", "QLinearConv"): _qlinear_conv,
    (MS, "QLinearConv"): _qlinear_conv,
    (MS, "QLinearAdd"): _qlinear_binary(np.add),
    (MS, "QLinearMul"): _qlinear_binary(np.multiply),
    (MS, "QLinearGlobalAveragePool"): _qlinear_unary(_global_mean),
    (MS, "QLinearSigmoid"): _qlinear_unary(lambda x, _: 1 / (1 + np.exp(-x))),
    (MS, "QLinearLeakyRelu"): _qlinear_unary(_leaky),
    (MS, "QLinearConcat"): _qlinear_concat,
    (MS, "QGemm"): _qgemm,
}
