"""Folds over rows shorter than a few vectors, with lanes across rows: each lane folds a row of its own.

Along the row a fold of ten elements has one full vector, one nearly empty, and then the lanes to join: as long as that of a
hundred. Across rows nothing is joined, but elements are loaded one by one. Softmax of 4096 rows of 10 takes half the time so,
of 16 the same; the argmax 0.4 and 0.6 of it (AVX2, Zen 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fusec.ir.dim import Extent, substitute, symbol
from fusec.kernels.kernel import Guard, StageTiling
from fusec.target import Isa
from fusec.tile.program import Fold, TileProgram

EXTREMES = frozenset(["max", "min", "argmax", "argmin"])
"""Folds that take longer to join than sums, because they look for NaN."""


def longest_row(program: TileProgram, isa: Isa) -> int:
    """Elements of the longest row that is folded so: one and a half vectors, or two and a half where only extremes are."""
    folds = {s.monoid for stage in program.stages for s in stage.body if isinstance(s, Fold)}
    return isa.lanes * 5 // 2 if folds <= EXTREMES else isa.lanes * 3 // 2


def across_rows(
    program: TileProgram, nests: Sequence[StageTiling], isa: Isa, calls: Iterable[Mapping[str, Extent]]
) -> tuple[tuple[StageTiling, ...], Guard | None] | None:
    """The nests with lanes across rows, and for which sizes; None where no call has rows that short, and enough of them."""
    folded = [t.lane for t, s in zip(nests, program.stages, strict=True) if t.lane in [a.name for a in s.folds]]
    if not folded or not program.axes or program.axes[-1].sequential:
        return None
    across, length = program.axes[-1], program.axis[folded[0]].extent
    for tiling, stage in zip(nests, program.stages, strict=True):
        if across.name not in stage.axis_names or stage.scattered or tiling.rows > 1:
            return None
        if tiling.lane != across.name and program.axis[tiling.lane].extent != length:
            return None
    guard = None if isinstance(length, int) else next((p for p in program.params if length == symbol(p)), None)
    if guard is None and not isinstance(length, int):
        return None

    longest = longest_row(program, isa)

    def pays(call: Mapping[str, Extent]) -> bool:
        elements, rows = substitute(length, call), substitute(across.extent, call)
        short = isinstance(elements, int) and elements <= longest
        return short and not (isinstance(rows, int) and rows < isa.lanes)

    if not any(map(pays, calls)):
        return None
    stages = tuple(StageTiling("nest", across.name) for _ in nests)
    return stages, None if guard is None else Guard(guard, 0, longest)
