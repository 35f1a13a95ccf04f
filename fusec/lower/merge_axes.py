"""Merge neighbouring axes that every access runs through without a gap: `x[n, c, h, w]` of a pointwise group is `x[i]`.

    task n: N, c: C                       task i: N*C
    input x: f32[N, C], b: f32[N, C]      input x: f32[N*C], b: f32[N*C]
    y[n, c] = x[n, c] + b[n, c]           y[i] = x[i] + b[i]

Shapes in a program are only ways to see contiguous bytes, so the dimensions that the axes index merge with them.

The places of a convolution's windows, which its input is not read along without gaps, become one axis all the same where
everything that is stored runs through them: register tiles are then full, however narrow an image is.

    task p: P, q: Q                                task m: P*Q
    x[n, p*2 + r, q*2 + s, c] .. y[n, p, q, o]     x[n, m // Q*2 + r, m % Q*2 + s, c] .. y[n, m, o]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from itertools import pairwise

from fusec.ir.dim import Dim, Extent, floordiv, linear, mod, substitute, symbols_of
from fusec.ir.expr import Expr, Index, Load, rewrite
from fusec.lower.entries import axis_symbol
from fusec.lower.finish import (
    accesses_of,
    change_operand,
    is_contraction,
    map_expressions,
    polynomials,
    substitute_axes,
)
from fusec.tile.program import Axis, Stage, Statement, Store, TileProgram


def merge_axes(p: TileProgram, pixels: Set[str] = frozenset()) -> TileProgram:
    """Merge until nothing merges any more. `pixels` are axes over the places of a convolution's windows."""
    p = _merge_all(p, merge)
    return _merge_all(p, lambda p, a, b: merge_pixels(p, a, b) if a in pixels and b in pixels else None)


Merge = Callable[[TileProgram, str, str], "TileProgram | None"]


def _merge_all(p: TileProgram, merge: Merge) -> TileProgram:
    refused: set[tuple[str, str]] = set()
    while True:
        pair = next((x for x in neighbours(p) if x not in refused), None)
        if pair is None:
            return p
        merged = merge(p, *pair)
        if merged is None:
            refused.add(pair)
        else:
            p = merged


def neighbours(p: TileProgram) -> Iterator[tuple[str, str]]:
    """Pairs of axes of one kind, one directly inside the other, innermost first."""
    task = [a.name for a in p.axes if not a.sequential]
    yield from reversed(list(pairwise(task)))
    for s in p.stages:
        own = [a.name if isinstance(a, Axis) else "" for a in s.axes]
        yield from reversed([(a, b) for a, b in pairwise(own) if a and b])
        folds = [a.name for a in s.folds]
        yield from reversed(list(pairwise(folds)))


def merge(p: TileProgram, a: str, b: str) -> TileProgram | None:
    """The program with `a` and `b` as one axis, in the place and under the name of `b`; None where an access forbids it."""
    inner = p.axis[b].extent
    if not all(_same_place(s, a, b) for s in p.stages) or any(
        is_contraction(s) and s.axis_names[-2:] == (a, b) for s in p.stages
    ):
        return None
    for o in p.operands:
        found = _joint_dimensions(p, o.name, a, b, inner)
        if found is None:
            return None
        for d in found:
            p = _merge_dimensions(p, o.name, d)
    for s in p.stages:
        if not all(_runs_through(i, a, b, inner) for i in polynomials(s)):
            return None
    outer = p.axis[a].extent
    # a*B + b with a = 0 is b, which now runs over both extents
    out = substitute_axes(p, {a: 0})
    return _widen(out, b, outer * inner)


def _same_place(s: Stage, a: str, b: str) -> bool:
    """A stage runs over both, a directly outside b, or over neither."""
    names = list(s.axis_names)
    folds = [f.name for f in s.folds]
    for axes in (names, folds):
        if a in axes or b in axes:
            return a in axes and b in axes and axes.index(b) == axes.index(a) + 1
    return True


def _runs_through(i: Extent, a: str, b: str, inner: Extent) -> bool:
    """The polynomial has neither axis, or both as a*B + b, times a number."""
    used = symbols_of(i)
    if a not in used and b not in used:
        return True
    parts = linear(i, [a, b])
    return parts is not None and parts[1].keys() == {a, b} and parts[1][a] == parts[1][b] * inner


