"""Guarded loads of folds (padded windows): loop bounds instead of conditions.

A fold over a window that hangs over the edge adds nothing where its load is outside: the fill is 0 in a sum, -inf in a
maximum. So the fold loops run over the part of the window that is inside, and what they load needs no condition. Along a
stage axis, the points whose windows lie wholly inside are an interval: there several points can be computed side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fusec.ir.dim import Dim, Extent, ceildiv, floordiv, linear, maximum, minimum, substitute, symbols_of
from fusec.ir.expr import Const, Expr, Load, Prim, Ref, replace_refs, walk
from fusec.kernels.cpu.polynomial import is_nonnegative
from fusec.tile.fold import fold_rule
from fusec.tile.program import Axis, Fold, Let, Stage, TileProgram

Range = tuple[Extent, Extent]
"""Half-open."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition 0 <= index < size, where the index is `coefficient * fold + rest`."""

    index: Extent
    size: Extent
    fold: str
    coefficient: Extent
    rest: Extent


@dataclass(frozen=True, slots=True)
class Windows:
    """The guards of a stage's folds, all of which may become loop bounds."""

    guards: tuple[Guard, ...]
    folds: Mapping[str, Axis]

    @property
    def inside(self) -> frozenset[tuple[Extent, Extent]]:
        """The conditions that hold wherever the clamped loops go."""
        return frozenset((g.index, g.size) for g in self.guards)

    def bounds(self, fold: str, known: Iterable[Guard] = ()) -> Range:
        """The part of a fold axis inside all guards, apart from guards that are `known` to hold."""
        low: Extent = 0
        high = self.folds[fold].extent
        for g in self.guards:
            if g.fold == fold and g not in known:
                low = maximum(low, ceildiv(0 - g.rest, g.coefficient))
                high = minimum(high, floordiv(g.size - 1 - g.rest, g.coefficient) + 1)
        return low, high

    def interior(self, axis: str) -> tuple[tuple[Guard, ...], Range] | None:
        """Guards that depend on a stage axis, and the interval of the axis where all of them hold for the whole window.

        None where that is no interval that can be written down.
        """
        mine = tuple(g for g in self.guards if axis in symbols_of(g.index))
        low: Extent = 0
        high: Extent | None = None
        for g in mine:
            split = linear(g.rest, [axis])
            if split is None or axis in symbols_of(g.coefficient):
                return None
            rest, step = split[0], split[1].get(axis, 0)
            if step == 0 or not is_nonnegative(step):
                return None
            last = g.size - 1 - rest - g.coefficient * (self.folds[g.fold].extent - 1)
            end = floordiv(last, step) + 1
            low, high = maximum(low, ceildiv(0 - rest, step)), end if high is None else minimum(high, end)
        return (mine, (low, high)) if high is not None else (mine, (0, LARGEST))


LARGEST = 1 << 62


def windows(program: TileProgram, stage: Stage, axes: Mapping[str, Axis], lane: str) -> Windows | None:
    """What can be said of the guards of a stage's folds; None where all of them must stay conditions."""
    folds = {a.name: a for a in stage.folds}
    found: set[frozenset[Guard]] = set()
    lets: dict[str, Expr] = {}
    for s in stage.body:
        match s:
            case Let(name, value):
                lets[name] = replace_refs(value, lets) if _size(value, lets) < MOST else value
            case Fold(_, monoid, (arg,)) if _size(arg, lets) < MOST:
                start = fold_rule(monoid, arg.dtype).init[0]
                e = replace_refs(arg, lets)
                found.add(frozenset(_guards(program, e, start, monoid, folds, axes, lane)))
            case Fold():
                return None
    if len(found) != 1:
        return None
    (one,) = found
    return Windows(tuple(sorted(one, key=str)), folds) if one else None


MOST = 200
"""Operations of an argument that is looked into; what is longer keeps its conditions."""


def _size(e: Expr, lets: Mapping[str, Expr]) -> int:
    parts = list(walk(e))
    return len(parts) + sum(len(list(walk(lets[x.name]))) for x in parts if isinstance(x, Ref) and x.name in lets)


def _guards(
    program: TileProgram,
    e: Expr,
    start: Expr,
    monoid: str,
    folds: Mapping[str, Axis],
    axes: Mapping[str, Axis],
    lane: str,
) -> Iterator[Guard]:
    """Conditions outside of which an argument adds nothing to its fold."""
    for x in walk(e):
        if (
            not isinstance(x, Load)
            or x.fill is None
            or not isinstance(start, Const)
            or not _adds_nothing(e, x, start, monoid)
        ):
            continue
        for i, size in zip(x.index, program.operand[x.operand].shape, strict=True):
            if not isinstance(i, int | Dim) or lane in symbols_of(i) or always_inside(i, size, axes):
                continue
            split = linear(i, folds)
            if split is None or len(split[1]) != 1:
                continue
            ((fold, coefficient),) = split[1].items()
            if is_nonnegative(coefficient):
                yield Guard(i, size, fold, coefficient, split[0])


def _adds_nothing(e: Expr, load: Load, start: Const, monoid: str) -> bool:
    """Whether an argument is the fold's neutral element wherever a load yields its fill: in sums, if a factor is 0."""
    match e:
        case Load(_, _, _, fill):
            return e == load and fill is not None and fill.value == start.value
        case Prim("mul", args, _) if monoid == "sum":
            return any(_adds_nothing(a, load, start, monoid) for a in args)
        case Prim("cast", (x,), _) if monoid == "sum":
            return _adds_nothing(x, load, Const(0, x.dtype), monoid)
    return False


def always_inside(i: Extent, extent: Extent, axes: Mapping[str, Axis]) -> bool:
    """Whether an index polynomial needs no check: not negative, and below the extent at the ends of all its axes."""
    names = [s for s in symbols_of(i) if s in axes]
    split = linear(i, names)
    if split is None or not is_nonnegative(i):
        return False
    room = extent - 1 - substitute(i, {n: axes[n].extent - 1 for n in names})
    return isinstance(room, int) and room >= 0
