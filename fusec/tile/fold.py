"""Folds: reductions as records of expressions, so that one emitter serves all of them and `merge` makes splits legal.

A fold has a state of one or more scalars. `init` is the state of nothing, `step` adds one element (Refs `a0`, `a1`, ... are
the arguments, `s0`, `s1`, ... the state), `merge` joins two states (`s*` and `t*`), `finish` turns the state into results.
The accumulators' dtype is the dtype of the arguments, except where a rule says i64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from fusec.errors import BugError
from fusec.ir.expr import Const, Expr, Ref, prim
from fusec.ir.types import DType


@dataclass(frozen=True, slots=True)
class FoldRule:
    """What a monoid does, for one dtype of its arguments."""

    name: str
    state: tuple[DType, ...]
    init: tuple[Expr, ...]
    step: tuple[Expr, ...]
    merge: tuple[Expr, ...]
    finish: tuple[Expr, ...]


def _simple(name: str, dtype: DType, init: Const) -> FoldRule:
    op = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}[name]
    s, t, a = (Ref(n, dtype) for n in ("s0", "t0", "a0"))
    step = (
        prim(op, a, s) if op in ("max", "min") else prim(op, s, a)
    )  # emitters ask their first argument whether it is NaN
    return FoldRule(name, (dtype,), (init,), (step,), (prim(op, s, t),), (s,))


def limits(dtype: DType) -> tuple[float | int, float | int]:
    """The least and the greatest value of a dtype: -inf and inf for floats."""
    if dtype.is_float:
        return -math.inf, math.inf
    if dtype is DType.BOOL:
        return 0, 1
    bits = dtype.itemsize * 8
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.is_signed else (0, (1 << bits) - 1)


def _extreme_at(name: str, dtype: DType) -> FoldRule:
    """argmax, argmin: arguments are the element and its index; of equal elements the smaller index wins, a NaN beats all."""
    lo, hi = limits(dtype)
    start = Const(lo if name == "argmax" else hi, dtype)
    better = "gt" if name == "argmax" else "lt"
    a, i = Ref("a0", dtype), Ref("a1", DType.I64)
    s, j = Ref("s0", dtype), Ref("s1", DType.I64)
    t, k = Ref("t0", dtype), Ref("t1", DType.I64)

    def wins(x: Expr, xi: Expr, y: Expr, yi: Expr) -> Expr:
        """x beats y."""
        unset = prim("lt", yi, Const(0, DType.I64))
        taken = prim("ge", xi, Const(0, DType.I64))
        tie = prim("and", prim("eq", x, y), prim("lt", xi, yi))
        win: Expr = prim("or", prim(better, x, y), tie)
        if dtype.is_float:
            first_nan = prim("and", prim("isnan", x), prim("or", prim("not", prim("isnan", y)), prim("lt", xi, yi)))
            win = prim("or", prim("and", win, prim("not", prim("isnan", y))), first_nan)
        return prim("and", taken, prim("or", unset, win))

    def choose(c: Expr, x: Expr, xi: Expr, y: Expr, yi: Expr) -> tuple[Expr, Expr]:
        return prim("where", c, x, y), prim("where", c, xi, yi)

    return FoldRule(
        name,
        (dtype, DType.I64),
        (start, Const(-1, DType.I64)),
        choose(wins(a, i, s, j), a, i, s, j),
        choose(wins(t, k, s, j), t, k, s, j),
        (j,),
    )


@cache
def fold_rule(name: str, dtype: DType) -> FoldRule:
    """The rule of a monoid for arguments of `dtype`: sum prod max min any all argmax argmin."""
    lo, hi = limits(dtype)
    zero: float | int = 0.0 if dtype.is_float else 0
    one: float | int = 1.0 if dtype.is_float else 1
    rules: dict[str, Callable[[], FoldRule]] = {
        "sum": lambda: _simple("sum", dtype, Const(zero, dtype)),
        "prod": lambda: _simple("prod", dtype, Const(one, dtype)),
        "max": lambda: _simple("max", dtype, Const(lo, dtype)),
        "min": lambda: _simple("min", dtype, Const(hi, dtype)),
        "any": lambda: _simple("any", DType.BOOL, Const(False, DType.BOOL)),
        "all": lambda: _simple("all", DType.BOOL, Const(True, DType.BOOL)),
        "argmax": lambda: _extreme_at("argmax", dtype),
        "argmin": lambda: _extreme_at("argmin", dtype),
    }
    if name not in rules:
        raise BugError(f"unknown fold {name!r}")
    return rules[name]()
