"""Rows of resizing: every output element gathers its neighbours along each axis and weighs them.

Indices and weights are ordinary nodes over positions: constants where sizes are known, computed where they are symbolic.
Coordinates are float32 like onnxruntime's, so that ties fall on the same side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.table.pool import extent_data
from fusec.frontend.table.view import check_size
from fusec.ir.dim import Extent, floordiv
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType

F32 = DType.F32
EXACT = 4096
"""Denominators up to this keep the product of a scale and a symbolic size exact."""
TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
"""The neighbours of a place between elements that each mode weighs, counted from the one before the place."""
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


@dataclass(frozen=True)
class Resized:
    """One axis that changes: how long it was and becomes, by which factor (None: the quotient of the two), and its region."""

    axis: int
    old: Extent
    new: Extent
    scale: np.float32 | None
    region: tuple[float, float] | None


@row("Resize", "Upsample")
def _resize(call: Call) -> Value:
    x = call.x()
    mode = str(call.attr("mode", "nearest")).replace("bilinear", "linear").replace("trilinear", "linear")
    old_rules = call.op_type == "Upsample" or call.version < 11
    way = "asymmetric" if old_rules else call.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in TAPS or way not in COORDINATES:
        raise call.error(f"mode {mode!r} with coordinate_transformation_mode {way!r} is not defined")
    if call.attr("antialias", 0) and mode == "nearest":
        raise call.error("antialias needs mode 'linear' or 'cubic'")
    if mode != "nearest" and not x.dtype.is_float:
        raise NotNative("weighing integers")
    axes = [a for a in resized_axes(call, x) if way == "tf_crop_and_resize" or not _same(a)]
    for a in axes:
        if a.old != a.new and 0 in (a.old, a.new):
            raise call.error(f"axis {a.axis} of {x.type} cannot become {a.new} elements")
        if a.scale is None:
            call.require(a.old, 1, f"sizes asks for {a.new} elements along axis {a.axis}, of which the input has")
    shape = list(x.shape)
    for a in axes:
        shape[a.axis] = a.new
    check_size(call, TensorType(x.dtype, tuple(shape)))
    nearest = "simple" if old_rules else str(call.attr("nearest_mode", "round_prefer_floor"))
    places = {a.axis: place(call, a, str(way)) for a in axes}
    if mode == "nearest":
        out = x
        for a in axes:
            indices = _inside(call, _rounded(call, places[a.axis], nearest, a), a.old)
            out = call.emit("gather", out, indices, axis=a.axis)
    else:
        out = _weighed(call, x, axes, places, mode)
    return _extrapolated(call, out, axes, places) if way == "tf_crop_and_resize" else out


def _same(a: Resized) -> bool:
    return a.old == a.new and (a.scale is None or a.scale == 1)


def resized_axes(call: Call, x: Value) -> list[Resized]:
    """What scales or sizes say about each axis."""
    rank = len(x.shape)
    axes = [call.axis(int(a), rank) for a in call.attr("axes", range(rank))]
    if len(set(axes)) != len(axes):
        raise call.error(f"axes {list(call.attr('axes'))} name an axis twice")
    region = _region(call, axes)
    scales, sizes = _scales(call), call.extents(3) if call.has(3) and call.type(3).dims != (0,) else None
    if (scales is None) is (sizes is None):
        raise call.error("exactly one of scales and sizes must be given")
    given: Sequence[Any] = scales if scales is not None else sizes or ()
    if len(given) != len(axes):
        raise call.error(f"{len(given)} {'sizes' if scales is None else 'scales'} for {len(axes)} axes of {x.type}")
    if sizes is not None:
        policy = call.attr("keep_aspect_ratio_policy", "stretch")
        return [Resized(a, x.shape[a], n, s, region.get(a)) for a, n, s in _sizes(call, x, axes, sizes, str(policy))]
    assert scales is not None
    if any(not s > 0 or not np.isfinite(s) for s in scales):
        raise call.error(f"scales {[float(s) for s in scales]} must be positive")
    return [Resized(a, x.shape[a], _scaled(x.shape[a], s), s, region.get(a)) for a, s in zip(axes, scales)]


def _scales(call: Call) -> list[np.float32] | None:
    if call.op_type == "Upsample" and call.version < 9:
        return [np.float32(s) for s in call.attrs["scales"]]
    i = 1 if call.op_type == "Upsample" or call.version < 11 else 2
    if not call.has(i) or call.type(i).dims == (0,):
        return None
    scales = call.static(i)
    if scales is None:
        raise NotNative("scales that are known only at run time")
    return [np.float32(s) for s in scales.ravel()]


def _sizes(
    call: Call, x: Value, axes: Sequence[int], sizes: Sequence[Extent], policy: str
) -> list[tuple[int, Extent, np.float32 | None]]:
    if any(isinstance(n, int) and n < 0 for n in sizes):
        raise call.error(f"sizes {list(sizes)} must not be negative")
    if policy == "stretch":
        return [(a, n, None) for a, n in zip(axes, sizes)]
    if policy not in ("not_larger", "not_smaller"):
        raise call.error(f"keep_aspect_ratio_policy {policy!r} is not defined")
    old = [d for d in (x.shape[a] for a in axes) if isinstance(d, int)]
    ratios = [Fraction(n, d) for n, d in zip(sizes, old) if isinstance(n, int)]
    if len(old) < len(axes) or len(ratios) < len(axes):
        raise NotNative("which axis keeps the aspect ratio is known only at run time")
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    new = [int(ratio * d + Fraction(1, 2)) for d in old]
    return [(a, n, np.float32(ratio.numerator / ratio.denominator)) for a, n in zip(axes, new)]


def _scaled(n: Extent, scale: np.float32) -> Extent:
    if isinstance(n, int):
        return int(np.floor(np.float32(n) * scale))
    exact = Fraction(float(scale))
    if exact.denominator > EXACT:
        raise NotNative(f"{n} times {scale} may be rounded")
    return floordiv(n * exact.numerator, exact.denominator)


def _region(call: Call, axes: Sequence[int]) -> dict[int, tuple[float, float]]:
    if call.attr("coordinate_transformation_mode") != "tf_crop_and_resize":
        return {}
    roi = call.static(1)
    if roi is None:
        raise NotNative("a region that is known only at run time")
    if roi.size != 2 * len(axes):
        raise call.error(f"roi has {roi.size} numbers for {len(axes)} axes")
    return {a: (float(roi[i]), float(roi[len(axes) + i])) for i, a in enumerate(axes)}


def place(call: Call, a: Resized, way: str) -> Value:
    """Where each new element lies between the old ones."""
    y = call.emit("iota", size=a.new, start=0, step=1, dtype=F32)
    old, new = (call.cast(extent_data(call, n), F32) for n in (a.old, a.new))
    width = new if a.scale is None else call.emit("mul", call.scalar(float(a.scale), F32), old)
    one, half = call.scalar(1, F32), call.scalar(0.5, F32)
    single = call.emit("eq", width, one)
    if way in ("align_corners", "tf_crop_and_resize"):
        last, steps = call.emit("sub", old, one), call.emit("where", single, one, call.emit("sub", width, one))
        if way == "align_corners":
            at = call.emit("div", call.emit("mul", y, last), steps)
            return call.emit("where", single, call.scalar(0, F32), at)
        assert a.region is not None
        start, length = call.scalar(a.region[0], F32), call.scalar(a.region[1] - a.region[0], F32)
        at = call.emit("div", call.emit("mul", call.emit("mul", y, length), last), steps)
        middle = call.emit("mul", call.emit("mul", length, last), half)
        return call.emit("add", call.emit("where", single, middle, at), call.emit("mul", start, last))
    y = y if way == "asymmetric" else call.emit("add", y, half)
    if a.scale is None:  # the product is exact, so that the quotient is rounded only once
        at = call.emit("div", call.emit("mul", y, old), new)
    else:
        at = call.emit("div", y, call.scalar(float(a.scale), F32))
    if way == "asymmetric":
        return at
    if way == "tf_half_pixel_for_nn":
        return at
    if way == "half_pixel_symmetric":
        spare = call.emit("sub", one, call.emit("div", new, width))
        at = call.emit("add", call.emit("mul", call.emit("mul", old, half), spare), at)
    at = call.emit("sub", at, half)
    return call.emit("where", single, call.scalar(0, F32), at) if way == "pytorch_half_pixel" else at


def _rounded(call: Call, at: Value, mode: str, a: Resized) -> Value:
    half = call.scalar(0.5, F32)
    if mode == "simple":
        shrinks = a.scale is not None and a.scale < 1
        return call.emit("ceil" if shrinks else "floor", at)
    if mode in ("floor", "ceil"):
        return call.emit(mode, at)
    if mode == "round_prefer_floor":
        return call.emit("ceil", call.emit("sub", at, half))
    if mode == "round_prefer_ceil":
        return call.emit("floor", call.emit("add", at, half))
    raise call.error(f"nearest_mode {mode!r} is not defined")


def _inside(call: Call, index: Value, size: Extent) -> Value:
    """Indices as integers, those outside moved to the edge: short ones where sizes are known, which gathers take best."""
    whole = call.cast(index, DType.I64)
    kept = call.emit("max", call.emit("min", whole, extent_data(call, size - 1)), call.scalar(0, DType.I64))
    return call.cast(kept, DType.U32) if isinstance(size, int) and size < 1 << 31 else kept


def _weighed(call: Call, x: Value, axes: Sequence[Resized], places: dict[int, Value], mode: str) -> Value:
    """Neighbours become an axis of their own behind each resized one; the weighed sum over these is the result."""
    out, kept = call.cast(x, F32) if x.dtype.itemsize < 4 else x, len(x.shape)
    if call.attr("antialias", 0):
        return call.cast(_smoothed(call, out, axes, places, mode), x.dtype)
    if mode == "linear":
        return call.cast(_between(call, out, list(axes), places), x.dtype)
    taps = list[int]()
    weights = list[Value]()
    for a in sorted(axes, key=lambda a: a.axis):
        position = a.axis + len(taps)
        indices, weight = neighbours(call, places[a.axis], a.old, mode)
        out = call.emit("gather", out, indices, axis=position)
        taps.append(position + 1)
        behind = kept - 1 - a.axis + sum(1 for b in axes if b.axis > a.axis)
        weights.append(call.reshape(call.cast(weight, out.dtype), (*weight.shape, *(1,) * behind)))
    for weight in weights:
        out = call.elementwise("mul", out, weight)
    out = call.emit("reduce_sum", out, axes=tuple(taps), keepdims=False) if taps else out
    return call.cast(out, x.dtype)


def _between(call: Call, x: Value, axes: Sequence[Resized], places: dict[int, Value]) -> Value:
    """Two neighbours per axis, written out: so few are no loop of their own."""
    pairs = list[tuple[int, list[tuple[Value, Value]]]]()
    for a in axes:
        at, one = places[a.axis], call.scalar(1, F32)
        below = call.emit("floor", at)
        share = call.emit("sub", at, below)
        both = [(below, call.emit("sub", one, share)), (call.emit("add", below, one), share)]
        ones = (1,) * (len(x.shape) - 1 - a.axis)
        pairs.append(
            (a.axis, [(_inside(call, i, a.old), call.cast(call.reshape(w, (a.new, *ones)), x.dtype)) for i, w in both])
        )

    def weighed(found: Value, left: Sequence[tuple[int, list[tuple[Value, Value]]]]) -> Value:
        if not left:
            return found
        *others, (axis, both) = left
        low, high = (
            call.emit("mul", weighed(call.emit("gather", found, i, axis=axis), others), weight) for i, weight in both
        )
        return call.emit("add", low, high)

    return weighed(x, pairs)


def _smoothed(call: Call, x: Value, axes: Sequence[Resized], places: dict[int, Value], mode: str) -> Value:
    """With antialias: windows that are wider the more an axis shrinks, so that one axis is done after the other."""
    for a in axes:
        if a.scale is None and not (isinstance(a.old, int) and isinstance(a.new, int)):
            raise NotNative(f"antialias from {a.old} to {a.new} elements")
        scale = float(a.scale) if a.scale is not None else a.new / a.old  # type: ignore[operator]
        indices, weight = neighbours(call, places[a.axis], a.old, mode, min(scale, 1.0))
        found = call.emit("gather", x, indices, axis=a.axis)
        weight = call.reshape(call.cast(weight, x.dtype), (*weight.shape, *(1,) * (len(x.shape) - 1 - a.axis)))
        x = call.emit("reduce_sum", call.emit("mul", found, weight), axes=(a.axis + 1,), keepdims=False)
    return x


def neighbours(call: Call, at: Value, size: Extent, mode: str, shrink: float = 1.0) -> tuple[Value, Value]:
    """Which elements each place is made of, [places, neighbours], and how much each of them weighs.

    `shrink` below 1 makes windows as much wider.
    """
    reach = len(TAPS[mode]) // 2
    first = int(np.floor(-reach / shrink)) + 1
    offsets = call.builder.constant(np.arange(first, 2 - first, dtype=np.float32)[None])
    below = call.emit("floor", at)
    between = call.reshape(call.emit("sub", at, below), (at.shape[0], 1))
    index = call.emit("add", call.reshape(below, (at.shape[0], 1)), offsets)
    distance = call.emit("abs", call.emit("sub", between, offsets))
    if shrink < 1:
        distance = call.emit("min", call.emit("mul", distance, call.scalar(shrink, F32)), call.scalar(reach, F32))
    if mode == "linear":
        weight = call.emit("sub", call.scalar(1, F32), distance)
    else:
        weight = cubic_weight(call, distance, float(call.attr("cubic_coeff_a", -0.75)))
    if call.attr("exclude_outside", 0):
        whole = call.cast(index, DType.I64)
        low, high = call.emit("ge", whole, call.scalar(0, DType.I64)), call.emit("lt", whole, extent_data(call, size))
        weight = call.emit("where", call.emit("and", low, high), weight, call.scalar(0, F32))
    if shrink < 1 or call.attr("exclude_outside", 0):
        weight = call.emit("div", weight, call.emit("reduce_sum", weight, axes=(1,), keepdims=True))
    return _inside(call, index, size), weight


def cubic_weight(call: Call, d: Value, a: float) -> Value:
    """The piecewise cubic of a distance below 2."""

    def polynomial(*coefficients: float) -> Value:
        out = call.scalar(coefficients[0], F32)
        for c in coefficients[1:]:
            out = call.emit("add", call.emit("mul", out, d), call.scalar(c, F32))
        return out

    near, far = polynomial(a + 2, -(a + 3), 0, 1), polynomial(a, -5 * a, 8 * a, -4 * a)
    return call.emit("where", call.emit("le", d, call.scalar(1, F32)), near, far)


def _extrapolated(call: Call, out: Value, axes: Sequence[Resized], places: dict[int, Value]) -> Value:
    """What lies outside of the input has a value of its own."""
    outside: Value | None = None
    for a in axes:
        at, last = places[a.axis], call.cast(extent_data(call, a.old - 1), F32)
        here = call.emit("or", call.emit("lt", at, call.scalar(0, F32)), call.emit("gt", at, last))
        here = call.reshape(here, (a.new, *(1,) * (len(out.shape) - 1 - a.axis)))
        outside = here if outside is None else call.emit("or", outside, here)
    fill = call.scalar(call.attr("extrapolation_value", 0.0), out.dtype)
    return out if outside is None else call.emit("where", outside, fill, out)
