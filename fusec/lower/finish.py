"""From drafted stages to a program over dimensions of the graph: demands resolved, axes in order, needless ones dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from fusec.ir.dim import Dim, Extent, substitute, symbol, symbols_of
from fusec.ir.expr import Expr, Index, Load, Prim, Ref, replace_axes, rewrite, walk
from fusec.lower.stages import Staged
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram

ROLE_ORDER = ("input", "weight", "inout", "scalar", "local", "output")


def assemble(staged: Staged) -> TileProgram:
    """The program of drafted stages; its extents are dimensions of the graph and its axes symbols that begin with `$`."""
    a = staged.attempt
    order = contraction_order(staged)
    task = sorted(staged.task, key=lambda n: order.get(n, (0, staged.task.index(n))))
    stages = []
    for s in staged.stages:
        axes = sorted(s.axes, key=lambda n: order.get(n, (3, s.axes.index(n)))) if order else s.axes
        folds = tuple(Axis(n, a.axes.extents[n]) for n in s.folds)
        heads = tuple(n if n in staged.task else Axis(n, a.axes.extents[n]) for n in axes)
        body = tuple(resolve(x, staged.resolved) for x in (*s.body, *s.stores))
        stages.append(Stage(heads, folds, body))
    stages = [drop_unread_lets(s) for s in stages]
    used = operands_of(stages, a.operands.made)
    operands = [a.operands.made[n] for n in used]
    operands.sort(key=lambda o: ROLE_ORDER.index(o.role))
    axes_of_task = tuple(Axis(n, a.axes.extents[n]) for n in task)
    program = TileProgram("draft", (), axes_of_task, tuple(operands), tuple(stages))
    return order_locals(drop_units(program))


def operands_of(stages: Iterable[Stage], made: Mapping[str, Operand]) -> dict[str, None]:
    """The names of the operands that stages use, in the order of their first use."""
    out: dict[str, None] = {}
    for s in stages:
        for x in s.body:
            for e in Stage((), (), (x,)).expressions():
                out |= dict.fromkeys(r.operand for r in walk(e) if isinstance(r, Load))
                out |= dict.fromkeys(r.name for r in walk(e) if isinstance(r, Ref) and r.name in made)
            if isinstance(x, Store):
                out[x.operand] = None
    return out


def order_locals(p: TileProgram) -> TileProgram:
    """Let the task axes of each local stand in the order of the program's."""
    task = [symbol(a.name) for a in p.axes]
    for o in p.operands:
        if o.role != "local":
            continue
        index = next(x.index for s in p.stages for x in s.stores if x.operand == o.name)
        cut = sum(i in task for i in index)
        if any(i not in task for i in index[:cut]):
            continue  # in the order of the value that it keeps
        order = [*sorted(range(cut), key=lambda d: task.index(index[d])), *range(cut, len(index))]  # type: ignore[arg-type]
        shape = tuple(o.shape[d] for d in order)
        p = change_operand(p, o.name, replace(o, shape=shape), lambda i, order=order: tuple(i[d] for d in order))  # type: ignore[misc]
    return p


def resolve(s: Statement, env: Mapping[str, Expr]) -> Statement:
    """Put what demands became in the place of their names."""

    def leaf(x: Expr) -> Expr | None:
        return env.get(x.name) if isinstance(x, Ref) else None

    return map_expressions(s, lambda e: rewrite(e, leaf))


def map_expressions(s: Statement, fn: Callable[[Expr], Expr]) -> Statement:
    """The statement with every expression replaced."""
    match s:
        case Let(name, value):
            return Let(name, fn(value))
        case Fold(name, monoid, args):
            return Fold(name, monoid, tuple(fn(a) for a in args))
        case Store(operand, index, value, partial):
            return Store(operand, tuple(i if isinstance(i, int | Dim) else fn(i) for i in index), fn(value), partial)


def drop_unread_lets(s: Stage) -> Stage:
    """Remove names that nothing mentions: a demand may have made them needless."""
    kept: list[Statement] = []
    read: set[str] = set()
    for x in reversed(s.body):
        if isinstance(x, Let) and x.name not in read:
            continue
        kept.append(x)
        read |= {r.name for e in Stage((), (), (x,)).expressions() for r in walk(e) if isinstance(r, Ref)}
    return replace(s, body=tuple(reversed(kept)))


def contraction_order(staged: Staged) -> dict[str, tuple[int, int]]:
    """Sort keys that put, in stages that contract, batch axes first, then those of A alone, the last of B alone last."""
    out: dict[str, tuple[int, int]] = {}
    for s in staged.stages:
        if not s.contracts:
            continue
        factors = factor_axes(resolve(x, staged.resolved) for x in s.body)
        if factors is None:
            continue
        left, right = factors
        only_b = [n for n in s.axes if n in right and n not in left]
        for i, n in enumerate(s.axes):
            rank = 1 if n in left and n not in right else 2 if only_b and n == only_b[-1] else 0
            if n not in out:
                out[n] = rank, i
    return out


