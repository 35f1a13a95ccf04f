"""Rows of ops that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from fusec.errors import ModelError
from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, broadcast, matched, row
from fusec.frontend.known import NO_END, Known, is_at_least, larger, smaller
from fusec.frontend.tensors import sparse_array, tensor_array
from fusec.ir.dim import Extent, ceildiv, exact_quotient, floordiv, product
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType
from fusec.ops.view import PAD_MODES

Shape = tuple[Extent, ...]


def flatten_at(shape: Sequence[Extent], axis: int) -> Shape:
    """The matrix shape with the axes before `axis` as rows."""
    return product(shape[:axis]), product(shape[axis:])


@row("Reshape")
def _reshape(call: Call) -> Value:
    x = call.x(0)
    wanted = call.extents(1) if call.version >= 5 else tuple(call.attrs["shape"])
    return call.reshape(x, resolve_shape(call, x.shape, wanted))


def resolve_shape(call: Call, shape: Shape, wanted: Shape) -> Shape:
    """The shape that Reshape means: 0 copies a size (without allowzero), one -1 takes what is left."""
    out = list(wanted)
    for i, d in enumerate(wanted):
        if d == 0 and not call.attr("allowzero", 0):
            if i >= len(shape):
                raise call.error(f"0 at position {i} of the shape {list(wanted)} copies a size that is not there")
            out[i] = shape[i]
    unknown = [i for i, d in enumerate(out) if d == -1]
    if not unknown:
        return tuple(out)
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in out):
        raise call.error(f"the shape {list(wanted)} is not valid")
    rest = product(d for d in out if d != -1)
    total = product(shape)
    if isinstance(total, int) and isinstance(rest, int) and (rest == 0 or total % rest):
        if rest == 0 and total == 0:
            out[unknown[0]] = 0
            return tuple(out)
        raise call.error(f"cannot reshape {list(shape)} to {list(wanted)}")
    quotient = cancelled_quotient(shape, [d for d in out if d != -1])
    out[unknown[0]] = floordiv(total, rest) if quotient is None else quotient
    return tuple(out)


def cancelled_quotient(over: Sequence[Extent], under: Sequence[Extent]) -> Extent | None:
    """The product of `over` divided by that of `under`, where it surely is exact: equal factors cancel first."""
    above, below = list(over), list[Extent]()
    for d in under:
        if d in above:
            above.remove(d)
        else:
            below.append(d)
    return exact_quotient(product(above), product(below))


@row("Flatten")
def _flatten(call: Call) -> Value:
    x = call.x()
    axis = int(call.attr("axis", 1))
    if not -len(x.shape) <= axis <= len(x.shape):
        raise call.error(f"axis {axis} of a tensor of rank {len(x.shape)}")
    return call.reshape(x, flatten_at(x.shape, axis if axis >= 0 else axis + len(x.shape)))


@row("Transpose")
def _transpose(call: Call) -> Value:
    x = call.x()
    perm = tuple(call.attr("perm", range(len(x.shape))[::-1]))
    if sorted(perm) != list(range(len(x.shape))):
        raise call.error(f"perm {list(perm)} is no permutation of the axes of {x.type}")
    return call.transpose(x, perm)


def _axes(call: Call, rank: int) -> tuple[int, ...] | None:
    """The axes of Squeeze and Unsqueeze: an input since 13, an attribute before."""
    if call.version >= 13:
        return call.axes(call.ints(1), rank) if call.has(1) else None
    return call.axes(call.attrs["axes"], rank) if "axes" in call.attrs else None


@row("Squeeze")
def _squeeze(call: Call) -> Value:
    x = call.x()
    axes = _axes(call, len(x.shape))
    if axes is None:
        if not all(isinstance(d, int) for d in x.shape):
            raise NotNative("which sizes are 1 is known only at run time")
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    for a in axes:
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            raise call.error(f"axis {a} of {x.type} has another size than 1")
        call.require_equal(x.shape[a], 1)
    return call.reshape(x, [d for i, d in enumerate(x.shape) if i not in axes])


@row("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    x = call.x()
    count = len(call.ints(1)) if call.version >= 13 else len(call.attrs["axes"])
    axes = _axes(call, len(x.shape) + count) or ()
    if len(axes) != count:
        raise call.error("an axis stands twice")
    sizes = iter(x.shape)
    return call.reshape(x, [1 if i in axes else next(sizes) for i in range(len(x.shape) + count)])


@row("Expand")
def _expand(call: Call) -> Value:
    x = call.x()
    target = call.extents(1)
    own = (None,) * (len(target) - len(x.shape)) + x.shape[max(0, len(x.shape) - len(target)) :]
    target = tuple(d if d is not None and larger(d, 0) == t else t for d, t in zip(own, target))  # no size is below 0
    for back, t in enumerate(target[::-1][: len(x.shape)], 1):
        x = matched(call, x, len(x.shape) - back, t)
    check_size(call, TensorType(x.dtype, shape := broadcast(call, [x.shape, target])))
    return call.expand(x, shape)


def check_size(call: Call, t: TensorType) -> None:
    """ResourceError where a tensor that an op makes out of little would pass the memory limit."""
    if t.is_static and isinstance(t.size, int):
        call.builder.limits.check_bytes(t.size * t.dtype.itemsize, f"{call.op_type} {call.origin[0]!r} -> {t}")


@row("Tile")
def _tile(call: Call) -> Value:
    x = call.x()
    repeats = call.extents(1)
    if len(repeats) != len(x.shape):
        raise call.error(f"{len(repeats)} repeats for {x.type}")
    if any(isinstance(r, int) and r < 0 for r in repeats):
        raise call.error(f"repeats {list(repeats)} must not be negative")
    check_size(call, TensorType(x.dtype, tuple(d * r for d, r in zip(x.shape, repeats))))
    inner, wide = list[Extent](), list[Extent]()
    for d, r in zip(x.shape, repeats):
        inner += [1, d] if r != 1 else [d]
        wide += [r, d] if r != 1 else [d]
    return call.reshape(call.expand(call.reshape(x, inner), wide), [d * r for d, r in zip(x.shape, repeats)])


@row("Concat")
def _concat(call: Call) -> Value:
    parts = [call.x(i) for i in range(len(call.inputs))]
    if not parts:
        raise call.error("it has no inputs")
    return call.concat(parts, call.axis(int(call.attr("axis", 1)), len(parts[0].shape)))


@row("Slice")
def _slice(call: Call) -> Value:
    x = call.x()
    if call.version < 10:
        starts, ends = tuple(call.attrs["starts"]), tuple(call.attrs["ends"])
        axes, steps = tuple(call.attr("axes", range(len(starts)))), (1,) * len(starts)
    else:
        starts, ends = call.extents(1), call.extents(2)
        axes = call.ints(3) if call.has(3) else tuple(range(len(starts)))
        steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.error(f"starts {list(starts)}, ends {list(ends)}, axes {list(axes)}, steps {list(steps)} do not fit")
    out = x
    whole = [(0, d, 1) for d in x.shape]
    cut: list[tuple[Extent, Extent, int]] = list(whole)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        axis = call.axis(axis, len(x.shape))
        trusted = _trusted(call, x.shape[axis], start, end, step)
        if trusted is not None:
            out = _checked_slice(call, out, axis, *trusted)
            cut[axis] = (0, out.shape[axis], 1)
        else:
            cut[axis] = slice_bounds(call, x.shape[axis], start, end, step)
    if all((s, p) == (0, 1) and n == d for (s, n, p), d in zip(cut, out.shape)):
        return out
    begins, sizes, strides = zip(*cut)
    return call.emit("slice", out, starts=begins, sizes=sizes, steps=strides)


def _trusted(call: Call, n: Extent, start: Extent, end: Extent, step: int) -> tuple[Extent, Extent] | None:
    """A piece of a table of fixed size whose end depends on the inputs, such as `positions[:, :sequence]`.

    The standard would clamp the end. The model means `end <= n`, and only then do later shapes agree; so the size is taken
    as written and the elements are fetched by index, where one outside is noticed while running. The same holds for pieces
    of which the start depends on them too, as `positions[:, 5000 - sequence : 5000]`.
    """
    if not isinstance(n, int) or isinstance(end, int) or step != 1:
        return None
    if not isinstance(start, int):
        is_piece = is_at_least(start, 0) is not False and is_at_least(end, 0) is not False and call.assumes(start, end)
        return (start, end) if is_piece and call.position(start) and call.position(end - start) else None
    return (start, end) if start >= 0 and is_at_least(end, start) else None


def _checked_slice(call: Call, x: Value, axis: int, start: Extent, end: Extent) -> Value:
    positions = call.emit("iota", size=end - start, start=start, step=1, dtype=DType.I64)
    return call.emit("gather", x, positions, axis=axis)


def slice_bounds(call: Call, n: Extent, start: Extent, end: Extent, step: int) -> tuple[Extent, Extent, int]:
    """(start, size, step) with the standard's rules for negative and too large positions."""
    if step > 0:
        first = smaller(_from_end(call, start, n), n)
        last = n if isinstance(end, int) and end >= NO_END else smaller(_from_end(call, end, n), n)
        return first, larger(ceildiv(last - first, step), 0), step
    first = n - 1 if isinstance(start, int) and start >= NO_END else smaller(_from_end(call, start, n), n - 1)
    last = -1 if isinstance(end, int) and end <= -(2**31) else _from_end(call, end, n, lowest_end=-1)
    size = larger(floordiv(first - last - step - 1, -step), 0)
    return first if first == n - 1 else larger(first, 0), size, step  # of an empty axis nothing is taken, from place 0


