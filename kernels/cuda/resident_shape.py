"""Products whose matrix stays in shared memory from step to step: which stages they are, and how much memory they take."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.dim import Dim
from fusec.ir.expr import Load
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import Contraction, axes_of, contraction
from fusec.kernels.cuda.abi import KEPT_ALIGNMENT, THREADS, WARP
from fusec.kernels.cuda.product_shapes import without_widening
from fusec.kernels.kernel import Tiling
from fusec.tile.program import Stage, TileProgram

TEMPLATE = "resident"
CHUNK = 16
"""Bytes of a vector of columns."""
ROWS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Resident:
    """A stage as a product with a matrix that is kept: `width` columns of each of `gates` matrices, sums of `depth` products.

    `gate` is the stage axis that says which matrix, "" where there is one. `weight` is the load of an element as it is stored.
    `rows` are multiplied at a time.
    """

    form: Contraction
    gate: str
    gates: int
    width: int
    depth: int
    rows: int
    weight: Load

    @property
    def columns(self) -> int:
        """Columns that are kept, those of all gates."""
        return self.gates * self.width

    @property
    def pitch(self) -> int:
        """Rows that are kept: those of the matrix, up to a multiple of four."""
        return -(-self.depth // 4) * 4

    @property
    def kept(self) -> int:
        """Bytes that stay in shared memory."""
        size = self.pitch * self.columns * self.weight.dtype.itemsize
        return -(-size // KEPT_ALIGNMENT) * KEPT_ALIGNMENT

    @property
    def working(self) -> int:
        """Bytes of shared memory that a tile takes besides: the rows, and a part of each sum per warp."""
        return 4 * self.rows * (self.pitch + THREADS // WARP * self.columns)


def resident(program: TileProgram, stage: Stage, tile: dict[str, int], rows: int) -> Resident | None:
    """A stage with tiles of known extents as such a product; None where it is none. All sizes must stand in the program."""
    form = contraction(stage)
    sequential = {a.name for a in program.axes if a.sequential}
    if form is None or form.dtype is not DType.F32 or form.taps or not sequential or rows not in ROWS:
        return None
    weight, depth = without_widening(form.right), form.k.extent
    if not isinstance(weight, Load) or weight.fill is not None or not isinstance(depth, int) or depth < 1:
        return None
    task = {a.name for a in program.axes}
    if program.operand[weight.operand].role != "weight" or not all(isinstance(i, int | Dim) for i in weight.index):
        return None
    inner = [a for a in form.batch if a not in task]
    if len(inner) > 1 or axes_of(form.left) & {form.n, *inner} or axes_of(form.right) & (task - {form.n}):
        return None
    if any(tile.get(a) != 1 for a in form.batch if a in task):
        return None
    gates = program.axis[inner[0]].extent if inner else 1
    if form.n in task and program.axes[-1].name != form.n:
        return None
    whole, unit = program.axis[form.n].extent, CHUNK // weight.dtype.itemsize
    width = tile.get(form.n) if form.n in task else whole
    if not isinstance(gates, int) or not isinstance(whole, int) or not isinstance(width, int) or min(gates, width) < 1:
        return None
    if form.n in task and width % unit:
        return None
    width = -(-width // unit) * unit
    return Resident(form, inner[0] if inner else "", gates, width, depth, rows, weight)


def residents(program: TileProgram, tiling: Tiling) -> list[Resident]:
    """The stages of a kernel whose matrices are kept. All sizes must stand in the program."""
    tile = {a: n for a, n in tiling.tile if isinstance(n, int)}
    pairs = zip(program.stages, tiling.stages, strict=True)
    found = [resident(program, s, tile, t.rows) for s, t in pairs if t.template == TEMPLATE]
    return [r for r in found if r is not None]
