"""Integer functions of index polynomials (floordiv, mod, max, ...) in C++."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from fusec.errors import BugError
from fusec.ir.dim import Atom, Dim, Extent, Monomial


def as_extent(terms: Sequence[tuple[Monomial, int]]) -> Extent:
    """The polynomial with these terms."""
    total: Extent = 0
    for mono, c in terms:
        total = total + (Dim(((mono, c),)) if mono else c)
    return total


def primitive_part(x: Dim) -> tuple[int, Extent]:
    """The largest integer that divides all coefficients, and the polynomial divided by it; negative where all of them are."""
    factor = gcd(*(c for _, c in x.terms))
    if all(c < 0 for _, c in x.terms):
        factor = -factor
    return factor, as_extent([(mono, c // factor) for mono, c in x.terms])


def is_nonnegative(x: Extent) -> bool:
    """Whether a polynomial cannot be negative because no part of it can; symbols count as not negative."""
    if isinstance(x, int):
        return x >= 0
    return all(c >= 0 and all(isinstance(a, str) or _is_atom_nonnegative(a) for a in mono) for mono, c in x.terms)


def _is_atom_nonnegative(a: Atom) -> bool:
    if a.fn == "max":
        return is_nonnegative(a.a) or is_nonnegative(a.b)
    return is_nonnegative(a.b) and (a.fn == "mod" or is_nonnegative(a.a))


def upper(x: Extent) -> int | None:
    """The most that a polynomial can be, where that follows from its form; symbols count as not negative."""
    if isinstance(x, int):
        return x
    total = 0
    for mono, c in x.terms:
        if c < 0:
            if not is_nonnegative(Dim(((mono, 1),)) if mono else 0):
                return None
            total += c if not mono else 0
            continue
        for a in mono:
            most = None if isinstance(a, str) else _upper_of_atom(a)
            if most is None:
                return None
            c *= max(0, most)
        total += c
    return total


def _upper_of_atom(atom: Atom) -> int | None:
    a, b = upper(atom.a), upper(atom.b)
    if atom.fn == "min":
        return min((n for n in (a, b) if n is not None), default=None)
    if atom.fn == "mod":
        return None if b is None else b - 1
    if a is None or (atom.fn == "max" and b is None):
        return None
    if atom.fn == "max":
        return max(a, b or 0)
    divisor = atom.b if isinstance(atom.b, int) else 1
    if divisor < 1 or a < 0:
        return None
    return a // divisor if atom.fn == "floordiv" else -(-a // divisor)


def apply_function(fn: str, x: str, y: str, plain: bool, type_: str) -> str:
    """A function of two names or literals of `type_`; `plain` where neither is negative.

    Divisors below 1 count as 1: they belong to empty loops.
    """
    if fn in ("min", "max"):
        return f"fx_{'least' if fn == 'min' else 'most'}(({type_}){x}, ({type_}){y})"
    if fn not in ("floordiv", "mod", "ceildiv"):
        raise BugError(f"unknown function of dimensions: {fn!r}")
    stem = {"floordiv": "fx_quotient", "mod": "fx_remainder", "ceildiv": "fx_quotient_up"}[fn]
    return f"{stem}{'_plain' if plain and fn != 'ceildiv' else ''}(({type_}){x}, ({type_}){y})"