def _from_end(call: Call, position: Extent, n: Extent, lowest_end: int = 0) -> Extent:
    """A position counted from the start, not below `lowest_end`. NotNative where its sign is not known."""
    return position if call.position(position) else larger(n + position, lowest_end)


@row("Split")
def _split(call: Call) -> tuple[Value, ...]:
    x = call.x()
    axis = call.axis(int(call.attr("axis", 0)), len(x.shape))
    size = x.shape[axis]
    given = call.extents(1) if call.has(1) else call.attr("split")
    count = len(call.proto.output)
    if given is None:
        if call.version >= 18 and call.attr("num_outputs", count) != count:
            raise call.error(f"num_outputs is {call.attr('num_outputs')}, the node has {count}")
        given = split_evenly(size, count, call)
    if any(isinstance(d, int) and d < 0 for d in given):
        raise call.error(f"split {list(given)} has a part of less than nothing")
    total = sum(d for d in given if isinstance(d, int)) if all(isinstance(d, int) for d in given) else None
    if len(given) != count or (isinstance(size, int) and total is not None and total != size):
        raise call.error(f"cannot split {x.type} along axis {axis} into {list(given)}")
    if not isinstance(size, int):
        call.require_equal(sum(given[1:], given[0]), size)
    outputs: list[Value] = []
    begin: Extent = 0
    for part in given:
        starts = tuple(begin if i == axis else 0 for i in range(len(x.shape)))
        sizes = tuple(part if i == axis else d for i, d in enumerate(x.shape))
        whole = sizes == x.shape
        outputs.append(x if whole else call.emit("slice", x, starts=starts, sizes=sizes, steps=(1,) * len(x.shape)))
        begin = begin + part
    return tuple(outputs)


