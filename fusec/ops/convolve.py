"""Convolution, always channels-last: the importer and the graph passes put the dimensions in that order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as positions
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.dim import Dim, Extent, exact_quotient
from fusec.ir.types import TensorType, Type
from fusec.ops.op import Attrs, Kind, Op, register
from fusec.ops.product import product_dtype, product_reference
from fusec.ops.rules import tensors, unify
from fusec.ops.view import window_count

Array = npt.NDArray[Any]
FEW_CHANNELS = 8
"""Fewer channels than this are padded ahead: whole rows of a window are then dense, where single pixels are too short."""
SHORT = 16
"""The same of windows that are wider than a pixel: only they gain, and more channels less than the copy costs."""


def is_padded_ahead(channels: Extent, width: Extent, groups: int) -> bool:
    """Whether a convolution with windows of `width` had better read an image with its border than make one up."""
    return groups == 1 and isinstance(channels, int) and channels < (FEW_CHANNELS if width == 1 else SHORT)


def _infer_conv(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
    x, w = tensors("conv", inputs, 2)
    dtype = product_dtype("conv", x, w, attrs)
    if len(x.dims) < 3 or len(w.dims) != len(x.dims):
        raise ModelError(f"conv: needs [N, *S, C] and [*K, C, O] of one rank of 3 or more: {x} and {w}", op="conv")
    batch, *sizes, channels = x.dims
    *kernel, per_group, filters = w.dims
    groups = _check_attrs(attrs, len(sizes))
    if unify(channels, per_group * groups) is None:
        raise ModelError(f"conv: {groups} groups of {per_group} channels do not make the channels of {x}", op="conv")
    if isinstance(filters, int) and exact_quotient(filters, groups) is None:
        raise ModelError(f"conv: {filters} filters do not split into {groups} groups", op="conv")
    out: list[Extent] = [batch]
    per_axis = zip(sizes, kernel, *(attrs[n] for n in ("strides", "dilations", "before", "after")), strict=True)
    for n, k, stride, dilation, before, after in per_axis:
        count = window_count(n + before + after, k, stride, dilation)
        if isinstance(count, int) and count < 1:
            raise ModelError(
                f"conv: a kernel of {k} (dilation {dilation}) is larger than {n} with its padding {before} and {after}",
                op="conv",
            )
        out.append(count)
    return (TensorType(dtype, (*out, filters)),)


def _check_attrs(attrs: Attrs, n: int) -> int:
    """The number of groups. ModelError naming an attribute that is no attribute of `n` spatial axes."""
    for name, least in (("strides", 1), ("dilations", 1), ("before", None), ("after", None)):
        values = attrs[name]
        if len(values) != n:
            raise ModelError(
                f"conv: {name} {list(values)} are not one per spatial axis, of which there are {n}", op="conv"
            )
        if least is not None and any(isinstance(v, Dim) or v < least for v in values):
            raise ModelError(f"conv: {name} {list(values)} must be at least {least}", op="conv")
    groups = attrs["groups"]
    if not isinstance(groups, int) or groups < 1:
        raise ModelError(f"conv: groups {groups!r} must be at least 1", op="conv")
    return groups


Numbers = tuple[int, ...]


def _conv(
    x: Array, w: Array, strides: Numbers, dilations: Numbers, before: Numbers, after: Numbers, groups: int
) -> Array:
    """A matrix product per kernel position and group, summed."""
    n = len(strides)
    widths = [(max(0, b), max(0, a)) for b, a in zip(before, after)]
    cut = tuple(slice(max(0, -b), s - max(0, -a)) for s, b, a in zip(x.shape[1:-1], before, after))
    padded = np.pad(x[(slice(None), *cut)], [(0, 0), *widths, (0, 0)])
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape, dilations)]
    counts = [(s - r) // t + 1 for s, r, t in zip(padded.shape[1:-1], reach, strides)]
    out = np.zeros((x.shape[0], *counts, groups, w.shape[-1] // groups), x.dtype)
    for at in positions(*(range(k) for k in w.shape[:n])):
        key = tuple(slice(p * d, p * d + (c - 1) * s + 1, s) for p, d, c, s in zip(at, dilations, counts, strides))
        part = padded[(slice(None), *key)].reshape(*out.shape[:-1], w.shape[-2])
        by_group = w[at].reshape(w.shape[-2], groups, w.shape[-1] // groups).transpose(1, 0, 2)
        out += np.matmul(part[..., None, :], by_group)[..., 0, :]
    return out.reshape(*out.shape[:-2], w.shape[-1])


register(
    Op(
        "conv",
        Kind.CONTRACTION,
        _infer_conv,
        product_reference(_conv, "strides", "dilations", "before", "after", "groups"),
        None,
        2.0,
    )
)
