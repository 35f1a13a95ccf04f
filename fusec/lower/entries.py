"""Index entries: polynomials over axes, or integer expressions read from memory; and how reshapes transform them.

While a group is lowered, axes are symbols that begin with `$`, so that they never meet a symbol of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from fusec.ir.dim import Dim, Extent, exact_quotient, floordiv, linear, mod, product, symbols_of
from fusec.ir.expr import Const, Expr, Index, cast, prim
from fusec.ir.types import DType

Entry = Extent | Expr
Split = Callable[[str, Extent], None]
"""Asks for an axis to become two, the inner one of the given extent; does not return where that is possible."""


def is_axis(name: str) -> bool:
    """Whether a symbol is an axis of the program being made."""
    return name.startswith("$")


def axes_of(e: Entry) -> frozenset[str]:
    """The axes of a polynomial; of an expression, those of its indices."""
    if isinstance(e, int | Dim):
        return frozenset(s for s in symbols_of(e) if is_axis(s))
    from fusec.ir.expr import Load, walk

    out = frozenset[str]()
    for x in walk(e):
        if isinstance(x, Index):
            out |= axes_of(x.value)
        elif isinstance(x, Load):
            out |= frozenset[str]().union(*(axes_of(i) for i in x.index if isinstance(i, int | Dim)))
    return out


def value_of(e: Entry) -> Expr:
    """An entry as an i64 value."""
    return Index(e) if isinstance(e, int | Dim) else cast(e, DType.I64)


def shift(e: Entry, by: Extent) -> Entry:
    """e + by."""
    if isinstance(e, int | Dim):
        return e + by
    return e if by == 0 else prim("add", value_of(e), Index(by))


def scale(e: Entry, by: Extent) -> Entry:
    """e * by."""
    if isinstance(e, int | Dim):
        return e * by
    return e if by == 1 else prim("mul", value_of(e), Index(by))


def add(a: Entry, b: Entry) -> Entry:
    """a + b."""
    if isinstance(a, int | Dim):
        return shift(b, a)
    return shift(a, b) if isinstance(b, int | Dim) else prim("add", value_of(a), value_of(b))


def compare(name: str, a: Entry, b: Entry) -> Expr | bool:
    """A comparison as a bool value, or what it is where the difference is a number."""
    if isinstance(a, int | Dim) and isinstance(b, int | Dim) and isinstance(d := a - b, int):
        return {"lt": d < 0, "le": d <= 0, "gt": d > 0, "ge": d >= 0, "eq": d == 0}[name]
    return prim(name, value_of(a), value_of(b))


def conjunction(parts: Sequence[Expr | bool]) -> Expr | bool:
    """All of the parts; what is known to be true is left out."""
    out: Expr | None = None
    for p in parts:
        if isinstance(p, bool):
            if not p:
                return False
            continue
        out = p if out is None else prim("and", out, p)
    return True if out is None else out


def nonnegative(x: Extent) -> bool:
    """Whether a polynomial is known not to be negative: symbols of a graph and axes never are."""
    if isinstance(x, int):
        return x >= 0
    return all(c > 0 and all(isinstance(a, str) for a in mono) for mono, c in x.terms)


def bounds(x: Extent, extents: Mapping[str, Extent]) -> tuple[Extent, Extent] | None:
    """The least and the greatest value of a polynomial over axes of known extents; None where that is not known."""
    split = linear(x, extents)
    if split is None:
        return None
    low = high = split[0]
    for a, c in split[1].items():
        if nonnegative(c):
            high = high + c * (extents[a] - 1)
        elif nonnegative(-1 * c):
            low = low + c * (extents[a] - 1)
        else:
            return None
    return low, high


def divide(x: Entry, by: Extent, extents: Mapping[str, Extent], split: Split) -> tuple[Entry, Entry]:
    """x // by and x % by, as polynomials without functions wherever the extents of the axes allow it."""
    if by == 0:
        return 0, 0
    if not isinstance(x, int | Dim):
        n = Index(by)
        return prim("floordiv", value_of(x), n), prim("mod", value_of(x), n)
    parts = linear(x, extents)
    if parts is None:
        return floordiv(x, by), mod(x, by)
    quotient, remainder = _divide_constant(parts[0], by)
    for a, c in parts[1].items():
        term = c * axis_symbol(a)
        exact = exact_quotient(c, by)
        if exact is None:
            remainder = remainder + term
        else:
            quotient = quotient + exact * axis_symbol(a)
    limits = bounds(remainder, extents)
    if limits is not None and nonnegative(limits[0]) and nonnegative(by - 1 - limits[1]):
        return quotient, remainder
    for a, c in parts[1].items():
        inner = exact_quotient(by, c)
        if inner is not None and inner != 1 and exact_quotient(extents[a], inner) not in (None, 1):
            split(a, inner)
    return floordiv(x, by), mod(x, by)


def _divide_constant(rest: Extent, by: Extent) -> tuple[Extent, Extent]:
    exact = exact_quotient(rest, by)
    if exact is not None:
        return exact, 0
    if isinstance(rest, int) and isinstance(by, int):
        return divmod(rest, by)
    return 0, rest


def axis_symbol(name: str) -> Dim:
    """The symbol of an axis."""
    return Dim((((name,), 1),))


def reshaped(
    index: Sequence[Entry],
    made: Sequence[Extent],
    source: Sequence[Extent],
    extents: Mapping[str, Extent],
    split: Split,
) -> tuple[Entry, ...]:
    """Where an element of a reshaped tensor (shape `made`) lies in its input (shape `source`).

    Runs of dimensions with equal products are treated on their own, so that what a reshape leaves alone stays simple.
    """
    out: list[Entry] = [0] * len(source)
    for there, here in runs(made, source):
        position: Entry = 0
        for d in there:
            position = add(scale(position, made[d]), index[d])
        for d in reversed(here[1:]):
            position, out[d] = divide(position, source[d], extents, split)
        if here:
            out[here[0]] = position
    return tuple(out)


def runs(a: Sequence[Extent], b: Sequence[Extent]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of dimensions of two shapes whose products are equal; dimensions of 1 are left out."""
    left, right = [d for d in range(len(a)) if a[d] != 1], [d for d in range(len(b)) if b[d] != 1]
    out = []
    while left or right:
        n, m = _first_match([a[d] for d in left], [b[d] for d in right])
        out.append((left[:n], right[:m]))
        left, right = left[n:], right[m:]
    return out


def _first_match(a: list[Extent], b: list[Extent]) -> tuple[int, int]:
    for total in count(2):
        if total > len(a) + len(b):
            break
        for n in range(1, min(total, len(a) + 1)):
            if 1 <= total - n <= len(b) and product(a[:n]) == product(b[: total - n]):
                return n, total - n
    return len(a), len(b)


def literal(value: float | int | bool, dtype: DType) -> Const:
    """A constant with a plain Python number of the dtype's kind."""
    if dtype is DType.BOOL:
        return Const(bool(value), dtype)
    return Const(float(value) if dtype.is_float else int(value), dtype)
