"""Powers of which less is asked: `exp(x - m)` where m is the maximum of x over the row, and `1 / (1 + exp(x))`.

The first cannot overflow, and what would be subnormal becomes 0; so masked elements never crawl through subnormal numbers.
The second may be anything tiny or huge at its ends. Both cost a third less than powers in general.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusec.ir.dim import Extent
from fusec.ir.expr import Const, Expr, Load, Prim, Ref, replace_refs, rewrite, walk
from fusec.ir.types import DType
from fusec.tile.program import Fold, Let, Stage, Statement, Store, TileProgram

BELOW = "exp_below"
"""The primitive, known to the emitter only, that stands for `exp` of what is not positive."""
Place = tuple[str, tuple[Extent | Expr, ...]]
"""A local and an index into it."""
BESIDE = "exp_beside_one"
"""The primitive that stands for `exp` in `1 / (1 + exp(x))`: where it is tiny it does not count, and where it is huge the
quotient is below the least normal number."""
MOST = 60
"""Parts of an exponent that is compared with the maximum's argument."""


def bound_powers(program: TileProgram, stage: Stage) -> Stage:
    """The stage with such powers marked."""
    if not any(isinstance(x, Prim) and x.name == "exp" for e in stage.expressions() for x in walk(e)):
        return stage
    maxima = dict(m for o in program.operands if o.role == "local" and (m := _maximum(program, o.name)) is not None)
    lets: dict[str, Expr] = {}
    highest: dict[str, Expr] = {}
    body: list[Statement] = []

    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Prim) and x.name == "div" and (short := _sigmoid(x) or _over_one(x)) is not None:
            return short
        if isinstance(x, Prim) and x.name == "exp" and _is_bound(replace_refs(x.args[0], lets), maxima, highest):
            return Prim(BELOW, x.args, x.dtype)
        return None

    for s in stage.body:
        match s:
            case Let(name, value):
                s = Let(name, rewrite(value, leaf))
                lets[name] = replace_refs(value, lets) if _is_short(value, lets) else value
            case Fold(name, monoid, args):
                s = Fold(name, monoid, tuple(rewrite(a, leaf) for a in args))
                if monoid == "max" and _is_short(args[0], lets):
                    highest[name] = replace_refs(args[0], lets)
            case Store(operand, index, value, partial):
                s = Store(operand, index, rewrite(value, leaf), partial)
        body.append(s)
    return Stage(stage.axes, stage.folds, tuple(body))


def _sigmoid(e: Prim) -> Expr | None:
    """`1 / (1 + exp(-x))` for `(exp(-|x|) if x < 0 else 1) / (exp(-|x|) + 1)`: one short power, and no choice between two."""
    match e.args:
        case (
            Prim("where", (Prim("lt", (x, Const(0.0))), power, Const(1.0) as one)),
            Prim("add", (Prim("exp", (Prim("neg", (Prim("abs", (y,)),)),)) as other, Const(1.0))),
        ) if e.dtype is DType.F32 and x == y and power == other:
            short = Prim(BESIDE, (Prim("neg", (x,), e.dtype),), e.dtype)
            return Prim("div", (one, Prim("add", (short, one), e.dtype)), e.dtype)
    return None


def _over_one(e: Prim) -> Expr | None:
    """A quotient by 1 plus a power with that power marked, unless what is divided needs the power anyway."""
    above, below = e.args
    divisor = _beside_one(below)
    if divisor is None or any(x in walk(above) for x in walk(below) if isinstance(x, Prim) and x.name == "exp"):
        return None
    return Prim("div", (above, divisor), e.dtype)


def _beside_one(e: Expr) -> Expr | None:
    """The sum of a power and 1 with the power marked."""
    match e:
        case Prim("add", (Prim("exp", x), Const(1.0) as one), dtype) if dtype is DType.F32:
            return Prim("add", (Prim(BESIDE, x, dtype), one), dtype)
        case Prim("add", (Const(1.0) as one, Prim("exp", x)), dtype) if dtype is DType.F32:
            return Prim("add", (one, Prim(BESIDE, x, dtype)), dtype)
    return None


def _is_short(e: Expr, lets: Mapping[str, Expr]) -> bool:
    parts = list(walk(e))
    return (
        len(parts) + sum(sum(1 for _ in walk(lets[x.name])) for x in parts if isinstance(x, Ref) and x.name in lets)
        <= MOST
    )


def _is_bound(e: Expr, maxima: Mapping[Place, Expr], highest: Mapping[str, Expr]) -> bool:
    """Whether an exponent is some expression less its maximum."""
    match e:
        case Prim("sub", (x, Load(operand, index, _, None))):
            return maxima.get((operand, index)) == x
        case Prim("sub", (x, Ref(name))):
            return highest.get(name) == x
    return False


def _maximum(program: TileProgram, local: str) -> tuple[Place, Expr] | None:
    """What a local is the maximum of, and at which index, if it is stored once and is nothing else."""
    writers = [(s, x) for s in program.stages for x in s.stores if x.operand == local]
    if len(writers) != 1:
        return None
    stage, store = writers[0]
    of = _argument(stage.body, store.value) if isinstance(store.value, Ref) else None
    return None if of is None else ((local, store.index), of)


def _argument(body: Sequence[Statement], of: Ref) -> Expr | None:
    lets: dict[str, Expr] = {}
    for s in body:
        if isinstance(s, Let):
            lets[s.name] = replace_refs(s.value, lets) if _is_short(s.value, lets) else s.value
        elif isinstance(s, Fold) and s.name == of.name:
            return replace_refs(s.args[0], lets) if s.monoid == "max" and _is_short(s.args[0], lets) else None
    return None