def factor_axes(body: Iterable[Statement]) -> tuple[frozenset[str], frozenset[str]] | None:
    """The axes that the two factors of a sum of products depend on, through names; None where there is no such fold."""
    known: dict[str, frozenset[str]] = {}

    def axes(e: Expr) -> frozenset[str]:
        out = frozenset[str]()
        for x in walk(e):
            match x:
                case Ref(name):
                    out |= known.get(name, frozenset())
                case Index(value):
                    out |= symbols_of(value)
                case Load(_, index):
                    out |= frozenset[str]().union(*(symbols_of(i) for i in index if isinstance(i, int | Dim)))
        return out

    for x in body:
        match x:
            case Let(name, value):
                known[name] = axes(value)
            case Fold(_, "sum", (Prim("mul", (a, b)),)):
                return axes(a), axes(b)
    return None


def is_contraction(s: Stage) -> bool:
    """Whether a stage is a matrix product: a sum of A * B, A without the last axis, B without the one before it."""
    factors, names = factor_axes(s.body), s.axis_names
    if factors is None or len(names) < 2:
        return False
    (a, b), (m, n) = factors, names[-2:]
    return m in a and m not in b and n in b and n not in a


def drop_units(p: TileProgram) -> TileProgram:
    """Remove axes of extent 1, except the last of A's and the last of B's own in a contraction: those make the class."""
    needed: set[str] = set()
    for s in p.stages:
        if is_contraction(s):
            needed |= set(s.axis_names[-2:])
        if s.folds and all(a.extent == 1 for a in s.folds):
            needed.add(s.folds[-1].name)
    dropped = {n: 0 for n, a in p.axis.items() if a.extent == 1 and n not in needed}
    p = substitute_axes(p, dropped)
    for o in p.operands:
        for d in (d for d in reversed(range(len(o.shape))) if o.shape[d] == 1):
            accesses = [x.index for s in p.stages for x in accesses_of(s, o.name)]
            if accesses and all(i[d] == 0 and isinstance(i[d], int) for i in accesses):
                p = drop_dimension(p, o.name, d)
    return p


def polynomials(s: Stage) -> Iterator[Extent]:
    """All indices of a stage that are polynomials of axes and sizes."""
    for e in s.expressions():
        for x in walk(e):
            if isinstance(x, Index):
                yield x.value
            elif isinstance(x, Load):
                yield from (i for i in x.index if isinstance(i, int | Dim))
    for store in s.stores:
        yield from (i for i in store.index if isinstance(i, int | Dim))


def accesses_of(s: Stage, operand: str) -> list[Load | Store]:
    """Every load and store of an operand in a stage, loads first."""
    every: list[Load | Store] = [*s.loads(), *s.stores]
    return [x for x in every if x.operand == operand]


def substitute_axes(p: TileProgram, env: Mapping[str, Extent]) -> TileProgram:
    """Replace axes by polynomials; those that `env` names vanish from the heads."""
    if not env:
        return p

    def statement(x: Statement) -> Statement:
        if isinstance(x, Store):
            index = tuple(substitute(i, env) if isinstance(i, int | Dim) else replace_axes(i, env) for i in x.index)
            return replace(x, index=index, value=replace_axes(x.value, env))
        return map_expressions(x, lambda e: replace_axes(e, env))

    def kept(axes: Iterable[str | Axis]) -> tuple[str | Axis, ...]:
        return tuple(a for a in axes if (a if isinstance(a, str) else a.name) not in env)

    stages = tuple(
        Stage(kept(s.axes), tuple(a for a in s.folds if a.name not in env), tuple(map(statement, s.body)))
        for s in p.stages
    )
    return replace(p, axes=tuple(a for a in p.axes if a.name not in env), stages=stages)


def change_operand(
    p: TileProgram, name: str, operand: Operand, index: Callable[[tuple[Extent | Expr, ...]], tuple[Extent | Expr, ...]]
) -> TileProgram:
    """Declare an operand anew and rewrite the index of every access of it."""

    def leaf(x: Expr) -> Expr | None:
        return (
            Load(operand.name, index(x.index), x.dtype, x.fill) if isinstance(x, Load) and x.operand == name else None
        )

    def statement(x: Statement) -> Statement:
        x = map_expressions(x, lambda e: rewrite(e, leaf))
        if not isinstance(x, Store) or x.operand != name:
            return x
        return replace(x, operand=operand.name, index=index(x.index))

    stages = tuple(replace(s, body=tuple(map(statement, s.body))) for s in p.stages)
    return replace(p, operands=tuple(operand if o.name == name else o for o in p.operands), stages=stages)


def drop_dimension(p: TileProgram, name: str, d: int) -> TileProgram:
    """Remove a dimension of extent 1 that every access indexes by 0."""
    o = p.operand[name]
    shape = (*o.shape[:d], *o.shape[d + 1 :])
    return change_operand(p, name, replace(o, shape=shape), lambda i: (*i[:d], *i[d + 1 :]))
