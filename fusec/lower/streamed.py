"""Sums of powers of e that need the maximum of a row only when their parts are put together: one pass over a slice finds both.

A slice takes its own maximum instead, and its sum is scaled by e to the difference when the row's is known (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fusec.ir.expr import Const, Expr, Load, Prim, Ref, prim, rewrite
from fusec.lower.entries import literal
from fusec.tile.program import Fold, Let, Stage


@dataclass(frozen=True, slots=True)
class StreamedSum:
    """A stage that is sum[..](exp(x - top)), `top` being where another stage has stored the maximum of x."""

    x: Expr
    top: Load

    def sliced(self, arg: Expr, mine: Load) -> Expr:
        """What a slice adds for one element, given what it adds with `top`: of nothing but -inf it adds 0, not NaN."""
        least = prim("eq", mine, Const(-math.inf, mine.dtype))
        shift = prim("where", least, literal(0, mine.dtype), mine)
        return rewrite(arg, lambda x: shift if x == self.top else None)

    def merged(self, part: Load, maximum: Load) -> Expr:
        """What a slice's sum adds to the row's, given the slice's maximum."""
        return prim("mul", part, prim("exp", prim("sub", maximum, self.top)))


def streamed_sum(stage: Stage) -> StreamedSum | None:
    """The stage as such a sum; None where it is anything else."""
    match _lone_fold(stage):
        case Fold(_, "sum", (Prim("exp", (Prim("sub", (x, Load() as top)),)),)) if (
            top.fill is None and top.dtype.is_float
        ):
            return StreamedSum(x, top)
    return None


def is_maximum(stage: Stage, total: StreamedSum) -> bool:
    """Whether a stage stores the maximum of what is summed where the sum reads it, over the same axes."""
    match _lone_fold(stage):
        case Fold(name, "max", (x,)):
            stores = [s for s in stage.stores if s.operand == total.top.operand]
            plain = [s.index == total.top.index and s.value == Ref(name, total.top.dtype) for s in stores]
            return x == total.x and plain == [True]
    return False


def _lone_fold(stage: Stage) -> Fold | None:
    """The only fold of a stage whose arguments need no lets."""
    folds = [s for s in stage.body if isinstance(s, Fold)]
    lets = any(isinstance(s, Let) for s in stage.body[: stage.body.index(folds[0])]) if folds else True
    return folds[0] if len(folds) == 1 and not lets else None
