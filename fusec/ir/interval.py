"""Interval arithmetic on dimension polynomials: which integers an index can be, for all tiles at once or for one.

A bound is an integer, or an array with an entry per tile. Bounds are inclusive and never too narrow; they are exact where
each symbol occurs once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Atom, Extent

Bound = int | npt.NDArray[np.int64]
Interval = tuple[Any, Any]
"""(low, high), inclusive: a pair of Bounds."""

LARGEST = 1 << 52
"""Machine code divides indices exactly below this."""


def interval(x: Extent, ranges: Mapping[str, Interval]) -> Interval:
    """The least and the greatest value of `x` where every symbol is within its range.

    A divisor below 1 counts as 1, as it does in machine code: it belongs to a loop that does not run.
    OverflowError where a function of `x` could meet a number beyond LARGEST, or a divisor that is negative.
    """
    if isinstance(x, int):
        return x, x
    low: Any = 0
    high: Any = 0
    for mono, coefficient in x.terms:
        part: Interval = (coefficient, coefficient)
        for atom in mono:
            part = _times(part, ranges[atom] if isinstance(atom, str) else _function(atom, ranges))
        low, high = low + part[0], high + part[1]
    return low, high


def _times(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x, y
    if a is b:  # a number, such as the coefficient that each product starts with
        return (a * c, a * d) if a >= 0 else (a * d, a * c)
    return _hull(a * c, a * d, b * c, b * d)


def _function(atom: Atom, ranges: Mapping[str, Interval]) -> Interval:
    (a, b), (c, d) = interval(atom.a, ranges), interval(atom.b, ranges)
    for bound in (a, b, c, d):
        if np.max(np.abs(bound)) > LARGEST:
            raise OverflowError(f"{atom} meets numbers beyond 2^52")
    if atom.fn in ("min", "max"):
        return (_least(a, c), _least(b, d)) if atom.fn == "min" else (_most(a, c), _most(b, d))
    if np.min(c) < (1 if isinstance(atom.b, int) else 0):
        raise OverflowError(f"{atom} divides by a number that may be below 1")
    c, d = _most(c, 1), _most(d, 1)
    match atom.fn:
        case "floordiv":
            return _hull(a // c, a // d, b // c, b // d)
        case "ceildiv":
            return _hull(-(-a // c), -(-a // d), -(-b // c), -(-b // d))
    return _remainder((a, b), (c, d))


def _remainder(x: Interval, divisor: Interval) -> Interval:
    """x modulo a divisor: x itself shifted where it stays between two multiples, else anything below the divisor."""
    (a, b), (c, d) = x, divisor
    if isinstance(a, int) and isinstance(b, int) and isinstance(c, int) and isinstance(d, int):
        return (a % c, b % c) if c == d and a // c == b // c else (0, min(d - 1, b) if a >= 0 else d - 1)
    whole = (c == d) & (a // c == b // c)
    most = np.where(np.asarray(a) >= 0, np.minimum(d - 1, b), d - 1)
    return np.where(whole, a % c, 0), np.where(whole, b % c, most)


def _least(*xs: Any) -> Any:
    return min(xs) if all(isinstance(x, int) for x in xs) else reduce(np.minimum, xs)


def _most(*xs: Any) -> Any:
    return max(xs) if all(isinstance(x, int) for x in xs) else reduce(np.maximum, xs)


def _hull(*xs: Any) -> Interval:
    return _least(*xs), _most(*xs)
