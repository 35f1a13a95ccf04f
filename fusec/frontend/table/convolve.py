"""Rows of convolutions. The native op has channels last: transposes go around it, which a graph pass moves out of the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.known import is_equal
from fusec.frontend.table.activation import activated
from fusec.frontend.table.levels import shifted
from fusec.frontend.table.pool import padded
from fusec.frontend.table.quantise import saturated
from fusec.frontend.table.spatial import windows_of
from fusec.ir.dim import Extent, exact_quotient, product
from fusec.ir.graph import Attr, Value
from fusec.ir.types import DType
from fusec.ops.convolve import FEW_CHANNELS, is_padded_ahead


@dataclass(frozen=True)
class Filters:
    """What a convolution's attributes say besides its weight, for channels-last data."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Extent, ...]
    after: tuple[Extent, ...]
    groups: int


def channels_last(call: Call, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    n = len(x.shape)
    return call.transpose(x, (0, *range(2, n), 1))


def channels_first(call: Call, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    n = len(x.shape)
    return call.transpose(x, (0, n - 1, *range(1, n - 1)))


def filters_of(call: Call, x: Value, w: Value) -> Filters:
    """The attributes of a convolution of `x` [N, C, ...] with `w` [O, C / groups, ...], checked against both."""
    rank = len(x.shape)
    if rank < 3 or len(w.shape) != rank:
        raise call.error(f"needs data and a weight of one rank of 3 or more, got {x.type} and {w.type}")
    kernel = kernel_of(call, w)
    groups = group_of(call, x.shape[1], w.shape[1])
    if isinstance(w.shape[0], int) and w.shape[0] % groups:
        raise call.error(f"group {groups} does not divide the {w.shape[0]} filters")
    windows = windows_of(call, x.shape[2:], kernel)
    return Filters(windows.strides, windows.dilations, windows.before, windows.after, groups)


def kernel_of(call: Call, w: Value) -> tuple[int, ...]:
    """The kernel's sizes, which the weight and the attribute kernel_shape must agree on."""
    sizes = w.shape[2:]
    kernel = tuple(n for n in sizes if isinstance(n, int))
    if len(kernel) != len(sizes):
        raise NotNative(f"a kernel of the symbolic size {list(sizes)}")
    told = tuple(call.attr("kernel_shape", ()) or kernel)
    if told != kernel:
        raise call.error(f"kernel_shape {list(told)} contradicts the weight {w.type}")
    return kernel


def group_of(call: Call, channels: Extent, per_group: Extent) -> int:
    """The attribute group, which must say how often the weight's channels make the data's."""
    groups = int(call.attr("group", 1))
    if groups < 1:
        raise call.error(f"group {groups} must be at least 1")
    if is_equal(channels, per_group * groups) is False:
        raise call.error(f"group {groups} of {per_group} channels contradicts the {channels} channels of the data")
    call.require_equal(channels, per_group * groups)
    return groups


def convolved(call: Call, x: Value, w: Value, f: Filters, integers: bool = False) -> Value:
    """The native op on `x` [N, ..., C] and `w` [O, C / groups, ...]; of short `integers` in i32."""
    n = len(f.strides)
    before, after = f.before, f.after
    if is_padded_ahead(x.shape[-1], w.shape[-1], f.groups):
        x = padded(call, x, (0, *before, 0), (0, *after, 0))
        before = after = (0,) * n
    w = call.transpose(w, (*range(2, n + 2), 1, 0))
    attrs: dict[str, Attr] = {"to": DType.I32} if integers else {}
    attrs |= {"strides": f.strides, "dilations": f.dilations, "before": before, "after": after, "groups": f.groups}
    return call.emit("conv", x, w, **attrs)


def biased(call: Call, x: Value, bias: Value | None) -> Value:
    """A number per channel added to [N, ..., C]."""
    if bias is None:
        return x
    if len(bias.shape) != 1 or is_equal(bias.shape[0], x.shape[-1]) is False:
        raise call.error(f"the bias {bias.type} is not one number for each of {x.shape[-1]} filters")
    return call.elementwise("add", x, bias)


@row("Conv")
def _conv(call: Call) -> Value:
    x, w, bias = call.x(0), call.x(1), call.maybe(2)
    f = filters_of(call, x, w)
    if (patches := _patches(call, x, w, f)) is not None:
        return channels_first(call, biased(call, patches, bias))
    return channels_first(call, biased(call, convolved(call, channels_last(call, x), w, f), bias))


def _patches(call: Call, x: Value, w: Value, f: Filters) -> Value | None:
    """The embedding of an image's patches, [N, patches..., O]: windows that tile few channels are rows of a matrix."""
    batch, channels, *sizes = x.shape
    kernel = w.shape[2:]
    plain = f.groups == 1 and f.strides == kernel and not any(d != 1 for d in f.dilations)
    if not plain or any(p != 0 for p in (*f.before, *f.after)) or all(k == 1 for k in kernel):
        return None
    counts = [exact_quotient(n, k) for n, k in zip(sizes, kernel)]
    if not isinstance(channels, int) or channels >= FEW_CHANNELS or None in counts:
        return None
    known = [c for c in counts if c is not None]
    n = len(sizes)
    split = [d for pair in zip(known, kernel) for d in pair]
    perm = (0, *range(2, 2 + 2 * n, 2), 1, *range(3, 3 + 2 * n, 2))
    patches = call.transpose(call.reshape(x, (batch, channels, *split)), perm)
    depth = product(w.shape[1:])
    rows = call.reshape(patches, (batch, product(known), depth))
    weights = call.transpose(call.reshape(w, (w.shape[0], depth)), (1, 0))
    return call.reshape(call.matmul(rows, weights), (batch, *known, w.shape[0]))


@row("ConvInteger")
def _conv_integer(call: Call) -> Value:
    return channels_first(call, _integer_product(call, call.x(0), call.x(1), call.maybe(2), call.maybe(3)))


def _integer_product(call: Call, x: Value, w: Value, x_zero: Value | None, w_zero: Value | None) -> Value:
    """(x - its zero point) convolved with (w - its), [N, ..., O] in i32: padding is what stands for zero."""
    f = filters_of(call, x, w)
    if x_zero is not None and product(x_zero.shape) != 1:
        raise NotNative("zero points per channel of the data")
    if w_zero is not None and len(w_zero.shape) == 1 and w_zero.shape != (1,):
        ones = (1,) * (len(w.shape) - 1)
        points = call.builder.array(w_zero)
        if points is None:
            w_zero = call.reshape(w_zero, (*w_zero.shape, *ones))
        else:  # a constant stays one: what is known to be 0 need not be subtracted
            w_zero = call.builder.constant(points.reshape(-1, *ones))
    x_zero = None if x_zero is None else call.reshape(x_zero, ())
    data = shifted(call, channels_last(call, x), x_zero, per_row=False)
    return convolved(call, data, shifted(call, w, w_zero, per_row=False), f, integers=True)


@row("QLinearConv")
@row("QLinearConv", domain="com.microsoft")
def _qlinear_conv(call: Call) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.x(i) for i in range(8))
    if call.attr("channels_last", 0):
        raise NotNative("quantised data with its channels last")
    if any(v.dtype is not DType.F32 for v in (x_scale, w_scale, y_scale)):
        raise NotNative("scales of another type than f32")
    if product(x_scale.shape) != 1 or product(y_scale.shape) != 1 or product(y_zero.shape) != 1:
        raise NotNative("scales per channel of the data")
    total = biased(call, _integer_product(call, x, w, x_zero, w_zero), call.maybe(8))
    factor = call.elementwise("mul", call.reshape(x_scale, ()), _number_or_vector(call, w_scale))
    factor = call.elementwise("div", factor, call.reshape(y_scale, ()))
    scaled = call.elementwise("mul", call.cast(total, DType.F32), factor)
    return channels_first(call, saturated(call, scaled, call.reshape(y_zero, ()), y_zero.dtype))


def _number_or_vector(call: Call, v: Value) -> Value:
    return call.reshape(v, ()) if product(v.shape) == 1 else v


@row("FusedConv", domain="com.microsoft")
def _fused_conv(call: Call) -> Value:
    """A convolution, what is added to it, and an activation."""
    x, w = call.x(0), call.x(1)
    out = channels_first(
        call, biased(call, convolved(call, channels_last(call, x), w, filters_of(call, x, w)), call.maybe(2))
    )
    out = out if (z := call.maybe(3)) is None else call.elementwise("add", out, z)
    return activated(call, out, tuple(float(v) for v in call.attr("activation_params", ())))


@row("NhwcConv", domain="com.microsoft")
def _nhwc_conv(call: Call) -> Value:
    """A convolution of data with its channels last."""
    x, w = call.x(0), call.x(1)
    f = filters_of(call, channels_first(call, x), w)
    return biased(call, convolved(call, x, w, f), call.maybe(2))


def spread(x: Sequence[Extent], y: Sequence[Extent]) -> tuple[Extent, ...]:
    """Two sequences in turns."""
    return tuple(d for pair in zip(x, y, strict=True) for d in pair)
