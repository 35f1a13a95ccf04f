"""Inputs for a model that nobody gave any for: seeded, of sensible size, never zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import UsageError
from fusec.ir.dim import Dim, evaluate
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType
from fusec.knobs import Knobs, Limits

DEFAULT_DIM = 1
"""What a symbolic dimension is where nobody says: most are batch sizes."""


def random_feeds(
    inputs: Sequence[Value], seed: int = 0, dims: Mapping[str, int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Normal floats, small non-negative integers (safe as indices into any table), coin-flip booleans."""
    rng, sizes = np.random.default_rng(seed), dict(dims or {})
    return {v.name: random_array(v, rng, sizes) for v in inputs}


def random_array(
    v: Value, rng: np.random.Generator, sizes: Mapping[str, int], limits: Limits | None = None
) -> npt.NDArray[Any]:
    """One input. UsageError for values that are not tensors of numbers, ResourceError for those beyond the limits."""
    if not isinstance(v.type, TensorType) or v.type.shape is None or v.type.dtype is DType.STRING:
        raise UsageError(
            f"cannot make up a value of {v.name!r}: {v.type}", hint=f"give it with --input {v.name}=@file.npy"
        )
    shape = tuple(_size(d, sizes) for d in v.shape)
    limits = limits or Knobs.read().limits
    limits.check_bytes(prod(shape) * v.dtype.itemsize, f"input {v.name!r} of shape {list(shape)}")
    match v.dtype:
        case DType.BOOL:
            return rng.random(shape) < 0.5
        case d if d.is_float:
            return rng.standard_normal(shape).astype(d.numpy)
        case d if d.is_integer:
            return rng.integers(0, 2, shape).astype(d.numpy)
    return rng.standard_normal(shape).astype(v.dtype.numpy)


def _size(d: int | Dim, sizes: Mapping[str, int]) -> int:
    if isinstance(d, int):
        return d
    return evaluate(d, {s: sizes.get(s, DEFAULT_DIM) for s in d.symbols})