def split_evenly(size: Extent, count: int, call: Call) -> Shape:
    """`count` equal parts; since opset 18 the last may be smaller."""
    if call.version < 18:
        if isinstance(size, int) and size % count:
            raise call.error(f"{size} does not split into {count} equal parts")
        return (floordiv(size, count),) * count
    part = ceildiv(size, count)
    last = size - part * (count - 1)
    if not isinstance(size, int):
        call.require(last, 0, f"of {size} the last of {count} parts of {part} is left")
    return (*(part,) * (count - 1), last)


@row("Pad")
def _pad(call: Call) -> Value:
    x = call.x()
    rank = len(x.shape)
    mode = call.attr("mode", "constant")
    if mode not in PAD_MODES:
        raise call.error(f"mode {mode!r} is none of {', '.join(PAD_MODES)}")
    value: Value | None
    if call.version < 11:
        pads: Shape = tuple(call.attr("pads", call.attr("paddings", ())))
        value = call.scalar(call.attr("value", 0.0), x.dtype)
    else:
        pads = call.extents(1)
        value = call.maybe(2)
    axes = [call.axis(a, rank) for a in call.ints(3)] if call.has(3) else list(range(rank))
    if len(set(axes)) != len(axes):
        raise call.error(f"axes {list(call.ints(3))} name an axis twice")
    if len(pads) != 2 * len(axes):
        raise call.error(f"{len(pads)} paddings for {len(axes)} axes of {x.type}")
    before, after = list[Extent]([0] * rank), list[Extent]([0] * rank)
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    for axis, (b, n, a) in enumerate(zip(before, x.shape, after)):
        call.require(b + n + a, 0, f"pads {list(pads)} crop more than there is along axis {axis}, which leaves")
    if mode != "constant":
        value = None
        x = _cropped(call, x, before, after)
        before, after = [larger(p, 0) for p in before], [larger(p, 0) for p in after]
        for axis, (b, n, a) in enumerate(zip(before, x.shape, after)):
            if b != 0 or a != 0:
                call.require(n, 1, f"pads {list(pads)} by {mode} what has no elements: those along axis {axis} are")
    elif value is not None and value.shape:
        value = call.reshape(value, ())
    if all(p == 0 for p in (*before, *after)):
        return x
    check_size(call, TensorType(x.dtype, tuple(b + n + a for b, n, a in zip(before, x.shape, after))))
    inputs = (x,) if value is None else (x, value)
    return call.emit("pad", *inputs, before=tuple(before), after=tuple(after), mode=mode)


