"""Nearest and linear resizing, one axis at a time; the reference computes every output element in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from fusec.host.compute import Attrs, Compute
from fusec.host.own.windows import Array

_POSITIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _text(attrs: Attrs, name: str, default: str) -> str:
    value = attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _resize(inputs: Sequence[Any], attrs: Attrs, opset: int, _outputs: int) -> Sequence[Any]:
    x = inputs[0]
    if opset <= 10:
        scales, sizes = inputs[1], None
        attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **attrs}
    else:
        _, _, scales, sizes = (*inputs, None, None, None)[:4]
    mode = _text(attrs, "mode", "nearest")
    place = _text(attrs, "coordinate_transformation_mode", "half_pixel")
    plain = not any(attrs.get(k) for k in ("antialias", "exclude_outside", "axes"))
    plain = plain and _text(attrs, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if mode not in ("nearest", "linear") or place not in _POSITIONS or not plain:
        return by_reference("Resize", inputs, attrs, opset)
    if sizes is not None and len(sizes):
        counts = [int(s) for s in sizes]
        factors = [c / n for c, n in zip(counts, x.shape)]
    else:
        factors = [float(s) for s in scales]
        counts = [int(np.floor(n * f)) for n, f in zip(x.shape, factors)]
    return (_interpolate(x, counts, factors, mode, place, _text(attrs, "nearest_mode", "round_prefer_floor")),)


def _upsample(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x = inputs[0]
    factors = [float(s) for s in (inputs[1] if len(inputs) > 1 else attrs["scales"])]
    counts = [int(np.floor(n * f)) for n, f in zip(x.shape, factors)]
    mode = "linear" if _text(attrs, "mode", "nearest") in ("linear", "bilinear") else "nearest"
    return (_interpolate(x, counts, factors, mode, "asymmetric", "floor"),)


def _interpolate(
    x: Array, counts: Sequence[int], factors: Sequence[float], mode: str, place: str, nearest: str
) -> Array:
    dtype, out = x.dtype, x
    for axis, (count, factor) in enumerate(zip(counts, factors)):
        size = x.shape[axis]
        if count == size and factor == 1.0:
            continue
        where = _coordinates(size, count, factor, place)
        if mode == "nearest":
            out = np.take(out, np.clip(_rounded(where, nearest), 0, size - 1), axis=axis)
            continue
        low = np.floor(where).astype(np.int64)
        ratio = (where - low).reshape(-1, *(1,) * (x.ndim - 1 - axis))
        ratio = ratio.astype(dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float32)
        left, right = (np.take(out, np.clip(i, 0, size - 1), axis=axis) for i in (low, low + 1))
        out = left * (1 - ratio) + right * ratio
    return np.ascontiguousarray(out.astype(dtype, copy=False))


def _coordinates(size: int, count: int, factor: float, place: str) -> Array:
    """Where each output position lies in the input."""
    i = np.arange(count, dtype=np.float64)
    if place == "align_corners":
        width = factor * size
        return np.zeros(count) if width == 1 else i * (size - 1) / (width - 1)
    if place == "asymmetric":
        return i / factor
    if place == "pytorch_half_pixel" and factor * size == 1:
        return np.full(count, -0.5)
    centred = (i + 0.5) / factor - 0.5
    if place == "half_pixel_symmetric":
        return size / 2 * (1 - count / (factor * size)) + centred
    return centred


def _rounded(where: Array, nearest: str) -> Array:
    match nearest:
        case "floor":
            out = np.floor(where)
        case "ceil":
            out = np.ceil(where)
        case "round_prefer_ceil":
            out = np.floor(where + 0.5)
        case _:
            out = np.ceil(where - 0.5)
    return out.astype(np.int64)


def by_reference(op_type: str, inputs: Sequence[Any], attrs: Attrs, opset: int) -> Sequence[Any]:
    """The onnx package's own evaluation of one standard node."""
    names = [f"x{i}" if v is not None else "" for i, v in enumerate(inputs)]
    graph = onnx.GraphProto(name="reference")
    graph.node.append(onnx.helper.make_node(op_type, names, ["y"], **attrs))
    for name in names:
        if name:
            graph.input.add(name=name)
    graph.output.add(name="y")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {n: v for n, v in zip(names, inputs) if n}
    return tuple(ReferenceEvaluator(model).run(None, feeds))


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {("", "Resize"): _resize, ("", "Upsample"): _upsample}
