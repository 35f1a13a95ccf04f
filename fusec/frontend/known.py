"""Small tensors whose contents are known while reading: shapes, axes, repeats, and arithmetic on them.

A third of the nodes of exported models compute shapes. Their results are never data, so they are followed here as tuples
of dimensions, and what they feed gets its shape as an attribute instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Atom, Dim, Extent, maximum, minimum
from fusec.ir.types import DType

LIMIT = 256
"""Most elements that are followed: shapes and their relatives have a handful, and a table of indices is data."""

NO_END = 10**9
"""From here on the end of a slice means "to the end": exporters write 10**9, INT32_MAX or INT64_MAX."""


@dataclass(frozen=True, slots=True)
class Known:
    """The contents of an integer or bool tensor, row-major, as dimensions."""

    dtype: DType
    shape: tuple[int, ...]
    values: tuple[Extent, ...]

    @property
    def is_static(self) -> bool:
        """Every element is a number."""
        return not any(isinstance(v, Dim) for v in self.values)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The numbers as an array. Only where `is_static`."""
        return np.array(self.values, dtype=object).reshape(self.shape).astype(self.dtype.numpy)

    @property
    def objects(self) -> npt.NDArray[Any]:
        """The elements as an object array of the right shape, for indexing and broadcasting."""
        out = np.empty(len(self.values), dtype=object)
        out[:] = self.values
        return out.reshape(self.shape)


def from_objects(dtype: DType, array: npt.NDArray[Any]) -> Known | None:
    """The contents that an object array holds; None where they are too many or do not fit the dtype."""
    array = np.asarray(array, dtype=object)  # numpy turns a single element into the element
    if array.size > LIMIT:
        return None
    values = tuple(v if isinstance(v, Dim) else int(v) for v in array.ravel().tolist())
    return Known(dtype, array.shape, values) if all(isinstance(v, Dim) or _fits(v, dtype) for v in values) else None


def from_array(array: npt.NDArray[Any]) -> Known | None:
    """The contents of a constant; None where it is large or not of integers."""
    if array.size > LIMIT or array.dtype.kind not in "iub":
        return None
    return Known(DType.of(array.dtype), array.shape, tuple(int(v) for v in array.ravel().tolist()))


def vector(values: tuple[Extent, ...]) -> Known:
    """A one-dimensional i64 tensor, as `Shape` gives it."""
    return Known(DType.I64, (len(values),), values)


def lowest(x: Extent) -> int | None:
    """A number that `x` never falls below, from the fact that no size is negative; None where there is none."""
    if isinstance(x, int):
        return x
    total = 0
    for mono, coef in x.terms:
        lows = [_lowest_atom(a) for a in mono]
        if mono and (coef < 0 or None in lows):
            return None
        known = [low for low in lows if low is not None]
        if len(known) > 1 and min(known) < 0:
            return None
        total += coef * prod(known)
    return total


def _lowest_atom(atom: str | Atom) -> int | None:
    if isinstance(atom, str):
        return 0
    a, b = lowest(atom.a), lowest(atom.b)
    if atom.fn == "max":
        return max((v for v in (a, b) if v is not None), default=None)
    if atom.fn == "min":
        return None if a is None or b is None else min(a, b)
    if not isinstance(atom.b, int) or atom.b <= 0:  # a divisor that may be zero or negative says nothing
        return 0 if a is not None and a >= 0 and b is not None and b >= 0 else None
    if atom.fn == "mod":
        return 0
    if a is None:
        return None
    return a // atom.b if atom.fn == "floordiv" else -(-a // atom.b)


def is_equal(a: Extent, b: Extent) -> bool | None:
    """Whether two dimensions are the same number for every model input; None where that depends on the input."""
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    for d in (difference, difference * -1):
        low = lowest(d)
        if low is not None and low > 0:
            return False
    return None


def can_be_one(x: Extent) -> bool:
    """Whether a size may be 1 in some run: not where it is larger in all, or a multiple of a larger number.

    >>> from fusec.ir.dim import symbol
    >>> can_be_one(symbol("N")), can_be_one(2 * symbol("N")), can_be_one(symbol("N") + 2)
    (True, False, False)
    """
    return is_equal(x, 1) is not False and (isinstance(x, int) or gcd(*(coef for _, coef in x.terms)) == 1)


def is_at_least(a: Extent, b: Extent) -> bool | None:
    """Whether a >= b holds for every model input, never, or (None) depending on it."""
    low, high = lowest(a - b), lowest(b - a)
    if low is not None and low >= 0:
        return True
    return False if high is not None and high > 0 else None


def smaller(a: Extent, b: Extent) -> Extent:
    """The minimum, simplified by what is known about sizes."""
    return b if is_at_least(a, b) else a if is_at_least(b, a) else minimum(a, b)


def larger(a: Extent, b: Extent) -> Extent:
    """The maximum, simplified by what is known about sizes."""
    return a if is_at_least(a, b) else b if is_at_least(b, a) else maximum(a, b)


def _fits(v: int, dtype: DType) -> bool:
    if dtype is DType.BOOL:
        return v in (0, 1)
    half = 1 << (8 * dtype.itemsize - 1)
    return -half <= v < half if dtype.is_signed else 0 <= v < 2 * half
