"""Neighbouring nests as one: a fold over what the stage before it stores is added up while that is computed.

A softmax stores its powers and then sums them. Together the sum costs an addition per vector instead of a pass over the row.
And where an output will hold the same elements in the end, a local lies in the output's memory, not in scratch beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusec.ir.dim import Dim, Extent, symbol, symbols_of
from fusec.ir.expr import Expr, Load, rewrite, walk
from fusec.kernels.kernel import Kernel, StageTiling
from fusec.tile.program import Axis, Fold, Let, Stage, Statement, Store, TileProgram, is_expr

Nest = tuple[Stage, StageTiling]


def nests(kernel: Kernel) -> Iterator[Nest]:
    """The stages of a kernel with their tilings; some are two of the program's."""
    waiting = list(zip(kernel.program.stages, kernel.tiling.stages, strict=True))
    while waiting:
        first, waiting = waiting[0], waiting[1:]
        if waiting and (both := _joined(kernel.program, first, waiting[0])) is not None:
            first, waiting = both, waiting[1:]
        yield first


def _joined(program: TileProgram, first: Nest, second: Nest) -> Nest | None:
    (a, tiling), (b, other) = first, second
    own = [x for x in a.axes if isinstance(x, Axis)]
    if tiling != other or tiling.template != "nest" or tiling.rows > 1 or a.folds or len(b.folds) != 1 or not own:
        return None
    axis = own[-1]
    if b.folds[0] != axis or tiling.lane != axis.name or a.axes[-1] != axis or b.axes != a.axes[:-1]:
        return None
    stored: dict[tuple[str, tuple[Extent | Expr, ...]], Expr] = {}
    for store in a.stores:
        operand = program.operand[store.operand]
        if operand.role != "local" or operand.dtype is not store.value.dtype:
            return None
        stored[store.operand, store.index] = store.value
    written = {operand for operand, _ in stored}
    if len(stored) != len(written):
        return None

    def leaf(x: Expr) -> Expr | None:
        return stored.get((x.operand, x.index)) if isinstance(x, Load) else None

    body: list[Statement] = [s for s in a.body if not isinstance(s, Store)]
    names = {s.name for s in body if isinstance(s, Let)}
    kept = [Store(o, i, v) for (o, i), v in stored.items()]
    for s in b.body:
        if isinstance(s, Let | Fold) and s.name in names:
            return None
        if isinstance(s, Fold):
            s = Fold(s.name, s.monoid, tuple(rewrite(x, leaf) for x in s.args))
        parts = s.args if isinstance(s, Fold) else (s.value,)
        if any(isinstance(x, Load) and x.operand in written for e in parts for x in walk(e)):
            return None
        body.append(s)
    # stores within the fold axis come with the lets that they need, before the folds
    position = len(names)
    return Stage(b.axes, b.folds, (*body[:position], *kept, *body[position:])), tiling


def stores_inside(stage: Stage) -> tuple[Store, ...]:
    """The stores that belong into the fold loops, because their index moves along a fold axis."""
    folds = {a.name for a in stage.folds}
    return tuple(
        s for s in stage.stores if folds and any(isinstance(i, Dim) and symbols_of(i) & folds for i in s.index)
    )


def lent_by_outputs(program: TileProgram) -> dict[str, str]:
    """Locals that may lie in the memory of an output: local -> output.

    The last stage turns each element of the local into the output's at the same index. Nothing else uses the output's
    memory while its task runs, so it does not matter when it is first written.
    """
    if not program.stages or len(program.stages) < 2:
        return {}
    *before, last = program.stages
    outputs = [o for o in program.operands if o.role in ("output", "inout")]
    if len(outputs) != 1 or outputs[0].role != "output" or last.folds or len(last.stores) != 1:
        return {}
    (store,), output = last.stores, outputs[0]
    if any(s.operand == output.name for stage in before for s in stage.stores):
        return {}
    for x in last.loads():
        local = program.operand[x.operand]
        if local.role != "local" or x.index != store.index or x.fill is not None:
            continue
        if (local.dtype, local.shape) == (output.dtype, output.shape) and _is_simple(program, local.name, store):
            return {local.name: output.name}
    return {}


def _is_simple(program: TileProgram, local: str, store: Store) -> bool:
    """Whether a local is used at the store's index alone, each of whose entries is an axis. A scatter may use it
    anywhere along the dimensions that a task has as a whole."""
    names = set(program.axis)
    if not all(isinstance(i, Dim) and str(i) in names for i in store.index):
        return False
    uses = [(stage, x.index) for stage in program.stages for x in stage.loads() if x.operand == local]
    uses += [(stage, x.index) for stage in program.stages for x in stage.stores if x.operand == local]
    task = {symbol(a.name) for a in program.axes}
    kept = [d for d, i in enumerate(store.index) if i in task]

    def fits(stage: Stage, index: tuple[Extent | Expr, ...]) -> bool:
        if index == store.index or local not in stage.scattered:
            return index == store.index
        return all(is_expr(i) or i == store.index[d] or d not in kept for d, i in enumerate(index))

    return all(fits(stage, index) for stage, index in uses)
