"""Rows of ai.onnx.ml ops that are pointwise work: scalers, normalisers, linear models."""

from __future__ import annotations

import numpy as np

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.ir.graph import Value
from fusec.ir.types import DType

ML = "ai.onnx.ml"


def _floats(call: Call, name: str, length: object) -> Value | None:
    """An attribute of floats as a constant; one value stands for all."""
    values = call.attr(name)
    if values is None:
        return None
    if len(values) not in (1, length):
        raise NotNative(f"{len(values)} values of {name} for {length} features")
    array = np.asarray(values, np.float32)
    return call.builder.constant(array.reshape(()) if len(values) == 1 else array)


@row("Scaler", domain=ML)
def _scaler(call: Call) -> Value:
    x = call.cast(call.x(), DType.F32)
    offset, scale = (_floats(call, n, x.shape[-1] if x.shape else 1) for n in ("offset", "scale"))
    out = x if offset is None else call.elementwise("sub", x, offset)
    return out if scale is None else call.elementwise("mul", out, scale)


@row("Normalizer", domain=ML)
def _normalizer(call: Call) -> Value:
    x = call.cast(call.x(), DType.F32)
    if len(x.shape) != 2:
        raise NotNative("a tensor of another rank than 2")
    norm = call.attr("norm", "MAX")
    size = call.emit("abs", x) if norm in ("MAX", "L1") else call.emit("mul", x, x)
    total = call.emit("reduce_max" if norm == "MAX" else "reduce_sum", size, axes=(1,), keepdims=True)
    total = call.emit("sqrt", total) if norm == "L2" else total
    zero, one = call.scalar(0.0, DType.F32), call.scalar(1.0, DType.F32)
    return call.emit("div", x, call.emit("where", call.emit("eq", total, zero), one, total))


@row("LinearRegressor", domain=ML)
def _linear_regressor(call: Call) -> Value:
    x = call.cast(call.x(), DType.F32)
    targets = int(call.attr("targets", 1))
    if len(x.shape) != 2 or not isinstance(x.shape[1], int) or call.attr("post_transform", "NONE") != "NONE":
        raise NotNative("a linear model with a transform, or of unknown width")
    weights = np.asarray(call.attrs["coefficients"], np.float32).reshape(targets, x.shape[1]).T
    out = call.matmul(x, call.builder.constant(np.ascontiguousarray(weights)))
    bias = call.attr("intercepts")
    return out if bias is None else call.elementwise("add", out, call.builder.constant(np.asarray(bias, np.float32)))


@row("Binarizer", domain=ML)
def _binarizer(call: Call) -> Value:
    x = call.x()
    above = call.emit("gt", x, call.scalar(float(call.attr("threshold", 0.0)), x.dtype))
    return call.cast(above, x.dtype)


@row("FeatureVectorizer", domain=ML)
def _features(call: Call) -> Value:
    parts = [call.cast(call.x(i), DType.F32) for i in range(len(call.inputs))]
    if any(len(p.shape) != 2 for p in parts) or tuple(call.attr("inputdimensions", ())) != tuple(
        p.shape[1] for p in parts
    ):
        raise NotNative("parts that are cut or padded")
    return call.concat(parts, 1)


@row("Imputer", domain=ML)
def _imputer(call: Call) -> Value:
    x = call.x()
    values = _floats(call, "imputed_value_floats", x.shape[-1] if x.shape else 1)
    missing = float(call.attr("replaced_value_float", 0.0))
    if values is None or x.dtype is not DType.F32:
        raise NotNative("imputing integers")
    test = call.emit("isnan", x) if np.isnan(missing) else call.emit("eq", x, call.scalar(missing, x.dtype))
    return call.elementwise("where", test, values, x)
