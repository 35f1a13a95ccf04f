"""Compress and NonZero: which elements a condition takes. Bools are what numpy looks through fastest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute


def _compress(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    x, condition = inputs
    axis = attrs.get("axis")
    return (np.compress(condition, x, axis=None if axis is None else int(axis)),)


def _non_zero(inputs: Sequence[Any], _attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
    """Places of all elements that are not 0, as int64[rank, count]."""
    (x,) = inputs
    rest = np.flatnonzero(x.astype(bool))
    out = np.empty((x.ndim, rest.size), np.int64)
    for d in range(x.ndim - 1, 0, -1):
        rest, out[d] = np.divmod(rest, x.shape[d])
    out[:1] = rest
    return (out,)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {("", "Compress"): _compress, ("", "NonZero"): _non_zero}