def _cropped(call: Call, x: Value, before: Sequence[Extent], after: Sequence[Extent]) -> Value:
    """Negative paddings go first, so that what is repeated comes from what is left."""
    starts = [larger(p * -1, 0) for p in before]
    sizes = [n - start - larger(p * -1, 0) for n, start, p in zip(x.shape, starts, after)]
    for axis, size in enumerate(sizes):
        call.require(size, 0, f"pads {[*before, *after]} crop more than there is along axis {axis}, which leaves")
    if tuple(sizes) == x.shape:
        return x
    return call.emit("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * len(sizes))


@row("CenterCropPad")
def _centre(call: Call) -> Value:
    x, sizes = call.x(0), call.extents(1)
    rank = len(x.shape)
    axes = [call.axis(int(a), rank) for a in call.attr("axes", range(rank))]
    if len(sizes) != len(axes) or any(isinstance(n, int) and n < 0 for n in sizes):
        raise call.error(f"shape {list(sizes)} for {len(axes)} axes of {x.type}")
    before, after = list[Extent]([0] * rank), list[Extent]([0] * rank)
    for axis, size in zip(axes, sizes):
        n = x.shape[axis]
        if is_at_least(n, size) is None:
            raise NotNative(f"whether {n} elements are cropped or padded to {size} is known only at run time")
        larger_one = is_at_least(size, n)
        before[axis] = floordiv(size - n, 2) if larger_one else floordiv(n - size, 2) * -1
        after[axis] = size - n - before[axis]
    if all(p == 0 for p in (*before, *after)):
        return x
    check_size(call, TensorType(x.dtype, tuple(b + n + a for b, n, a in zip(before, x.shape, after))))
    return call.emit("pad", x, before=tuple(before), after=tuple(after), mode="constant")


def _image(call: Call) -> tuple[Value, int]:
    """The input of four axes, and the blocksize."""
    x, b, mode = call.x(), int(call.attrs["blocksize"]), call.attr("mode", "DCR")
    if len(x.shape) != 4:
        raise call.error(f"needs four axes, got {x.type}")
    if b < 1 or mode not in ("DCR", "CRD"):
        raise call.error(f"blocksize {b} with mode {mode!r} is not defined")
    return x, b


@row("DepthToSpace")
def _depth_to_space(call: Call) -> Value:
    x, b = _image(call)
    n, c, h, w = x.shape
    depth = exact_quotient(c, b * b)
    if depth is None:
        raise call.error(f"{c} channels do not split into blocks of {b} x {b}")
    if call.attr("mode", "DCR") == "DCR":
        y = call.transpose(call.reshape(x, (n, b, b, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = call.transpose(call.reshape(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return call.reshape(y, (n, depth, h * b, w * b))


@row("SpaceToDepth")
def _space_to_depth(call: Call) -> Value:
    x, b = _image(call)
    n, c, h, w = x.shape
    if any(isinstance(d, int) and d % b for d in (h, w)):
        raise call.error(f"blocksize {b} does not divide {h} x {w}")
    rows, columns = exact_quotient(h, b), exact_quotient(w, b)
    if rows is None or columns is None:
        raise NotNative(f"whether blocks of {b} divide {h} and {w} is known only at run time")
    perm = (0, 3, 5, 1, 2, 4) if call.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = call.transpose(call.reshape(x, (n, c, rows, b, columns, b)), perm)
    return call.reshape(y, (n, c * (b * b), rows, columns))


@row("Range")
def _range(call: Call) -> Value:
    t = call.type(0)
    if not t.dtype.is_integer:
        start, limit, delta = (call.static(i) for i in range(3))
        if start is None or limit is None or delta is None or not delta:
            raise NotNative("the range's ends are data")
        count = max(int(np.ceil((float(limit) - float(start)) / float(delta))), 0)
        check_size(call, TensorType(t.dtype, (count,)))
        steps = call.emit("iota", size=count, start=0, step=1, dtype=t.dtype)
        return call.emit("add", call.emit("mul", steps, call.scalar(float(delta), t.dtype)),
                         call.scalar(float(start), t.dtype))  # fmt: skip
    (start_,), (limit_,), (delta_,) = (call.extents(i) for i in range(3))
    if not isinstance(delta_, int):
        raise NotNative("the range's step depends on the inputs' sizes")
    if delta_ == 0:
        raise call.error("the step is 0")
    span = ceildiv(limit_ - start_, delta_) if delta_ > 0 else ceildiv(start_ - limit_, -delta_)
    size = larger(span, 0)
    check_size(call, TensorType(t.dtype, (size,)))
    return call.emit("iota", size=size, start=start_, step=delta_, dtype=t.dtype)


@row("ConstantOfShape")
def _constant_of_shape(call: Call) -> Value:
    shape = call.extents(0)
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise call.error(f"negative size in {list(shape)}")
    proto = call.attr("value")
    array = np.zeros(1, np.float32) if proto is None else tensor_array(proto, call.builder.limits, None)
    dtype = DType.of(array.dtype)
    if not dtype.is_native or array.size != 1:
        raise NotNative(f"a fill of {array.size} {dtype}")
    check_size(call, TensorType(dtype, shape))
    return call.expand(call.builder.constant(array.reshape(())), shape)


@row("Shape")
def _shape(_: Call) -> Known:
    raise NotNative("the rank is known only at run time")


@row("Size")
def _size(call: Call) -> Known:
    return Known(DType.I64, (), (product(call.type(0).dims),))


@row("Constant")
def _constant(call: Call) -> Value:
    name, value = next(iter(call.attrs.items()), ("", None))
    array: np.ndarray[Any, Any]
    if isinstance(value, onnx.TensorProto):
        array = tensor_array(value, call.builder.limits, None, call.proto.output[0])
    elif name in ("value_float", "value_floats"):
        array = np.asarray(value, np.float32)
    elif name in ("value_int", "value_ints"):
        array = np.asarray(value, np.int64)
    elif name == "value_string":
        array = np.array(value, dtype=object)
    elif name == "value_strings":
        array = np.array(list(call.attrs[name]), dtype=object)
    elif isinstance(value, onnx.SparseTensorProto):
        array = sparse_array(value, call.builder.limits, None)
    else:
        raise ModelError(f"constant {call.origin[0]!r} has no value", node=call.origin[0], op="Constant")
    return call.builder.add_weight(call.proto.output[0], array)
