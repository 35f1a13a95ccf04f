"""Several points of a stage axis side by side: a body with every statement written once per point.

Points next to each other share what they load (weights, and what the windows of neighbours have in common), because
equal expressions are computed once. Folds over few elements, whose number is known, are written out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fusec.ir.dim import Dim, Extent, substitute, symbol, symbols_of
from fusec.ir.expr import Expr, Index, Load, Ref, replace_axes, replace_refs, walk
from fusec.kernels.cpu.windows import Range, Windows
from fusec.tile.fold import fold_rule
from fusec.tile.program import Fold, Let, Stage, Statement, Store

FEW = 7
"""The longest fold that is written out: windows of 3, 5 and 7 elements are."""
MOST_TERMS = 64
"""Arguments of folds in a body, all points taken together."""

Condition = tuple[Extent, Extent]


@dataclass(frozen=True)
class Body:
    """What a nest computes at one place: statements, the fold loops around the arguments, and what holds there.

    `terms` are the arguments of folds that take several per step. `bounds` are the parts of fold axes to run over, where
    that is not everything; `inside` the index conditions that hold.
    """

    statements: Sequence[Statement]
    folds: tuple[str, ...]
    copies: int
    """Vectors side by side along the lane."""
    terms: Mapping[str, tuple[tuple[Expr, ...], ...]] = field(default_factory=dict)
    bounds: Mapping[str, Range] = field(default_factory=dict)
    inside: frozenset[Condition] = frozenset()


def one_point(stage: Stage, windows: Windows | None, copies: int) -> Body:
    """The body as it is written, its folds within their guards."""
    folds = tuple(a.name for a in stage.folds)
    if windows is None:
        return Body(stage.body, folds, copies)
    return Body(stage.body, folds, copies, {}, {f: windows.bounds(f) for f in folds}, windows.inside)


def side_by_side(stage: Stage, axis: str, count: int, windows: Windows | None) -> tuple[Body, Range | None] | None:
    """`count` points along an axis, and where they may start; None where that cannot be written."""
    interior = None if windows is None else windows.interior(axis)
    if windows is not None and interior is None:
        return None
    known = interior[0] if interior else ()
    clamped = {g.fold for g in windows.guards if g not in known} if windows else set()
    written_out: dict[str, int] = {}
    terms = count * sum(isinstance(s, Fold) for s in stage.body)
    for a in reversed(stage.folds):
        if (
            isinstance(a.extent, int)
            and 0 < a.extent <= FEW
            and a.name not in clamped
            and terms * a.extent <= MOST_TERMS
        ):
            written_out[a.name] = a.extent
            terms *= a.extent
    loops = tuple(a.name for a in stage.folds if a.name not in written_out)
    places = [dict(zip(written_out, p, strict=True)) for p in itertools.product(*map(range, written_out.values()))]
    statements, all_terms = _write(stage, axis, count, places)
    inside: set[Condition] = set()
    bounds: dict[str, Range] = {}
    if windows is not None:
        inside = {(g.index, g.size) for g in windows.guards if g not in known}
        for g in known:
            moved = [_move(g.index, axis, k, place) for k in range(count) for place in places]
            inside |= {(i, g.size) for i in moved}
        bounds = {f: windows.bounds(f, known) for f in loops}
    body = Body(statements, loops, 1, all_terms, bounds, frozenset(inside))
    return body, interior[1] if interior and known else None


def _move(x: Extent, axis: str, by: int, place: Mapping[str, int]) -> Extent:
    return substitute(x, {axis: symbol(axis) + by, **place})


def _write(
    stage: Stage, axis: str, count: int, places: Sequence[Mapping[str, int]]
) -> tuple[list[Statement], dict[str, tuple[tuple[Expr, ...], ...]]]:
    folds = {a.name for a in stage.folds}
    statements: list[Statement] = []
    terms: dict[str, tuple[tuple[Expr, ...], ...]] = {}
    names: list[dict[str, Expr]] = [{} for _ in range(count)]

    def moved(e: Expr, k: int, place: Mapping[str, int] | None = None) -> Expr:
        return replace_axes(replace_refs(replace_axes(e, {axis: symbol(axis) + k}), names[k]), place or {})

    for s in stage.body:
        for k in range(count):
            match s:
                case Let(name, value):
                    here = moved(value, k)
                    if _mentions(here, folds):
                        names[k][name] = here
                        continue
                    names[k][name] = Ref(f"{name}~{k}", value.dtype)
                    statements.append(Let(f"{name}~{k}", here))
                case Fold(name, monoid, args):
                    each = tuple(tuple(moved(a, k, place) for a in args) for place in places)
                    statements.append(Fold(f"{name}~{k}", monoid, each[0]))
                    terms[f"{name}~{k}"] = each
                case Store(operand, index, value, partial):
                    entries = tuple(_move(i, axis, k, {}) if isinstance(i, int | Dim) else moved(i, k) for i in index)
                    statements.append(Store(operand, entries, moved(value, k), partial))
            if isinstance(s, Fold):
                names[k][s.name] = Ref(f"{s.name}~{k}", fold_rule(s.monoid, s.args[0].dtype).finish[0].dtype)
    return statements, terms


def _mentions(e: Expr, axes: set[str]) -> bool:
    for x in walk(e):
        if isinstance(x, Index) and axes & symbols_of(x.value):
            return True
        if isinstance(x, Load) and any(axes & symbols_of(i) for i in x.index if isinstance(i, int | Dim)):
            return True
    return False
