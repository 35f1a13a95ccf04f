"""Views: each output element is one input element from elsewhere, or a fill. Also where tensors of dimensions are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ModelError
from fusec.ir.dim import Extent, product, quotient
from fusec.ir.evaluate import literal
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.op import Attrs, Infer, Kind, Op, Reference, as_tuple, register
from fusec.ops.rules import broadcast, check_axis, native, same_dtype, same_shape, show, tensors

Array = npt.NDArray[Any]
PAD_MODES = ("constant", "edge", "reflect", "wrap")


def _register(name: str, infer: Infer, compute: Reference) -> None:
    register(Op(name, Kind.VIEW, infer, compute, flops_per_element=0.0))


def _first(args: Sequence[Array | None]) -> Array:
    if not args or args[0] is None:
        raise BugError("a required input is missing")
    return args[0]


def _infer_identity(inputs: Sequence[Type | None], _: Attrs) -> tuple[Type, ...]:
    if len(inputs) != 1 or inputs[0] is None:
        raise ModelError("identity: takes 1 input", op="identity")
    return (inputs[0],)


_register("identity", _infer_identity, lambda args, _: as_tuple(_first(args)))


def _infer_reshape(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("reshape", inputs, 1)
    shape = tuple(attrs["shape"])
    before, after = product(x.dims), product(shape)
    if (isinstance(before, int) and isinstance(after, int) and before != after) or _negative(shape):
        raise ModelError(f"reshape: {show(x.dims)} does not have the element count of {show(shape)}", op="reshape")
    return (TensorType(x.dtype, shape),)


_register("reshape", _infer_reshape, lambda args, attrs: as_tuple(_first(args).reshape(attrs["shape"])))


def _infer_transpose(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("transpose", inputs, 1)
    perm = tuple(attrs["perm"])
    if sorted(perm) != list(range(len(x.dims))):
        raise ModelError(f"transpose: {perm} is no permutation of the dimensions of {x}", op="transpose")
    return (TensorType(x.dtype, tuple(x.dims[p] for p in perm)),)


_register("transpose", _infer_transpose, lambda args, attrs: as_tuple(_first(args).transpose(attrs["perm"])))


def _infer_expand(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("expand", inputs, 1)
    shape = tuple(attrs["shape"])
    joint = broadcast("expand", [shape, x.dims])
    clash = [d for d, s in zip(joint, shape) if isinstance(s, int) and isinstance(d, int) and d != s]
    if len(joint) != len(shape) or clash or _negative(shape):
        raise ModelError(f"expand: {show(x.dims)} does not broadcast to {show(shape)}", op="expand")
    return (TensorType(x.dtype, shape),)


_register("expand", _infer_expand, lambda args, attrs: as_tuple(np.broadcast_to(_first(args), attrs["shape"])))


def _infer_slice(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("slice", inputs, 1)
    starts, sizes, steps = (tuple(attrs[n]) for n in ("starts", "sizes", "steps"))
    if not len(starts) == len(sizes) == len(steps) == len(x.dims) or _negative(sizes):
        raise ModelError(f"slice: starts, sizes and steps do not fit {x}", op="slice")
    for n, start, size, step in zip(x.dims, starts, sizes, steps):
        if isinstance(n, int) and isinstance(start, int) and isinstance(size, int) and size > 0:
            last = start + (size - 1) * step
            if not (0 <= start < n and 0 <= last < n):
                raise ModelError(f"slice: {start}..{last} is outside a dimension of {n} in {x}", op="slice")
    return (TensorType(x.dtype, sizes),)


def _slice_reference(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    ranges = (
        start + np.arange(size) * step for start, size, step in zip(attrs["starts"], attrs["sizes"], attrs["steps"])
    )
    return as_tuple(_first(args)[np.ix_(*ranges)] if len(attrs["starts"]) else _first(args))


_register("slice", _infer_slice, _slice_reference)


def _infer_concat(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    ts = tensors("concat", inputs, max(1, len(inputs)))
    dtype = same_dtype("concat", ts)
    axis = check_axis("concat", attrs["axis"], len(ts[0].dims))
    shape = list(same_shape("concat", [t.dims for t in ts], free=axis))
    total: Extent = 0
    for t in ts:
        total = t.dims[axis] + total
    shape[axis] = total
    return (TensorType(dtype, tuple(shape)),)


def _concat_reference(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    return as_tuple(np.concatenate([a for a in args if a is not None], axis=attrs["axis"]))


_register("concat", _infer_concat, _concat_reference)


def _infer_pad(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    ts = tensors("pad", inputs, 1, 2)
    before, after = tuple(attrs["before"]), tuple(attrs["after"])
    if attrs["mode"] not in PAD_MODES:
        raise ModelError(f"pad: unknown mode {attrs['mode']!r}", op="pad", hint=f"known: {', '.join(PAD_MODES)}")
    if not len(before) == len(after) == len(ts[0].dims):
        raise ModelError(f"pad: {len(before)} and {len(after)} paddings do not fit {ts[0]}", op="pad")
    if len(ts) == 2 and (ts[1].dims != () or same_dtype("pad", ts) is not ts[0].dtype):
        raise ModelError(f"pad: the value must be a scalar, got {ts[1]}", op="pad")
    shape = tuple(b + n + a for n, b, a in zip(ts[0].dims, before, after))
    if _negative(shape):
        raise ModelError(f"pad: cropping {show(ts[0].dims)} by more than there is", op="pad")
    return (TensorType(ts[0].dtype, shape),)


def _pad_reference(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, before, after = _first(args), attrs["before"], attrs["after"]
    kept = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, b, a in zip(x.shape, before, after))]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after)]
    if attrs["mode"] != "constant":
        return as_tuple(np.pad(kept, widths, mode=attrs["mode"]))
    value = args[1] if len(args) > 1 and args[1] is not None else np.zeros((), x.dtype)
    out = np.full([n + b + a for n, (b, a) in zip(kept.shape, widths)], value, x.dtype)
    out[tuple(slice(b, b + n) for n, (b, _) in zip(kept.shape, widths))] = kept
    return as_tuple(out)


_register("pad", _infer_pad, _pad_reference)


def window_count(n: Extent, size: Extent, stride: int, dilation: int) -> Extent:
    """How many windows of `size` elements, `dilation` apart, fit into `n` elements, one every `stride`."""
    return quotient(n - (size - 1) * dilation - 1, stride) + 1


def _infer_windows(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    (x,) = tensors("windows", inputs, 1)
    axes, sizes, strides, dilations = (tuple(attrs[n]) for n in ("axes", "sizes", "strides", "dilations"))
    if not len(axes) == len(sizes) == len(strides) == len(dilations) == len(set(axes)):
        raise ModelError("windows: axes, sizes, strides and dilations do not fit each other", op="windows")
    if any(isinstance(s, int) and s < 1 for s in (*sizes, *strides, *dilations)):
        raise ModelError("windows: sizes, strides and dilations must be at least 1", op="windows")
    shape = list(x.dims)
    for axis, size, stride, dilation in zip(axes, sizes, strides, dilations):
        n = x.dims[check_axis("windows", axis, len(x.dims))]
        reach = (size - 1) * dilation + 1
        if isinstance(n, int) and isinstance(reach, int) and n < reach:
            text = f"windows: a window reaches over {reach} elements, axis {axis} of {x} has {n}"
            raise ModelError(text, op="windows")
        shape[axis] = window_count(n, size, stride, dilation)
    return (TensorType(x.dtype, (*shape, *sizes)),)


def _windows_reference(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    x, axes = _first(args), attrs["axes"]
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(attrs["sizes"], attrs["dilations"])]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    chosen = [slice(None)] * x.ndim
    for axis, stride in zip(axes, attrs["strides"]):
        chosen[axis] = slice(None, None, stride)
    return as_tuple(view[(*chosen, *(slice(None, None, d) for d in attrs["dilations"]))])


_register("windows", _infer_windows, _windows_reference)


def _infer_iota(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    if inputs:
        raise ModelError(f"iota: takes no inputs, got {len(inputs)}", op="iota")
    return (native("iota", TensorType(attrs["dtype"], (attrs["size"],))),)


def _iota_reference(_: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    values = attrs["start"] + np.arange(attrs["size"], dtype=np.int64) * attrs["step"]
    return as_tuple(values.astype(attrs["dtype"].numpy))


_register("iota", _infer_iota, _iota_reference)


def _infer_dims(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    if inputs:
        raise ModelError(f"dims: takes no inputs, got {len(inputs)}", op="dims")
    return (TensorType(DType.I64, (len(attrs["values"]),)),)


def _dims_reference(_: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
    return as_tuple(np.asarray([literal(v, DType.I64) for v in attrs["values"]], np.int64))


_register("dims", _infer_dims, _dims_reference)


def _negative(shape: Sequence[Extent]) -> bool:
    return any(isinstance(d, int) and d < 0 for d in shape)
