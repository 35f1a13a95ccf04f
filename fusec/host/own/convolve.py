"""Convolutions as matrix products over gathered windows; the reference's take minutes on real models."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute
from fusec.host.own.windows import Array, Windows, inside


def convolve(x: Array, w: Array, attrs: Attrs) -> Array:
    """x [N, C, ...] with w [M, C / groups, ...], no bias, in the dtype of x."""
    groups = int(attrs.get("group", 1))
    windows = Windows.of(x.shape[2:], w.shape[2:], attrs)
    padded = windows.padded(x, 0)
    batch, channels, filters = x.shape[0], x.shape[1] // groups, w.shape[0] // groups
    pixels = prod(windows.counts)
    if channels == 1 and filters == 1:
        out = _depthwise(padded, w, windows)
    else:
        parts = [
            _product(padded[:, g * channels : (g + 1) * channels], w[g * filters : (g + 1) * filters], windows, pixels)
            for g in range(groups)
        ]
        out = parts[0] if groups == 1 else np.concatenate(parts, axis=1)
    return out.reshape(batch, w.shape[0], *windows.counts)


def _depthwise(padded: Array, w: Array, windows: Windows) -> Array:
    out = np.zeros((*padded.shape[:2], *windows.counts), dtype=padded.dtype)
    for position in windows.positions():
        key: tuple[Any, ...] = (slice(None), 0, *position)
        weight = w[key].reshape(-1, *(1,) * len(windows.counts))
        out += windows.under(padded, position) * weight
    return out


def _product(padded: Array, w: Array, windows: Windows, pixels: int) -> Array:
    """[M, C * k] @ [N, C * k, pixels]."""
    batch, channels = padded.shape[:2]
    if prod(windows.kernel) == 1:
        columns = windows.under(padded, (0,) * len(windows.kernel)).reshape(batch, channels, pixels)
        return np.asarray(np.matmul(w.reshape(w.shape[0], channels), columns))
    columns = np.empty((batch, channels, prod(windows.kernel), pixels), dtype=padded.dtype)
    for i, position in enumerate(windows.positions()):
        columns[:, :, i] = windows.under(padded, position).reshape(batch, channels, pixels)
    return np.asarray(np.matmul(w.reshape(w.shape[0], -1), columns.reshape(batch, -1, pixels)))


def _wide(x: Array) -> Array:
    """Half precision is accumulated in single."""
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def _conv(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x, w, bias = (*inputs, None)[:3]
    out = convolve(_wide(x), _wide(w), attrs)
    if bias is not None:
        out += _wide(bias).reshape(-1, *(1,) * (x.ndim - 2))
    return (out.astype(x.dtype, copy=False),)


def _conv_transpose(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x, w, bias = (*inputs, None)[:3]
    n = x.ndim - 2
    groups = int(attrs.get("group", 1))
    strides, dilations = tuple(attrs.get("strides") or (1,) * n), tuple(attrs.get("dilations") or (1,) * n)
    extra = tuple(attrs.get("output_padding") or (0,) * n)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations)]
    full = [(size - 1) * s + r for size, s, r in zip(x.shape[2:], strides, reach)]
    before, sizes = _transposed_sizes(x.shape[2:], full, strides, extra, attrs)
    room = [max(f, b + o) for f, b, o in zip(full, before, sizes)]
    filters, channels = w.shape[1], x.shape[1] // groups
    flat = _wide(x).reshape(x.shape[0], groups, channels, -1)
    weights = _wide(w).reshape(groups, channels, filters, *w.shape[2:])
    out = np.zeros((x.shape[0], groups, filters, *room), dtype=flat.dtype)
    for position in np.ndindex(*w.shape[2:]):
        part = np.matmul(weights[(..., *position)].swapaxes(1, 2), flat)
        cuts = (
            slice(p * d, p * d + (c - 1) * s + 1, s) for p, d, c, s in zip(position, dilations, x.shape[2:], strides)
        )
        key: tuple[Any, ...] = (..., *cuts)
        out[key] += part.reshape(x.shape[0], groups, filters, *x.shape[2:])
    out = out.reshape(x.shape[0], groups * filters, *room)
    out = out[inside(before, sizes)]
    if bias is not None:
        out = out + _wide(bias).reshape(-1, *(1,) * n)
    return (np.ascontiguousarray(out).astype(x.dtype, copy=False),)


def _transposed_sizes(
    sizes: Sequence[int], full: Sequence[int], strides: Sequence[int], extra: Sequence[int], attrs: Attrs
) -> tuple[list[int], list[int]]:
    """(what is cut off in front, output sizes)."""
    n = len(full)
    auto = attrs.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    wanted = attrs.get("output_shape")
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(attrs.get("pads") or (0,) * 2 * n) if auto != "VALID" else (0,) * 2 * n
        return list(pads[:n]), [f + e - pads[i] - pads[n + i] for i, (f, e) in enumerate(zip(full, extra))]
    wanted = [s * t for s, t in zip(sizes, strides)] if wanted is None else list(wanted)[-n:]
    totals = [max(f + e - o, 0) for f, e, o in zip(full, extra, wanted)]
    return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals], list(wanted)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {("", "Conv"): _conv, ("", "ConvTranspose"): _conv_transpose}