def _joint_dimensions(p: TileProgram, name: str, a: str, b: str, inner: Extent) -> list[int] | None:
    """The dimensions d of an operand where d is indexed by a and d+1 by b and which may merge; None where none may."""
    o = p.operand[name]
    accesses = [x for s in p.stages for x in accesses_of(s, name)]
    indices = [x.index for x in accesses]
    folds = {f.name for s in p.stages for f in s.folds}
    begins = _moves_with if a in folds else _is_axis  # a row of a window may begin anywhere
    joint = {d for i in indices for d in range(len(i) - 1) if begins(i[d], a) and i[d + 1] == axis_symbol(b)}
    for d in joint:
        if o.shape[d + 1] != inner or (o.role == "local" and o.shape[d] != p.axis[a].extent):
            return None
        for x in accesses:
            pair = x.index[d : d + 2]
            guarded = x.fill is not None if isinstance(x, Load) else x.partial
            if guarded or not all(isinstance(i, int | Dim) for i in pair):
                return None
    return sorted(joint, reverse=True)


def _is_axis(i: Extent | Expr, axis: str) -> bool:
    return i == axis_symbol(axis)


def _moves_with(i: Extent | Expr, axis: str) -> bool:
    parts = linear(i, [axis]) if isinstance(i, int | Dim) else None
    return parts is not None and parts[1].get(axis) == 1


def merge_pixels(p: TileProgram, a: str, b: str) -> TileProgram | None:
    """As `merge`, where b is the row axis of a contraction; what does not run through both is read at a quotient and a
    remainder. None where something is not stored along them."""
    inner = p.axis[b].extent
    rows = [s for s in p.stages if is_contraction(s) and s.axis_names[-2] == b]
    if not rows or not all(_same_place(s, a, b) for s in p.stages):
        return None
    joint = {o.name: found for o in p.operands if (found := _joint_dimensions(p, o.name, a, b, inner)) is not None}
    for name, dimensions in joint.items():
        for d in dimensions:
            p = _merge_dimensions(p, name, d)
    stored = (i for s in p.stages for x in s.stores for i in x.index if isinstance(i, int | Dim))
    if not all(_runs_through(i, a, b, inner) for i in stored):
        return None
    outer, here = p.axis[a].extent, axis_symbol(b)
    apart: dict[str, Extent] = {a: floordiv(here, inner), b: mod(here, inner)}

    def place(i: Extent | Expr) -> Extent | Expr:
        if not isinstance(i, int | Dim):
            return i
        return substitute(i, {a: 0} if _runs_through(i, a, b, inner) else apart)

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Index):
            value = place(x.value)
            return Index(value) if isinstance(value, int | Dim) else None
        return replace(x, index=tuple(map(place, x.index))) if isinstance(x, Load) else None

    def statement(x: Statement) -> Statement:
        x = map_expressions(x, lambda e: rewrite(e, leaf))
        return replace(x, index=tuple(map(place, x.index))) if isinstance(x, Store) else x

    stages = tuple(Stage(tuple(n for n in s.axes if n != a), s.folds, tuple(map(statement, s.body))) for s in p.stages)
    merged = replace(p, axes=tuple(x for x in p.axes if x.name != a), stages=stages)
    return _widen(merged, b, outer * inner)


def _merge_dimensions(p: TileProgram, name: str, d: int) -> TileProgram:
    o = p.operand[name]
    n = o.shape[d + 1]

    def index(i: tuple[Extent | Expr, ...]) -> tuple[Extent | Expr, ...]:
        outer, inner = i[d], i[d + 1]
        assert isinstance(outer, int | Dim)
        assert isinstance(inner, int | Dim)
        return (*i[:d], outer * n + inner, *i[d + 2 :])

    return change_operand(p, name, replace(o, shape=(*o.shape[:d], o.shape[d] * n, *o.shape[d + 2 :])), index)


def _widen(p: TileProgram, name: str, extent: Extent) -> TileProgram:
    def axis(a: Axis) -> Axis:
        return replace(a, extent=extent) if a.name == name else a

    stages = tuple(
        Stage(tuple(a if isinstance(a, str) else axis(a) for a in s.axes), tuple(map(axis, s.folds)), s.body)
        for s in p.stages
    )
    return replace(p, axes=tuple(map(axis, p.axes)), stages=stages)
