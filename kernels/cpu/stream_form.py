"""Recognising attention: scores, a softmax over them and a product with the values, all over one axis of positions.

    stage b, m, n: N      scores: h = anything of sum[k](q * k)
    stage b, m            top = max[n](h)
    stage b, m, n: N      power = exp(h - top)
    stage b, m            factor = anything of sum[n](power)
    stage b, m, e: E      anything of sum[n](power * v) and factor

Where a program has this form, the positions can go by in blocks: the largest score and the sums are kept as they are so far
and rescaled when a larger score appears. Pure analysis; stream.py emits it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.dim import Dim, Extent, linear, substitute, symbol, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import Contraction, contraction, inline
from fusec.kernels.kernel import Kernel
from fusec.tile.program import Fold, Let, Stage, Statement, Store, TileProgram

FLOATS = (DType.F32, DType.F64)


@dataclass(frozen=True, slots=True)
class Attention:
    """The five stages: two contractions and what is between them.

    `scores` stores its result in the local `held`, whose index is that of `held_index`. `powers` holds what the second
    product reads; with `clean` it reads 0 instead of NaN. `factor` is the store of what is made of the sum `total`, and
    `factor_lets` what that needs. `seen` is where the positions end that row m sees, as a polynomial; None: all of them.
    """

    scores: Contraction
    values: Contraction
    axis: str
    held: str
    powers: str
    clean: bool
    total: str
    factor_stage: Stage
    seen: Extent | None


def attention(program: TileProgram) -> Attention | None:
    """The program as attention; None where it is anything else."""
    if len(program.stages) != 5:
        return None
    first, top, power, total, last = program.stages
    scores, values = contraction(first), contraction(last)
    if scores is None or values is None or not scores.m or scores.m != values.m:
        return None
    if scores.dtype not in FLOATS or values.dtype is not scores.dtype or len(first.folds) != 1 or len(last.folds) != 1:
        return None
    if scores.n != values.k.name or scores.batch != values.batch or scores.n in (a.name for a in program.axes):
        return None
    if scores.m not in (a.name for a in program.axes) or values.n == scores.n:
        return None
    held = _only_store(first)
    if held is None or not _is_local(program, held.operand, scores.dtype) or not _runs(held, scores):
        return None
    largest = _fold_of(top, "max", scores.n)
    if largest is None or largest[0] != Load(held.operand, held.index, scores.dtype):
        return None
    index = held.index[:-1]
    powers = _powers(power, held, Load(largest[1].operand, index, scores.dtype), scores)
    if powers is None or largest[1].index != index or largest[1].value != Ref(largest[2], scores.dtype):
        return None
    added = _fold_of(total, "sum", scores.n)
    weight = Load(powers.operand, powers.index, scores.dtype)
    if added is None or added[0] != weight or added[1].index != index:
        return None
    clean = values.left == _cleaned(weight)
    if (values.left != weight and not clean) or not _only_reads(
        program, (held.operand, largest[1].operand, powers.operand)
    ):
        return None
    return Attention(
        scores, values, scores.n, held.operand, powers.operand, clean, added[2], total, _seen(first, held, scores)
    )


def _only_store(stage: Stage) -> Store | None:
    return stage.stores[0] if len(stage.stores) == 1 else None


def _is_local(program: TileProgram, name: str, dtype: DType) -> bool:
    o = program.operand[name]
    return o.role == "local" and o.dtype is dtype


def _runs(store: Store, c: Contraction) -> bool:
    """Whether a local is indexed by batch axes, rows and columns as they are, the columns last."""
    axes = [symbol(a) for a in (*c.batch, c.m)]
    *outer, last = store.index
    return last == symbol(c.n) and all(i in axes for i in outer) and symbol(c.m) in outer


def _fold_of(stage: Stage, monoid: str, axis: str) -> tuple[Expr, Store, str] | None:
    """What a stage folds along an axis, what it stores, and the fold's name."""
    folds = [s for s in stage.body if isinstance(s, Fold)]
    if len(folds) != 1 or [a.name for a in stage.folds] != [axis] or len(stage.stores) != 1:
        return None
    (fold,) = folds
    if fold.monoid != monoid or len(fold.args) != 1:
        return None
    return inline(fold.args[0], _lets(stage)), stage.stores[0], fold.name


