"""The block tiles of the product templates: what they are called with, and the shared memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.expr import Expr, Prim
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import Contraction
from fusec.kernels.cuda.scalar import element_type
from fusec.kernels.kernel import StageTiling

CHUNK = 16
"""Bytes that are moved at once; lines in shared memory are padded by as many, so that they begin in different banks."""
NARROW = (DType.F16, DType.BF16)


@dataclass(frozen=True, slots=True)
class Shape:
    """A block's tile: `rows` by `columns` sums, `depth` steps of the fold per stage, `slices` of it at once, `stages`."""

    rows: int
    columns: int
    depth: int
    slices: int
    stages: int

    def arguments(self, dtype: DType) -> tuple[object, ...]:
        """The template's arguments."""
        return element_type(dtype), self.rows, self.columns, self.depth, self.slices, self.stages

    def shared(self, form: Contraction, dtype: DType) -> int:
        """Bytes of shared memory at most, however A and B lie: the stages, or the tile of sums."""
        pad = CHUNK // dtype.itemsize
        panels = sum(max(n * (self.depth + pad), self.depth * (n + pad)) for n in (self.rows, self.columns))
        sums = self.rows * (self.columns + 8) * form.dtype.itemsize
        return max(self.stages * panels * dtype.itemsize, sums)


SIMT = {
    4: {(128, 128): (16, 1, 3), (128, 64): (16, 2, 3), (64, 64): (32, 4, 3), (32, 64): (32, 8, 3)},
    8: {(64, 64): (16, 4, 3)},
}
"""Bytes of an element -> (rows, columns) -> (depth, slices, stages)."""


def core_dtype(form: Contraction, template: str) -> DType:
    """What the core multiplies: the dtype of the sums, but 16-bit floats on tensor cores."""
    if template in ("mma", "wgmma"):
        narrow = {_inner(form.left), _inner(form.right)}
        if len(narrow) == 1 and (dtype := narrow.pop()) in NARROW:
            return dtype
    return form.dtype


def _inner(e: Expr) -> DType:
    """The dtype of what an expression was before it was widened."""
    while isinstance(e, Prim) and e.name == "cast" and e.args[0].dtype in (*NARROW, DType.F32) and e.dtype is DType.F32:
        (e,) = e.args
    return e.dtype


def shape_of(form: Contraction, tiling: StageTiling) -> Shape:
    """The template's shape for a tiling. BugError where there is none."""
    if tiling.template == "simt":
        found = SIMT[form.dtype.itemsize].get((tiling.rows, tiling.vectors))
        if found is not None:
            return Shape(tiling.rows, tiling.vectors, *found)
    raise BugError(f"no {tiling.template} product of {tiling.rows} by {tiling.vectors} for {form.dtype}")
