"""Rows of normalisations: layer, RMS, batch, instance, group, and plain mean and variance."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.ir.dim import Extent, exact_quotient, product
from fusec.ir.graph import Value
from fusec.ir.types import DType


def moments(call: Call, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value, Value]:
    """(mean, x - mean, variance) over axes that stay as size 1."""
    mean = call.emit("reduce_mean", x, axes=axes, keepdims=True)
    centred = call.emit("sub", x, mean)
    variance = call.emit("reduce_mean", call.emit("mul", centred, centred), axes=axes, keepdims=True)
    return mean, centred, variance


def inverse_deviation(call: Call, variance: Value, epsilon: float) -> Value:
    """1 / sqrt(variance + epsilon)."""
    return call.emit("reciprocal", call.emit("sqrt", call.emit("add", variance, call.scalar(epsilon, variance.dtype))))


def per_channel(call: Call, v: Value, rank: int) -> Value:
    """A vector over channels, shaped to broadcast against [N, C, ...]."""
    return call.reshape(v, (v.shape[0], *(1,) * (rank - 2))) if rank > 2 else v


def affine_of(v: Value | None, inner: Sequence[Extent]) -> bool:
    """Whether a scale or bias has exactly the shape of the normalised axes."""
    return v is None or v.shape == tuple(inner)


@row("LayerNormalization")
def _layer_norm(call: Call) -> tuple[Value, Value | None, Value | None]:
    x, scale, bias = call.x(0), call.maybe(1), call.maybe(2)
    axis, epsilon = call.axis(int(call.attr("axis", -1)), len(x.shape)), float(call.attr("epsilon", 1e-5))
    out = layer_norm(call, x, scale, bias, axis, epsilon)
    if not call.wants(1) and not call.wants(2):
        return out, None, None
    stash = call.cast(x, DType.F32) if call.attr("stash_type", 1) == 1 else x
    mean, _, variance = moments(call, stash, tuple(range(axis, len(x.shape))))
    return out, mean, inverse_deviation(call, variance, epsilon)


def layer_norm(call: Call, x: Value, scale: Value | None, bias: Value | None, axis: int, epsilon: float) -> Value:
    """The native op where scale and bias have its shape; else they are applied afterwards."""
    if affine_of(scale, x.shape[axis:]) and affine_of(bias, x.shape[axis:]) and scale is not None:
        inputs = (x, scale) if bias is None else (x, scale, bias)
        return call.emit("layer_norm", *inputs, axis=axis, epsilon=epsilon)
    out = call.emit("layer_norm", x, axis=axis, epsilon=epsilon)
    out = out if scale is None else call.elementwise("mul", out, scale)
    return out if bias is None else call.elementwise("add", out, bias)


@row("RMSNormalization")
def _rms_norm(call: Call) -> Value:
    x, scale = call.x(0), call.maybe(1)
    axis = call.axis(int(call.attr("axis", -1)), len(x.shape))
    return rms_norm(call, x, scale, axis, float(call.attr("epsilon", 1e-5)))


def rms_norm(call: Call, x: Value, scale: Value | None, axis: int, epsilon: float) -> Value:
    """The native op where the scale has its shape; else it is applied afterwards."""
    if scale is not None and scale.dtype is x.dtype and affine_of(scale, x.shape[axis:]):
        return call.emit("rms_norm", x, scale, axis=axis, epsilon=epsilon)
    out = call.emit("rms_norm", x, axis=axis, epsilon=epsilon)
    return out if scale is None else call.elementwise("mul", out, call.cast(scale, x.dtype))


@row("BatchNormalization")
def _batch_norm(call: Call) -> Value:
    if call.version >= 14 and call.attr("training_mode", 0):
        raise NotNative("batch normalisation in training mode")
    if call.version < 14 and sum(1 for o in call.proto.output if o) > 1:
        raise NotNative("batch normalisation in training mode")
    if call.version < 7 and not call.attr("is_test", 0):
        raise NotNative("batch normalisation in training mode")
    if call.version < 9 and not call.attr("spatial", 1):
        raise NotNative("statistics per element")
    x = call.x(0)
    scale, bias, mean, variance = (call.cast(call.x(i), x.dtype) for i in range(1, 5))
    epsilon = float(call.attr("epsilon", 1e-5))
    factor = call.emit("div", scale, call.emit("sqrt", call.emit("add", variance, call.scalar(epsilon, x.dtype))))
    shift = call.elementwise("sub", bias, call.elementwise("mul", mean, factor))
    factor, shift = (per_channel(call, v, len(x.shape)) for v in (factor, shift))
    return call.elementwise("add", call.elementwise("mul", x, factor), shift)


@row("InstanceNormalization")
def _instance_norm(call: Call) -> Value:
    x, scale, bias = call.x(0), call.x(1), call.x(2)
    rank = len(x.shape)
    _, centred, variance = moments(call, x, tuple(range(2, rank)))
    out = call.emit("mul", centred, inverse_deviation(call, variance, float(call.attr("epsilon", 1e-5))))
    out = call.elementwise("mul", out, per_channel(call, scale, rank))
    return call.elementwise("add", out, per_channel(call, bias, rank))


@row("GroupNormalization")
def _group_norm(call: Call) -> Value:
    x, scale, bias = call.x(0), call.x(1), call.x(2)
    groups, epsilon = int(call.attrs["num_groups"]), float(call.attr("epsilon", 1e-5))
    batch, channels, *rest = x.shape
    per_group = exact_quotient(channels, groups)
    if per_group is None:
        raise call.error(f"{channels} channels do not split into {groups} groups")
    grouped = call.reshape(x, (batch, groups, per_group * product(rest)))
    _, centred, variance = moments(call, grouped, (2,))
    out = call.emit("mul", centred, inverse_deviation(call, variance, epsilon))
    if call.version < 21:  # scale and bias per group
        out = call.elementwise("mul", out, call.reshape(scale, (groups, 1)))
        return call.reshape(call.elementwise("add", out, call.reshape(bias, (groups, 1))), x.shape)
    out = call.reshape(out, x.shape)
    out = call.elementwise("mul", out, per_channel(call, scale, len(x.shape)))
    return call.elementwise("add", out, per_channel(call, bias, len(x.shape)))


@row("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Value:
    x = call.x()
    axes = call.axes(call.attr("axes", (0, 2, 3)), len(x.shape))
    _, centred, variance = moments(call, x, axes)
    deviation = call.emit("add", call.emit("sqrt", variance), call.scalar(1e-9, x.dtype))
    return call.emit("div", centred, deviation)


@row("LpNormalization")
def _lp_norm(call: Call) -> Value:
    x, p = call.x(), call.attr("p", 2)
    axis = call.axis(int(call.attr("axis", -1)), len(x.shape))
    inner = call.emit("abs", x) if p == 1 else call.emit("mul", x, x)
    norm = call.emit("reduce_sum", inner, axes=(axis,), keepdims=True)
    norm = norm if p == 1 else call.emit("sqrt", norm)
    zero = call.scalar(0.0, x.dtype)
    out = call.emit("div", x, norm)
    return call.emit("where", call.emit("eq", norm, zero), zero, out)  # the norm of zeros gives zeros


@row("SkipLayerNormalization", domain="com.microsoft")
def _skip_layer_norm(call: Call) -> tuple[Value | None, ...]:
    if call.wants(1) or call.wants(2):
        raise NotNative("statistics as outputs")
    total = call.elementwise("add", call.x(0), call.x(1))
    if call.has(4):
        total = call.elementwise("add", total, call.x(4))
    epsilon = float(call.attr("epsilon", 1e-12))
    out = layer_norm(call, total, call.x(2), call.maybe(3), len(total.shape) - 1, epsilon)
    return out, None, None, total if call.wants(3) else None


@row("SimplifiedLayerNormalization")
@row("SimplifiedLayerNormalization", domain="com.microsoft")
def _simplified(call: Call) -> Value:
    if call.wants(1):
        raise NotNative("statistics as outputs")
    x = call.x(0)
    axis = call.axis(int(call.attr("axis", -1)), len(x.shape))
    return rms_norm(call, x, call.x(1), axis, float(call.attr("epsilon", 1e-5)))


@row("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_simplified(call: Call) -> tuple[Value | None, ...]:
    if call.wants(1) or call.wants(2):
        raise NotNative("statistics as outputs")
    total = call.elementwise("add", call.x(0), call.x(1))
    if call.has(3):
        total = call.elementwise("add", total, call.x(3))
    out = rms_norm(call, total, call.x(2), len(total.shape) - 1, float(call.attr("epsilon", 1e-5)))
    return out, None, None, total if call.wants(3) else None
