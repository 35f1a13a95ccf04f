"""argmax and argmin in two passes: the extreme, then the first place where it is.

The running pair of value and index takes a dozen operations per element, on 64-bit indices. The extreme alone takes one or
two, and looking for it compares 32-bit indices; both passes over a row find it in the first cache.
"""

from __future__ import annotations

from fusec.ir.expr import Const, Expr, Prim, Ref, cast, prim, walk
from fusec.ir.types import DType
from fusec.tile.program import Fold, Let, Stage, Statement

MOST = 4
"""Operations of an argument that may be computed twice."""
NOWHERE = Const((1 << 32) - 1, DType.U32)
"""No element: along one axis there are never so many (16 GiB of float32)."""


def in_two_passes(stage: Stage) -> Stage:
    """The stage with a search for the extreme in place of folds that carry its index along."""
    body: list[Statement] = []
    for s in stage.body:
        if isinstance(s, Fold) and s.monoid in ("argmax", "argmin") and _is_short(s.args[0]):
            body += _two_passes(s)
        else:
            body.append(s)
    return Stage(stage.axes, stage.folds, tuple(body))


def _is_short(e: Expr) -> bool:
    return sum(isinstance(x, Prim) for x in walk(e)) <= MOST


def _two_passes(s: Fold) -> list[Statement]:
    value, index = s.args
    best = Ref(f"{s.name}~best", value.dtype)
    here: Expr = prim("eq", value, best)
    if value.dtype.is_float:  # with a NaN in the row the extreme is NaN, which equals nothing
        here = prim("or", here, prim("isnan", value))
    place = Ref(f"{s.name}~place", DType.U32)
    found = prim("where", prim("eq", place, NOWHERE), Const(-1, DType.I64), cast(place, DType.I64))
    return [
        Fold(best.name, s.monoid[3:], (value,)),
        Fold(place.name, "min", (prim("where", here, cast(index, DType.U32), NOWHERE),)),
        Let(s.name, found),
    ]
