"""Running sums on a device: when a line is the work of a block."""

from __future__ import annotations

from fusec.ir.dim import Extent, product
from fusec.kernels.cuda.scan import LINE, TEMPLATE, running
from fusec.kernels.kernel import StageTiling, Tiling
from fusec.tile.program import TileProgram
from fusec.tiling.device.nest import Sizes
from fusec.tiling.lane import stride

SHORT = 128
"""Elements of a line that half the threads of a block are enough for: a thread takes it alone."""
MANY_LINES = 16 << 10
"""Lines side by side in memory from which on a thread per line keeps half the threads of a device busy, all in whole runs of
bytes."""


def scanned(program: TileProgram, sizes: Sizes) -> Tiling | None:
    """The tiling for lines that blocks share; None where the program has none, or threads alone do as well."""
    form = running(program)
    if form is None:
        return None
    longest = sizes.most(form.count)
    if longest is not None and longest < SHORT:
        return None
    if stride(program, form.store.operand, form.store.index, LINE) not in (1, -1):
        lines = sizes.most(product(program.axis[a].extent for a in form.axes))
        if lines is None or lines >= MANY_LINES:
            return None
    tile: dict[str, Extent] = {a.name: 1 for a in program.axes}
    return Tiling(tuple(tile.items()), tuple(StageTiling(TEMPLATE) for _ in program.stages))
