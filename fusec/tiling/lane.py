"""The lane axis of a nest: along which axis a stage is vectorised, by how its loads and stores then reach memory."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.ir.dim import Dim, Extent, linear, product
from fusec.ir.expr import Expr, Load, walk
from fusec.kernels.cpu.group_channels import along_filters
from fusec.kernels.cpu.short_rows import short_rows
from fusec.kernels.cpu.squares import turned_axis
from fusec.target import Isa
from fusec.tile.program import Fold, Let, Stage, Store, TileProgram, is_expr

INVARIANT, CONTIGUOUS = 0.3, 1.0
"""Cost of a vector's worth of an access that does not move along the lane, and of one that moves by one element."""
SECOND = 2.5
"""Cost of a load of every second element: two loads and two shuffles."""
GATHERED = 0.5
"""Cost per lane of places that are read from memory: a row apart, elements would be farther from each other."""
TURNED = 2.5
"""Cost of an access that is contiguous along another axis, and turned around in registers."""
INSIDE = 4.0
"""How much more an access counts where the fold loops repeat it."""


def best_lane(program: TileProgram, stage: Stage, isa: Isa) -> str:
    """The cheapest axis; "" where the stage has none. Of equals a stage axis before a fold axis, inner before outer."""
    if stage.scattered:
        return _lane_of_scatter(program, stage)
    candidates = [*reversed(stage.axis_names), *(f.name for f in reversed(stage.folds))]
    if not candidates:
        return ""
    return min(candidates, key=lambda a: _cost(program, stage, a, isa) + 1e-6 * candidates.index(a))


def _lane_of_scatter(program: TileProgram, stage: Stage) -> str:
    """An axis whose points never meet, along which all stores are contiguous, else a fold axis; "" where there is none."""
    ordered = stage.ordered()
    for a in reversed(stage.axis_names):
        if a not in ordered and all(stride_among(program, s, a) == 1 for s in stage.stores):
            return a
    return stage.folds[-1].name if stage.folds else ""


def stride_among(program: TileProgram, store: Store, axis: str) -> Extent | None:
    """Elements between neighbours along an axis where a store's other indices stay what they are."""
    index = [0 if is_expr(i) else i for i in store.index]
    return stride(program, store.operand, index, axis)


def points_at_once(program: TileProgram, stage: Stage, lane: str, isa: Isa) -> int:
    """How many points of the innermost scalar axis a nest takes side by side: several where the folds of neighbours share
    loads, as windows do, and a line of memory where what is loaded must be turned around; else 1."""
    if turned_axis(program, stage, lane):
        return TURNED_LINE if sum(1 for e in stage.expressions() for _ in walk(e)) < MOST_TURNED else isa.lanes
    axes = [a for a in stage.axis_names if a != lane]
    folds = {a.name for a in stage.folds}
    if not axes or not lane or lane in folds or axes[-1] in stage.ordered():
        return 1
    loads = [x for s in stage.body if not isinstance(s, Store) for e in _expressions(s) for x in walk(e)]
    symbols = [_symbols(x) for x in loads if isinstance(x, Load)]
    overlapping = any(axes[-1] in s and s & folds for s in symbols)
    if not overlapping or lane not in set[str]().union(*symbols):
        return 1
    taps = stage.folds[-1].extent
    return isa.registers // SHARED + (2 if isinstance(taps, int) and taps >= WIDE_WINDOW else 0)


WIDE_WINDOW = 5
"""Taps along an axis from which on neighbours have so much in common that two more of them pay."""
TURNED_LINE = 16
"""Elements of a line of memory."""
MOST_TURNED = 12
"""Parts of the expressions of a stage of which so many points are written out."""
SHARED = 4
"""Registers per point of a window: its sum, and what neighbours read and multiply with."""


def _expressions(s: Let | Fold | Store) -> Sequence[Expr]:
    return s.args if isinstance(s, Fold) else (s.value,)


def _symbols(load: Load) -> frozenset[str]:
    """Axes in one dimension's index together with others: those that slide over each other."""
    return frozenset(a for i in load.index if isinstance(i, Dim) for a in i.symbols)


def _cost(program: TileProgram, stage: Stage, axis: str, isa: Isa) -> float:
    total, inside_names = 0.0, _inside_names(stage)
    is_fold = axis in [f.name for f in stage.folds]
    stored = {s.index for s in stage.stores}
    turned = {x.index for x in stage.loads()} - stored if turned_axis(program, stage, axis) else set()
    for operand, index, inside in _accesses(stage, inside_names):
        if program.operand[operand].role == "scalar":
            continue
        one = _access_cost(program, operand, index, axis, isa)
        if one > TURNED and not stage.folds and index in turned:
            one = TURNED
        elif index not in stored and stride(program, operand, index, axis) == 2:
            one = SECOND
        if inside:
            total += INSIDE * one
        elif is_fold:
            total += CONTIGUOUS  # after a fold along the lane there is one number left, not a vector
        else:
            total += one
    extent = program.axis[axis].extent
    if not is_fold and short_rows(program, stage, axis):
        return total
    waste = isa.lanes / extent if isinstance(extent, int) and 0 < extent < isa.lanes else 1.0
    return total * waste


def _access_cost(program: TileProgram, operand: str, index: Sequence[Extent | Expr], axis: str, isa: Isa) -> float:
    step = stride(program, operand, index, axis)
    if step == 0:
        return INVARIANT
    if step is None:
        return GATHERED * isa.lanes
    return CONTIGUOUS if step == 1 else float(isa.lanes)


def stride(program: TileProgram, operand: str, index: Sequence[Extent | Expr], axis: str) -> Extent | None:
    """Elements between neighbours along an axis in the row-major operand; None where that is no polynomial."""
    shape = program.operand[operand].shape
    total: Extent = 0
    for d, i in enumerate(index):
        if not isinstance(i, int | Dim):
            if any(isinstance(x, Load) and _moves(x, axis) for x in walk(i)):
                return None
            continue
        split = linear(along_filters(i, axis), [axis])
        if split is None:
            return None
        total = total + split[1].get(axis, 0) * product(shape[d + 1 :])
    return total


def _moves(load: Load, axis: str) -> bool:
    return any(isinstance(i, Dim) and axis in i.symbols for i in load.index)


def _inside_names(stage: Stage) -> frozenset[str]:
    """The lets that only a fold's arguments need."""
    from fusec.ir.expr import Ref

    lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
    todo = [a for s in stage.body if isinstance(s, Fold) for a in s.args]
    found = set[str]()
    while todo:
        for x in walk(todo.pop()):
            if isinstance(x, Ref) and x.name in lets and x.name not in found:
                found.add(x.name)
                todo.append(lets[x.name])
    return frozenset(found)


def _accesses(stage: Stage, inside_names: frozenset[str]) -> list[tuple[str, tuple[Extent | Expr, ...], bool]]:
    out: list[tuple[str, tuple[Extent | Expr, ...], bool]] = []
    for s in stage.body:
        expressions: Sequence[Expr] = s.args if isinstance(s, Fold) else (s.value,)
        inside = isinstance(s, Fold) or (isinstance(s, Let) and s.name in inside_names)
        out += [(x.operand, x.index, inside) for e in expressions for x in walk(e) if isinstance(x, Load)]
        if isinstance(s, Store):
            out.append((s.operand, s.index, False))
    return out