def _powers(stage: Stage, held: Store, top: Load, c: Contraction) -> Store | None:
    store = _only_store(stage)
    if store is None or stage.folds or store.index != held.index or any(isinstance(s, Fold) for s in stage.body):
        return None
    shifted = Prim("sub", (Load(held.operand, held.index, c.dtype), top), c.dtype)
    return store if inline(store.value, _lets(stage)) == Prim("exp", (shifted,), c.dtype) else None


def _cleaned(x: Expr) -> Expr:
    return Prim("where", (Prim("isnan", (x,), DType.BOOL), Const(0.0, x.dtype), x), x.dtype)


def _only_reads(program: TileProgram, names: tuple[str, ...]) -> bool:
    """Whether the scores, their largest and the powers are read by nothing but the stages of the form."""
    first, top, power, total, last = ({x.operand for x in s.loads() if x.operand in names} for s in program.stages)
    held, largest, powers = names
    return (first, top, power, total, last) == (set(), {held}, {held, largest}, {powers}, {powers})


def _lets(stage: Stage) -> dict[str, Expr]:
    return {s.name: s.value for s in stage.body if isinstance(s, Let)}


# ---- what a row sees


def _seen(stage: Stage, held: Store, c: Contraction) -> Extent | None:
    """The end of the positions that row m sees, where scores elsewhere are -inf whatever they would be."""
    return _bound(held.value, _lets(stage), c)


def _bound(e: Expr, lets: dict[str, Expr], c: Contraction) -> Extent | None:
    if isinstance(e, Ref) and e.name in lets:
        return _bound(lets[e.name], lets, c)
    if isinstance(e, Prim) and e.name == "add":  # -inf plus a mask stays -inf
        found = (_bound(a, lets, c) for a in e.args)
        return next((x for x in found if x is not None), None)
    if not isinstance(e, Prim) or e.name != "where" or e.args[2] != Const(float("-inf"), e.dtype):
        return None
    test = e.args[0]
    while isinstance(test, Ref) and test.name in lets:
        test = lets[test.name]
    return _last(test, c)


def _last(test: Expr, c: Contraction) -> Extent | None:
    """One more than the last n for which `n <= something that grows with m` holds."""
    if not isinstance(test, Prim) or test.name not in ("le", "lt", "ge", "gt"):
        return None
    a, b = test.args
    if not isinstance(a, Index) or not isinstance(b, Index):
        return None
    small, large = (a.value, b.value) if test.name in ("le", "lt") else (b.value, a.value)
    room = large - small if test.name in ("le", "ge") else large - small - 1  # >= 0 where it is seen
    if not isinstance(room, Dim):
        return None
    parts = linear(room, [c.n, c.m])
    if parts is None or parts[1].get(c.n) != -1 or parts[1].get(c.m, 0) not in (0, 1):
        return None
    if c.n in symbols_of(parts[0]) or c.m in symbols_of(parts[0]):
        return None
    return substitute(room, {c.n: 0}) + 1


def after_factor(form: Attention) -> tuple[Statement, ...]:
    """The statements that make the factor of a row, without the fold."""
    return tuple(s for s in form.factor_stage.body if not isinstance(s, Fold))


def is_streamed(kernel: Kernel) -> bool:
    """Whether a kernel is an attention whose stages are all to be streamed, on register tiles of one size."""
    tilings = kernel.tiling.stages
    return (
        all(t.template == "stream" and t.rows == tilings[0].rows for t in tilings)
        and attention(kernel.program) is not None
    )
