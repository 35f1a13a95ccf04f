"""How far outputs are apart: per output the largest absolute and relative difference, and the tolerance that would pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Difference:
    """One output compared. `required` is the smallest t for which |a - b| <= t * (1 + peak of b) holds everywhere."""

    name: str
    max_abs: float
    max_rel: float
    required: float
    where: tuple[int, ...]
    problem: str = ""

    def passes(self, tolerance: float) -> bool:
        """Whether a tolerance covers it."""
        return not self.problem and self.required <= tolerance


def compare(names: Sequence[str], got: Sequence[Any], want: Sequence[Any]) -> list[Difference]:
    """Compare outputs by position; sequences and maps element by element."""
    return [_difference(n, a, b) for n, a, b in zip(names, got, want, strict=True)]


def _difference(name: str, got: Any, want: Any) -> Difference:
    if isinstance(want, list | tuple) or isinstance(got, list | tuple):
        if len(got) != len(want):
            return _bad(name, f"{len(got)} elements, expected {len(want)}")
        parts = [_difference(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(got, want, strict=True))]
        return max(parts, key=lambda d: (bool(d.problem), d.required), default=Difference(name, 0.0, 0.0, 0.0, ()))
    if isinstance(want, Mapping):
        if got.keys() != want.keys():
            return _bad(name, "other keys")
        return _difference(name, [got[k] for k in want], list(want.values()))
    if want is None or got is None:
        return Difference(name, 0.0, 0.0, 0.0, ()) if want is got else _bad(name, "one of them is None")
    return _arrays(name, np.asarray(got), np.asarray(want))


def _arrays(name: str, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Difference:
    if a.shape != b.shape:
        return _bad(name, f"shape {a.shape}, expected {b.shape}")
    if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
        return Difference(name, 0.0, 0.0, 0.0, ()) if (a == b).all() else _bad(name, "other strings")
    if a.size == 0:
        return Difference(name, 0.0, 0.0, 0.0, ())
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    x, y = a.astype(wide), b.astype(wide)
    special = ~np.isfinite(y)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if (special & ~same).any() or (~np.isfinite(x) & ~special).any():
        return _bad(name, "NaN or Inf in other places")
    with np.errstate(invalid="ignore"):
        gap = np.where(special, 0.0, np.abs(x - y))
    finite = np.abs(np.where(special, 0.0, y))
    where = np.unravel_index(int(gap.argmax()), gap.shape)
    largest, peak = float(gap.max()), float(finite.max())
    relative = float((gap / np.maximum(finite, np.finfo(np.float64).tiny)).max()) if largest else 0.0
    return Difference(name, largest, relative, largest / (1.0 + peak), tuple(int(i) for i in where))


def _bad(name: str, problem: str) -> Difference:
    return Difference(name, float("inf"), float("inf"), float("inf"), (), problem)
