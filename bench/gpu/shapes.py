"""Every block tile of every product template, whether a menu would choose it for so small a product or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.gpu.models import Made, gemm
from fusec import api
from fusec.ir.graph import Graph
from fusec.kernels.cuda.product_shapes import GEMV_ROWS, MMA, SIMT, WGMMA
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.plan.plan import Plan

ROWS, COLUMNS, DEPTH = 150, 280, 136
"""No multiples of any tile."""
TF32_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Shaped:
    """A product that is to be computed in a certain way."""

    name: str
    dtype: str
    tiling: StageTiling
    tolerance: float | None = None

    def made(self) -> Made:
        """The product: as many rows as the template is for."""
        rows = self.tiling.rows if self.tiling.template == "gemv" else ROWS
        return gemm(rows, COLUMNS, DEPTH, self.dtype)

    def plan(self, made: Made, target: str) -> Plan:
        """Its plan, with this tiling in place of what the menu chose."""
        assert isinstance(made.model, Graph)
        plan = api.compile_graph_plan(made.model, api.Options(device=target), api.new_trace())
        return replace(plan, kernels={name: (self._tiled(menu[-1]),) for name, menu in plan.kernels.items()})

    def _tiled(self, kernel: Kernel) -> Kernel:
        t, columns = self.tiling, kernel.program.axes[-1].name
        extents = {a.name: t.rows for a in kernel.program.axes} | {columns: 32 if t.template == "gemv" else t.vectors}
        tiling = Tiling(tuple(extents.items()), (replace(t, lane=columns),), kernel.tiling.layouts)
        return Kernel(kernel.program, tiling)


def shaped(level: str) -> Iterator[Shaped]:
    """All of them for a level."""
    for dtype in ("f32", "bf16"):
        for rows in GEMV_ROWS:
            yield Shaped(f"gemv {rows} {dtype}", dtype, StageTiling("gemv", "", rows))
    for rows, columns in SIMT[4]:
        yield Shaped(f"simt {rows} x {columns} f32", "f32", StageTiling("simt", "", rows, columns))
    for size, dtype, tolerance in ((2, "bf16", None), (4, "f32", TF32_TOLERANCE)):
        for rows, columns in MMA[size]:
            name = f"mma {rows} x {columns} {'tf32' if size == 4 else dtype}"
            yield Shaped(name, dtype, StageTiling("mma", "", rows, columns), tolerance)
    for rows, columns in WGMMA if level == "sm_90" else ():
        yield Shaped(f"wgmma {rows} x {columns} bf16", "bf16", StageTiling("wgmma", "", rows, columns))
