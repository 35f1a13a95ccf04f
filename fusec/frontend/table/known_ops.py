"""Rows that follow the contents of shape tensors; what they answer never becomes a node unless it is used as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fusec.frontend.attributes import dtype_of
from fusec.frontend.call import KNOWN_ROWS, Call
from fusec.frontend.known import LIMIT, Known, from_objects, is_at_least, is_equal, larger, lowest, smaller, vector
from fusec.frontend.table.view import resolve_shape, slice_bounds, split_evenly
from fusec.ir.dim import Dim, Extent, exact_quotient, floordiv, product
from fusec.ir.types import DType

KnownResult = Sequence[Known | None] | None
KnownRow = Callable[[Call], KnownResult]


def known_row(*op_types: str) -> Callable[[KnownRow], KnownRow]:
    """Register a row that runs when contents are asked for."""

    def add(function: KnownRow) -> KnownRow:
        for op_type in op_types:
            KNOWN_ROWS["", op_type] = function
        return function

    return add


def _all(call: Call) -> list[Known] | None:
    found = [call.known(i) for i in range(len(call.inputs)) if call.has(i)]
    return [k for k in found if k is not None] if all(k is not None for k in found) and found else None


def _one(known: Known | None) -> KnownResult:
    return None if known is None else (known,)


@known_row("Shape")
def _shape(call: Call) -> KnownResult:
    dims = call.type(0).dims
    n = len(dims)
    start, end = int(call.attr("start", 0)), int(call.attr("end", n))
    start, end = (max(0, min(n, v + n if v < 0 else v)) for v in (start, end))
    return (vector(dims[start : max(start, end)]),)


@known_row("Size")
def _size(call: Call) -> KnownResult:
    return (Known(DType.I64, (), (product(call.type(0).dims),)),)


def _elementwise(function: Callable[..., Extent | None], result: DType | None, call: Call) -> KnownResult:
    args = _all(call)
    if args is None or not args:
        return None
    arrays = np.broadcast_arrays(*(a.objects for a in args))
    if arrays[0].size > LIMIT:
        return None
    out = np.empty(arrays[0].shape, dtype=object)
    for i in np.ndindex(out.shape):
        out[i] = function(*(a[i] for a in arrays))
        if out[i] is None:
            return None
    return _one(from_objects(result or args[-1].dtype, out))


def _divide(a: Extent, b: Extent) -> Extent | None:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    if is_at_least(a, 0):
        return floordiv(a, b) if is_at_least(b, 1) or isinstance(b, Dim) else None
    if isinstance(b, Dim) or b < 1:
        return None
    above, below = larger(floordiv(a, b), 0), larger(floordiv(a * -1, b), 0)  # the quotient is rounded towards 0
    low = lowest(a)
    return above if low is not None and low > -b else above - below


def _modulo(a: Extent, b: Extent) -> Extent | None:
    return a % b if isinstance(b, Dim) or b > 0 else None


def _flip(value: bool | None) -> int | None:
    return None if value is None else int(not value)


def _truth(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _logical(fn: Callable[[bool, bool], bool], a: Extent, b: Extent) -> int | None:
    return int(fn(bool(a), bool(b))) if isinstance(a, int) and isinstance(b, int) else None


def _pick(c: Extent, a: Extent, b: Extent) -> Extent | None:
    return (a if c else b) if isinstance(c, int) else None


_FUNCTIONS: dict[str, tuple[Callable[..., Extent | None], DType | None]] = {
    "Add": (lambda a, b: a + b, None),
    "Sub": (lambda a, b: a - b, None),
    "Mul": (lambda a, b: a * b, None),
    "Div": (_divide, None),
    "Neg": (lambda a: a * -1, None),
    "Abs": (lambda a: a if is_at_least(a, 0) else abs(a) if isinstance(a, int) else None, None),
    "Equal": (lambda a, b: _truth(is_equal(a, b)), DType.BOOL),
    "Greater": (lambda a, b: _flip(is_at_least(b, a)), DType.BOOL),
    "GreaterOrEqual": (lambda a, b: _truth(is_at_least(a, b)), DType.BOOL),
    "Less": (lambda a, b: _flip(is_at_least(a, b)), DType.BOOL),
    "LessOrEqual": (lambda a, b: _truth(is_at_least(b, a)), DType.BOOL),
    "Not": (lambda a: int(not a) if isinstance(a, int) else None, DType.BOOL),
    "And": (partial(_logical, lambda a, b: a and b), DType.BOOL),
    "Or": (partial(_logical, lambda a, b: a or b), DType.BOOL),
    "Xor": (partial(_logical, lambda a, b: a != b), DType.BOOL),
    "Where": (_pick, None),
    "Max": (lambda a, *more: _fold(larger, a, more), None),
    "Min": (lambda a, *more: _fold(smaller, a, more), None),
}


def _fold(fn: Callable[[Extent, Extent], Extent], first: Extent, more: Sequence[Extent]) -> Extent:
    for m in more:
        first = fn(first, m)
    return first


KNOWN_ROWS.update({("", k): partial(_elementwise, fn, result) for k, (fn, result) in _FUNCTIONS.items()})


@known_row("Mod")
def _mod(call: Call) -> KnownResult:
    if call.attr("fmod", 0):
        return None  # the sign of the dividend instead of the divisor's: rare enough to be data
    return _elementwise(_modulo, None, call)


@known_row("Cast")
def _cast(call: Call) -> KnownResult:
    x = call.known(0)
    to = dtype_of(int(call.attrs["to"]), call.origin[0])
    if x is None or not (to.is_integer or to is DType.BOOL):
        return None
    if to is DType.BOOL:
        return _one(Known(to, x.shape, tuple(int(v != 0) for v in x.values)) if x.is_static else None)
    return _one(from_objects(to, x.objects))


@known_row("Identity")
def _identity(call: Call) -> KnownResult:
    bound = call.inputs[0] if call.inputs else None
    return (bound,) if isinstance(bound, Known) else None


def _integers(call: Call, i: int) -> tuple[int, ...] | None:
    known = call.known(i)
    return tuple(int(v) for v in known.array.ravel()) if known is not None and known.is_static else None


@known_row("Gather")
def _gather(call: Call) -> KnownResult:
    x, indices = call.known(0), call.known(1)
    if x is None or indices is None or not indices.is_static:
        return None
    axis = call.axis(int(call.attr("axis", 0)), len(x.shape))
    positions = indices.array.astype(np.int64)
    if positions.size and not -x.shape[axis] <= int(positions.min()) <= int(positions.max()) < x.shape[axis]:
        raise call.error(f"index outside a dimension of {x.shape[axis]}")
    return _one(from_objects(x.dtype, np.take(x.objects, positions, axis=axis)))


@known_row("Slice")
def _slice(call: Call) -> KnownResult:
    x = call.known(0)
    if x is None:
        return None
    if call.version < 10:
        starts, ends = tuple(call.attrs["starts"]), tuple(call.attrs["ends"])
        axes, steps = tuple(call.attr("axes", range(len(starts)))), (1,) * len(starts)
    else:
        starts, ends = call.ints(1), call.ints(2)
        axes = call.ints(3) if call.has(3) else tuple(range(len(starts)))
        steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    cut: list[Any] = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        axis = call.axis(axis, len(x.shape))
        first, size, stride = slice_bounds(call, x.shape[axis], start, end, step)
        if not isinstance(first, int) or not isinstance(size, int):
            return None
        cut[axis] = [first + k * stride for k in range(size)]
    out = x.objects
    for axis, positions in enumerate(cut):
        out = out if isinstance(positions, slice) else np.take(out, np.asarray(positions, np.int64), axis=axis)
    return _one(from_objects(x.dtype, out))


@known_row("Concat")
def _concat(call: Call) -> KnownResult:
    parts = _all(call)
    if parts is None:
        return None
    axis = call.axis(int(call.attr("axis", 1)), len(parts[0].shape))
    return _one(from_objects(parts[0].dtype, np.concatenate([p.objects for p in parts], axis=axis)))


@known_row("Squeeze", "Unsqueeze", "Reshape", "Flatten")
def _reshaped(call: Call) -> KnownResult:
    x = call.known(0)
    if x is None:
        return None
    shape: Sequence[Extent]
    if call.op_type == "Reshape":
        shape = resolve_shape(call, x.shape, call.extents(1) if call.version >= 5 else tuple(call.attrs["shape"]))
    elif call.op_type == "Flatten":
        axis = int(call.attr("axis", 1)) % (len(x.shape) + 1)
        shape = (product(x.shape[:axis]), product(x.shape[axis:]))
    else:
        shape = _squeezed(call, x)
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) != len(shape) or product(sizes) != len(x.values):
        return None
    return (Known(x.dtype, tuple(sizes), x.values),)


def _squeezed(call: Call, x: Known) -> list[Extent]:
    given = call.ints(1) if call.version >= 13 and call.has(1) else call.attr("axes")
    if call.op_type == "Squeeze":
        axes = (
            call.axes(given, len(x.shape)) if given is not None else tuple(i for i, d in enumerate(x.shape) if d == 1)
        )
        if any(x.shape[a] != 1 for a in axes):
            raise call.error(f"axis of another size than 1 in {list(x.shape)}")
        return [d for i, d in enumerate(x.shape) if i not in axes]
    rank = len(x.shape) + len(given or ())
    axes, sizes = call.axes(given or (), rank), iter(x.shape)
    return [1 if i in axes else next(sizes) for i in range(rank)]


@known_row("Transpose")
def _transpose(call: Call) -> KnownResult:
    x = call.known(0)
    return None if x is None else _one(from_objects(x.dtype, x.objects.transpose(call.attr("perm"))))


@known_row("Range")
def _range(call: Call) -> KnownResult:
    args = _all(call)
    if args is None or len(args) != 3 or not all(a.is_static and len(a.values) == 1 for a in args):
        return None
    start, limit, delta = (int(a.array.item()) for a in args)
    if delta == 0 or abs((limit - start) // delta) > LIMIT:
        return None
    values = tuple(range(start, limit, delta))
    return (Known(args[0].dtype, (len(values),), values),)


@known_row("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(call: Call) -> KnownResult:
    from fusec.frontend.table.reduce import reduction_axes

    x = call.known(0)
    if x is None or reduction_axes(call, len(x.shape)) != tuple(range(len(x.shape))) or not x.values:
        return None
    folds: dict[str, Callable[[Extent, Extent], Extent]] = {
        "ReduceProd": lambda a, b: a * b,
        "ReduceSum": lambda a, b: a + b,
        "ReduceMax": larger,
        "ReduceMin": smaller,
    }
    value = _fold(folds[call.op_type], x.values[0], x.values[1:])
    shape = (1,) * len(x.shape) if call.attr("keepdims", 1) else ()
    return _one(from_objects(x.dtype, np.full(shape, value, object)))


@known_row("Split")
def _split(call: Call) -> KnownResult:
    x = call.known(0)
    if x is None:
        return None
    axis = call.axis(int(call.attr("axis", 0)), len(x.shape))
    count = len(call.proto.output)
    sizes = call.ints(1) if call.has(1) else call.attr("split") or split_evenly(x.shape[axis], count, call)
    if len(sizes) != count or sum(sizes) != x.shape[axis]:
        return None
    parts = np.split(x.objects, np.cumsum(np.asarray(sizes, np.int64))[:-1], axis=axis)
    return [from_objects(x.dtype, p) for p in parts]


@known_row("ConstantOfShape")
def _constant_of_shape(call: Call) -> KnownResult:
    shape = call.extents(0)
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) != len(shape) or any(d < 0 for d in sizes) or not 0 <= product(sizes) <= LIMIT:  # type: ignore[operator]
        return None
    proto = call.attr("value")
    if proto is None:
        return None
    from fusec.frontend.tensors import tensor_array

    fill = tensor_array(proto, call.builder.limits, None)
    if fill.size != 1 or fill.dtype.kind not in "iub":
        return None
    count = int(np.prod(sizes, dtype=np.int64))
    return (Known(DType.of(fill.dtype), tuple(sizes), (int(fill.reshape(-1)[0]),) * count),)


@known_row("Expand")
def _expand(call: Call) -> KnownResult:
    x, shape = call.known(0), _integers(call, 1)
    if x is None or shape is None or any(d < 0 for d in shape) or product(shape) > LIMIT:  # type: ignore[operator]
        return None
    try:
        joint = np.broadcast_shapes(x.shape, shape)
    except ValueError:
        return None
    return _one(from_objects(x.dtype, np.broadcast_to(x.objects, joint)))


@known_row("Tile")
def _tile(call: Call) -> KnownResult:
    x, repeats = call.known(0), _integers(call, 1)
    if x is None or repeats is None or product(repeats) * max(len(x.values), 1) > LIMIT:  # type: ignore[operator]
        return None
    return _one(from_objects(x.dtype, np.tile(x.objects, repeats)))
