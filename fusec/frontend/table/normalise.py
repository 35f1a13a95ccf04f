"""Rows of normalisations: layer, RMS, batch, instance, group, and plain mean and variance."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, check_equal, row
from fusec.frontend.known import is_equal
from fusec.ir.dim import Extent, exact_quotient
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


def parameter(call: Call, i: int, x: Value) -> Value:
    """Input `i`, which must have one number per channel of `x`, in the dtype of `x`."""
    v = call.x(i)
    if len(v.shape) != 1 or is_equal(v.shape[0], x.shape[1]) is False:
        raise call.error(f"input {i} is {v.type}, the data have {x.shape[1]} channels")
    check_equal(v.shape[0], x.shape[1])
    return call.cast(v, x.dtype)


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
def _batch_norm(call: Call) -> tuple[Value, Value | None, Value | None]:
    x = call.x(0)
    rank, epsilon = len(x.shape), float(call.attr("epsilon", 1e-5))
    if rank < 2:
        raise call.error(f"needs a batch and channels, got {x.type}")
    if call.version >= 14 and call.attr("training_mode", 0):
        return _batch_statistics(call, x, epsilon)
    if call.version < 14 and sum(1 for o in call.proto.output if o) > 1:
        raise NotNative("batch normalisation in training mode")
    if call.version < 7 and not call.attr("is_test", 0):
        raise NotNative("batch normalisation in training mode")
    spatial = call.version >= 9 or call.attr("spatial", 1)
    scale, bias, mean, variance = (
        parameter(call, i, x) if spatial else call.cast(call.x(i), x.dtype) for i in range(1, 5)
    )
    factor = call.emit("div", scale, call.emit("sqrt", call.emit("add", variance, call.scalar(epsilon, x.dtype))))
    shift = call.elementwise("sub", bias, call.elementwise("mul", mean, factor))
    if spatial:
        factor, shift = (per_channel(call, v, rank) for v in (factor, shift))
    return call.elementwise("add", call.elementwise("mul", x, factor), shift), None, None


def _batch_statistics(call: Call, x: Value, epsilon: float) -> tuple[Value, Value, Value]:
    """Training mode: normalised by the batch's own moments, which the running ones move towards."""
    rank, momentum = len(x.shape), float(call.attr("momentum", 0.9))
    mean, centred, variance = moments(call, x, tuple(i for i in range(rank) if i != 1))
    out = call.emit("mul", centred, inverse_deviation(call, variance, epsilon))
    scale, bias = (per_channel(call, parameter(call, i, x), rank) for i in (1, 2))
    out = call.elementwise("add", call.elementwise("mul", out, scale), bias)
    running = list[Value]()
    for i, new in ((3, mean), (4, variance)):
        old = call.x(i)
        kept = call.emit("mul", old, call.scalar(momentum, old.dtype))
        new = call.cast(call.reshape(new, (x.shape[1],)), old.dtype)
        running.append(call.elementwise("add", kept, call.emit("mul", new, call.scalar(1 - momentum, old.dtype))))
    return out, running[0], running[1]


@row("InstanceNormalization")
def _instance_norm(call: Call) -> Value:
    x = call.x(0)
    rank = len(x.shape)
    if rank < 3:
        raise call.error(f"needs channels and at least one more axis, got {x.type}")
    scale, bias = parameter(call, 1, x), parameter(call, 2, x)
    _, centred, variance = moments(call, x, tuple(range(2, rank)))
    out = call.emit("mul", centred, inverse_deviation(call, variance, float(call.attr("epsilon", 1e-5))))
    out = call.elementwise("mul", out, per_channel(call, scale, rank))
    return call.elementwise("add", out, per_channel(call, bias, rank))


@row("GroupNormalization")
def _group_norm(call: Call) -> Value:
    x, groups, epsilon = call.x(0), int(call.attrs["num_groups"]), float(call.attr("epsilon", 1e-5))
    wide = call.cast(x, DType.F32) if call.attr("stash_type", 1) == 1 and x.dtype.itemsize < 4 else x
    size = groups if call.version < 21 else None  # scale and bias were per group
    return call.cast(group_norm(call, wide, groups, epsilon, size), x.dtype)


def group_norm(call: Call, x: Value, groups: int, epsilon: float, size: int | None = None) -> Value:
    """[N, C, ...] normalised in groups of channels, with inputs 1 and 2 of `size` numbers (one per channel by default).

    The moments of groups are made of those of channels, so that all work on whole tensors is per channel in any layout.
    """
    rank = len(x.shape)
    if rank < 2 or groups < 1:
        raise call.error(f"num_groups {groups} does not fit {x.type}")
    batch, channels, *rest = x.shape
    each = exact_quotient(channels, groups)
    if each is None:
        raise call.error(f"num_groups is {groups}, which does not divide the {channels} channels of {x.type}")
    grouped, column = (batch, groups, each), (batch, channels, *(1,) * len(rest))
    spatial = tuple(range(2, rank))
    mean = call.reshape(call.emit("reduce_mean", x, axes=spatial, keepdims=True) if rest else x, column)
    group_mean = call.emit("reduce_mean", call.reshape(mean, grouped), axes=(2,), keepdims=True)
    distance = call.emit("sub", call.reshape(mean, grouped), group_mean)
    square = call.emit("mul", distance, distance)
    if rest:
        centred = call.emit("sub", x, mean)
        own = call.emit("reduce_mean", call.emit("mul", centred, centred), axes=spatial, keepdims=True)
        square = call.emit("add", square, call.reshape(own, grouped))
    inverse = inverse_deviation(call, call.emit("reduce_mean", square, axes=(2,), keepdims=True), epsilon)
    shape = (groups, each) if size is None else (groups, 1)
    scale, bias = (call.reshape(call.cast(call.x(i), x.dtype), shape) for i in (1, 2))
    factor = call.reshape(call.expand(call.elementwise("mul", inverse, scale), grouped), column)
    middle, shift = (call.reshape(call.expand(v, grouped), column) for v in (group_mean, bias))
    return call.emit("add", call.emit("mul", call.emit("sub", x, middle), factor), shift)


@row("GroupNorm", domain="com.microsoft")
def _contrib_group_norm(call: Call) -> Value:
    """The channels are last by default; an activation of 1 is x * sigmoid(x)."""
    x, last = call.x(0), bool(call.attr("channels_last", 1))
    rank = len(x.shape)
    wide = call.cast(x, DType.F32)
    first = call.transpose(wide, (0, rank - 1, *range(1, rank - 1))) if last else wide
    out = group_norm(call, first, int(call.attrs["groups"]), float(call.attr("epsilon", 1e-5)))
    out = call.transpose(out, (0, *range(2, rank), 1)) if last else out
    return call.cast(call.emit("swish", out, alpha=1.0) if call.attr("activation", 0) else out, x.dtype)


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
    if p not in (1, 2):
        raise call.error(f"p is {p}; 1 and 2 are defined")
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
