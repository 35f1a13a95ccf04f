"""Inputs for a model that nobody gave any for: seeded, of sensible size, never zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import UsageError
from fusec.ir.dim import Dim, evaluate, linear
from fusec.ir.graph import Value
from fusec.ir.requirement import Requirement, summary
from fusec.ir.types import DType, TensorType
from fusec.knobs import Knobs, Limits

DEFAULT_DIM = 1
"""What a symbolic dimension is where nobody says: most are batch sizes."""


MOST_TRIED = 1 << 12
"""Up to where sizes are raised until a model's requirements are met."""


def choose_sizes(
    names: Iterable[str], requirements: Sequence[Requirement], given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Sizes for symbols that nobody gave: the least that a model can run with, as far as that can be told, else 1.

    Where sizes are to be equal, as a mask's and that of a past and what is new, the smaller one is raised; where more is asked
    for, as that two ways through a network meet again, powers of two are tried.
    """
    given = given or {}
    sizes = {s: DEFAULT_DIM for s in names if s not in given}
    for r in summary(requirements):
        if (name := str(r.size)) in sizes and not r.is_exact:
            sizes[name] = max(sizes[name], r.least)
    open_ = [r for r in requirements if r.symbols <= sizes.keys() | given.keys()]
    while missed := next((r for r in open_ if not r.holds({**sizes, **given})), None):
        raised = _solved(missed, sizes, given) or {s: 1 << sizes[s].bit_length() for s in missed.symbols if s in sizes}
        if not raised or max(raised.values()) > MOST_TRIED:
            break  # the run will say what is wrong
        sizes |= raised
    return sizes


def _solved(missed: Requirement, sizes: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
    """A larger size for one of the symbols with which an equation holds, where there is one."""
    numbers = {**sizes, **given}
    for name in sorted(missed.symbols & sizes.keys()) if missed.is_exact else ():
        split = linear(missed.size, [name])
        if split is None or not isinstance(slope := split[1].get(name, 0), int) or slope == 0:
            continue
        try:
            size, left = divmod(missed.least - evaluate(split[0], numbers), slope)
        except ZeroDivisionError:
            continue
        if not left and sizes[name] < size <= MOST_TRIED:
            return {name: size}
    return {}


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
