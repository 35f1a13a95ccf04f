"""Rows shorter than a few vectors, with lanes across rows: each lane folds, or copies, a row of its own.

Along the row a fold of ten elements has one full vector, one nearly empty, and then the lanes to join: as long as that of a
hundred. Across rows nothing is joined, but elements are loaded one by one. Softmax of 4096 rows of 10 takes half the time so,
of 16 the same; the argmax 0.4 and 0.6 of it. Rows of less than a vector that are copied only, as by Concat, would be loaded and
stored through masks: rows of 3 beside rows of 5 take a third of the time so (AVX2, Zen 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fusec.ir.dim import Extent, substitute, symbol
from fusec.kernels.cpu.short_rows import short_rows
from fusec.kernels.kernel import Guard, StageTiling
from fusec.target import Isa
from fusec.tile.program import Fold, TileProgram

EXTREMES = frozenset(["max", "min", "argmax", "argmin"])
"""Folds that take longer to join than sums, because they look for NaN."""


def longest_row(program: TileProgram, isa: Isa) -> int:
    """Elements of the longest row that is taken so: less than a vector without folds, one and a half vectors with them, or
    two and a half where only extremes are folded."""
    folds = {s.monoid for stage in program.stages for s in stage.body if isinstance(s, Fold)}
    if not folds:
        return isa.lanes - 1
    return isa.lanes * 5 // 2 if folds <= EXTREMES else isa.lanes * 3 // 2


def across_rows(
    program: TileProgram, nests: Sequence[StageTiling], isa: Isa, calls: Iterable[Mapping[str, Extent]]
) -> tuple[tuple[StageTiling, ...], Guard | None] | None:
    """The nests with lanes across rows, and for which sizes; None where no call has rows that short, and enough of them."""
    if not program.axes or program.axes[-1].sequential:
        return None
    across, longest, lengths = program.axes[-1], longest_row(program, isa), set[Extent]()
    tasks = {a.name for a in program.axes}
    for tiling, stage in zip(nests, program.stages, strict=True):
        if across.name not in stage.axis_names or stage.scattered or tiling.rows > 1:
            return None
        if tiling.lane == across.name:
            continue
        if tiling.lane in tasks or short_rows(program, stage, tiling.lane) is not None:
            return None
        lengths.add(program.axis[tiling.lane].extent)
    params = [p for p in program.params if symbol(p) in lengths]
    if not lengths or len(params) > 1 or len(params) < sum(not isinstance(n, int) for n in lengths):
        return None

    def pays(call: Mapping[str, Extent]) -> bool:
        rows, known = substitute(across.extent, call), [substitute(n, call) for n in lengths]
        short = all(isinstance(n, int) and n <= longest for n in known)
        return short and not (isinstance(rows, int) and rows < isa.lanes)

    if not any(map(pays, calls)):
        return None
    return tuple(StageTiling("nest", across.name) for _ in nests), Guard(params[0], 0, longest) if params else None
