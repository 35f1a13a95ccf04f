"""Products of few columns, on register tiles whose vectors lie along the sum (kernels/cpu/contract_dots.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fusec.ir.dim import Dim, Extent, linear, product, substitute, symbol
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_dots import MOST, dot_rows
from fusec.kernels.cpu.contract_form import Contraction, direct_load, panel_load, plain_load
from fusec.kernels.kernel import Guard, StageTiling, loads_of
from fusec.kernels.layout import Layout
from fusec.target import Isa
from fusec.tile.program import TileProgram

SHORTEST = 32
"""Products of a sum from which on adding up the parts of a vector takes less than empty lanes would."""

LONG_ROW = 3072
"""Elements of a row from which on columns that go by one at a time drive it out of the first level cache: 1 x 4096 x 4096
takes 0.75 of the time with 8 of them at once, 1 x 2048 x 2048 the same, shorter rows more (AVX2, Zen 4)."""

SHORTEST_TAP = 16
"""The same of the channels of each place of a window."""


def dots(
    program: TileProgram, forms: Sequence[Contraction | None], isa: Isa, calls: Iterable[Mapping[str, Extent]]
) -> tuple[StageTiling, Layout | None, Guard | None] | None:
    """How the one product of a program runs so: the stage's tiling, the layout of a weight, and which columns the kernel
    is for. None where it cannot, or should not."""
    found = [f for f in forms if f is not None]
    if len(found) != 1 or not found[0].m or found[0].dtype is not DType.F32 or isa.lanes < MOST:
        return None
    (form,), calls = found, list(calls)
    columns = _same(program.axis[form.n].extent, calls)
    depth = [_value(form.depth, call) for call in calls] or [form.depth]
    if columns is None or not 2 <= columns <= MOST or not all(isinstance(k, int) and k >= SHORTEST for k in depth):
        return None
    if form.taps and not all(isinstance(k := _value(form.k.extent, c), int) and k >= SHORTEST_TAP for c in calls):
        return None
    right, operand = _right(program, forms, form), panel_load(form)
    if right is None or not _is_contiguous(program, form):
        return None
    extent = program.axis[form.n].extent
    guard = None
    if not isinstance(extent, int):
        param = next((p for p in program.params if extent == symbol(p)), None)
        if param is None:
            return None
        guard = Guard(param, columns, columns)
    layout = right if operand is not None and program.operand[operand].role == "weight" else None
    return StageTiling("contract", form.k.name, dot_rows(columns, isa.registers), columns), layout, guard


def long_row(
    program: TileProgram, form: Contraction, isa: Isa, calls: Iterable[Mapping[str, Extent]]
) -> StageTiling | None:
    """How one row runs beside columns of B that come with the run, as many at a time as a vector has lanes; None where it
    cannot, or where the row stays in the first level cache while columns go by, one after the other."""
    columns, depth = program.axis[form.n].extent, [_value(form.depth, c) for c in calls] or [form.depth]
    if not form.m or form.taps or form.dtype is not DType.F32 or isa.lanes != MOST:
        return None
    if (isinstance(columns, int) and columns < MOST) or not all(isinstance(k, int) and k >= LONG_ROW for k in depth):
        return None
    load = plain_load(form.right)
    if load is None or program.operand[load[0]].role == "weight" or not _is_contiguous(program, form):
        return None
    if _right(program, [form], form) is None:
        return None
    return StageTiling("contract", form.k.name, 1, MOST)


def _value(x: Extent, call: Mapping[str, Extent]) -> Extent:
    return x if isinstance(x, int) else substitute(x, call)


def _same(x: Extent, calls: Sequence[Mapping[str, Extent]]) -> int | None:
    values = {_value(x, call) for call in calls} or {x}
    (first, *more) = values
    return first if not more and isinstance(first, int) else None


def _right(program: TileProgram, forms: Sequence[Contraction | None], form: Contraction) -> Layout | None:
    """The layout in which columns of B are contiguous along the sum; None where there is none."""
    load = plain_load(form.right)
    if load is None or program.operand[load[0]].dtype is not DType.F32:
        return None
    operand = program.operand[load[0]]
    rank = len(operand.shape)
    if operand.role == "weight":
        readers = [f for s, f in zip(program.stages, forms, strict=True) if loads_of(s, operand.name)]
        alone = readers == [form] and all(len(set(loads_of(s, operand.name))) <= 1 for s in program.stages)
        return (
            Layout.columns(rank)
            if alone and panel_load(form) == operand.name and load[1][-1] == symbol(form.n)
            else None
        )
    offset: Extent = 0
    for d, i in enumerate(load[1]):
        offset = offset + i * product(operand.shape[d + 1 :])
    split = linear(offset, [form.n, *(a.name for a in form.folds)])
    along: Extent = 1
    for a in reversed(form.folds):
        if split is None or split[1].get(a.name) != along:
            return None
        along = along * a.extent
    columns = None if split is None else split[1].get(form.n, 0)
    return Layout.row_major(rank) if isinstance(columns, Dim) or (columns or 0) > 1 else None


def _is_contiguous(program: TileProgram, form: Contraction) -> bool:
    """Whether rows of A are read along the sum: as they lie, or as they are computed first."""
    load = direct_load(form.left)
    if load is None or program.operand[load[0]].dtype is not form.dtype:
        return True
    operand, index = program.operand[load[0]], load[1]
    k = form.k.name
    steps = [linear(i, [k]) for i in index]
    if any(s is None or (s[1] and d != len(index) - 1) for d, s in enumerate(steps)) or operand.role == "local":
        return False
    last = steps[-1]
    return last is not None and last[1].get(k) == 1
