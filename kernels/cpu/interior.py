"""The interior of a lane axis: where no index along it is outside, and every minimum and maximum of it is one side alone.

    x[max(-p + 1, p - 1)]         a reflected border: from p = 1 on it is x[p - 1]
    pad(x[2*p + k - 1], -inf)     a window that hangs over: it does not from p = 1 on, as long as 2*p + k - 1 is below the size

Most vectors of a row lie there. Loads that are gathers or have masks elsewhere are contiguous there, with no condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fusec.ir.dim import FUNCTIONS, Atom, Dim, Extent, ceildiv, floordiv, linear, maximum, minimum, symbol
from fusec.ir.expr import Expr, Load, Ref, replace_refs, walk
from fusec.kernels.cpu.blocks import Body
from fusec.kernels.cpu.merged import map_indices
from fusec.kernels.cpu.polynomial import is_nonnegative
from fusec.kernels.cpu.windows import LARGEST, Range, always_inside
from fusec.tile.fold import fold_rule
from fusec.tile.program import Axis, Fold, Let, Statement, Store, TileProgram

RENAMED = "~inside"


@dataclass
class _Bounds:
    """What is known to hold: each condition is a polynomial that must not be negative."""

    lane: str
    folds: Mapping[str, Axis]
    low: Extent = 0
    high: Extent = LARGEST
    works: bool = True
    seen: set[Extent] = field(default_factory=set)

    def require(self, x: Extent) -> None:
        """Narrow the interval to where a polynomial is not negative for any index of the folds."""
        if x in self.seen:
            return
        self.seen.add(x)
        split = linear(x, [self.lane, *self.folds])
        if split is None:
            self.works = False
            return
        least, slopes = split
        slope = slopes.pop(self.lane, 0)
        for fold, step in slopes.items():
            if is_nonnegative(step * -1):
                least = least + step * (self.folds[fold].extent - 1)
            elif not is_nonnegative(step):
                self.works = False
        if not isinstance(slope, int) or slope == 0:
            self.works = False
        elif slope > 0:
            self.low = maximum(self.low, ceildiv(least * -1, slope))
        else:
            self.high = minimum(self.high, floordiv(least, -slope) + 1)


def interior(program: TileProgram, body: Body, lane: str, axes: Mapping[str, Axis]) -> tuple[Body, Range] | None:
    """A body in the form that it has inside, and from where to where along the lane axis that is; None where that is no
    interval, or the form the same everywhere."""
    folds = {n: axes[n] for n in body.folds}
    bounds, inside = _Bounds(lane, folds), set(body.inside)
    resolved: dict[Extent, Extent] = {}

    def polynomial(x: Extent) -> Extent:
        if x not in resolved:
            resolved[x] = _one_side(x, bounds)
        return resolved[x]

    statements = tuple(map_indices(s, polynomial) for s in body.statements)
    as_folds = {n: [map_indices(Fold(n, "sum", args), polynomial) for args in each] for n, each in body.terms.items()}
    terms = {n: tuple(f.args for f in each if isinstance(f, Fold)) for n, each in as_folds.items()}
    loads = (x for e in _expressions(statements, terms) for x in walk(e) if isinstance(x, Load))
    guarded = [(x.operand, x.index) for x in loads if x.fill is not None]
    guarded += [(s.operand, s.index) for s in statements if isinstance(s, Store) and s.partial]
    for operand, index in guarded:
        if operand not in program.operand:
            return None  # part of a contraction, whose storage is its own
        for i, size in zip(index, program.operand[operand].shape, strict=True):
            if not isinstance(i, Dim) or lane not in i.symbols or (i, size) in inside or always_inside(i, size, axes):
                continue
            bounds.require(i)
            bounds.require(size - 1 - i)
            inside.add((i, size))
    if not bounds.works or not bounds.seen:
        return None
    statements, terms = _renamed(statements, terms)
    return replace(body, statements=statements, terms=terms, inside=frozenset(inside)), (bounds.low, bounds.high)


def _expressions(statements: Sequence[Statement], terms: Mapping[str, Sequence[tuple[Expr, ...]]]) -> list[Expr]:
    out = [e for each in terms.values() for args in each for e in args]
    for s in statements:
        out += s.args if isinstance(s, Fold) else [s.value]
    return out


def _one_side(x: Extent, bounds: _Bounds) -> Extent:
    """A polynomial with the rising argument in place of every minimum and maximum that moves along the lane."""
    if not isinstance(x, Dim) or bounds.lane not in x.symbols:
        return x
    total: Extent = 0
    for mono, coefficient in x.terms:
        term: Extent = coefficient
        for atom in mono:
            term = term * (symbol(atom) if isinstance(atom, str) else _chosen(atom, bounds))
        total = total + term
    return total


def _chosen(atom: Atom, bounds: _Bounds) -> Extent:
    a, b = _one_side(atom.a, bounds), _one_side(atom.b, bounds)
    whole = FUNCTIONS[atom.fn](a, b)
    if atom.fn not in ("min", "max") or not isinstance(whole, Dim) or bounds.lane not in whole.symbols:
        return whole
    slopes = [None if (split := linear(e, [bounds.lane])) is None else split[1].get(bounds.lane, 0) for e in (a, b)]
    if not all(isinstance(s, int) for s in slopes) or slopes[0] == slopes[1]:
        return whole
    taken, other = (a, b) if slopes[0] > slopes[1] else (b, a)  # type: ignore[operator]
    bounds.require(taken - other if atom.fn == "max" else other - taken)
    return taken


def _renamed(
    statements: Sequence[Statement], terms: Mapping[str, tuple[tuple[Expr, ...], ...]]
) -> tuple[tuple[Statement, ...], dict[str, tuple[tuple[Expr, ...], ...]]]:
    """The same with names of their own: a name has one meaning, and that outside is another."""
    names: dict[str, Expr] = {}
    for s in statements:
        if isinstance(s, Let):
            names[s.name] = Ref(s.name + RENAMED, s.value.dtype)
        elif isinstance(s, Fold):
            names[s.name] = Ref(s.name + RENAMED, fold_rule(s.monoid, s.args[0].dtype).finish[0].dtype)

    def moved(e: Expr) -> Expr:
        return replace_refs(e, names)

    inside = {n + RENAMED: tuple(tuple(map(moved, args)) for args in each) for n, each in terms.items()}
    return tuple(_with(s, moved) for s in statements), inside


def _with(s: Statement, moved: Callable[[Expr], Expr]) -> Statement:
    match s:
        case Let(name, value):
            return Let(name + RENAMED, moved(value))
        case Fold(name, monoid, args):
            return Fold(name + RENAMED, monoid, tuple(map(moved, args)))
        case Store(operand, index, value, partial):
            entries = tuple(i if isinstance(i, int | Dim) else moved(i) for i in index)
            return Store(operand, entries, moved(value), partial)
