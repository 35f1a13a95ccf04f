"""The block tiles of the product templates: what they are called with, and the shared memory that they take."""

from __future__ import annotations

from collections.abc import Mapping
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
    """What a template is called with, the shared memory in bytes that it takes at most, and its elements of A and of B.

    `along` says that both must lie in shared memory with k running along their lines.
    """

    arguments: tuple[object, ...]
    shared: int
    left: DType
    right: DType
    along: bool = False


Tiles = Mapping[int, Mapping[tuple[int, int], tuple[int, int, int, int]]]
SIMT: Tiles = {
    4: {
        (128, 128): (16, 1, 3, 8), (128, 64): (16, 2, 3, 8), (64, 64): (32, 4, 3, 8), (32, 64): (32, 8, 3, 8),
        (16, 32): (64, 8, 3, 4),
    },
    8: {(64, 64): (16, 4, 3, 8), (16, 32): (32, 8, 3, 4)},
}  # fmt: skip
"""Bytes of an element -> rows and columns of the tile -> steps of the fold per stage, slices of it at once, stages, and the
side of a thread's block."""
STREAMED: Tiles = {4: {(64, 64): (32, 1, 3, 4), (32, 64): (32, 2, 3, 4)}}
"""The same for the products of attention: each has few steps, and what the other one needs stays in registers meanwhile."""
MMA = {
    2: {
        (128, 128): (32, 1, 4, 64), (128, 64): (32, 1, 4, 32), (64, 64): (64, 2, 3, 32), (32, 64): (64, 4, 3, 32),
        (16, 32): (128, 8, 3, 16),
    },
    4: {
        (128, 128): (16, 1, 4, 64), (128, 64): (32, 1, 3, 32), (64, 64): (32, 2, 3, 32), (32, 64): (32, 4, 3, 32),
        (16, 32): (64, 8, 3, 16),
    },
}  # fmt: skip
"""The same for tensor cores, and the rows of a warp."""
WGMMA = {(128, 256): 4, (128, 128): 5, (128, 64): 6}
"""Rows and columns of the tile -> stages."""
LINE = 128
"""Bytes of a line: the widest swizzle (PTX ISA, wgmma, "Shared Memory Matrix Layout")."""
MBARRIER = 8
"""Bytes that say when a stage is there."""
GEMV_ROWS = (1, 2, 4, 8)
GEMV_COLUMNS = 256
"""Columns that one pass sums at most where B's neighbours lie along k."""


def shape_of(form: Contraction, tiling: StageTiling, simt: Tiles = SIMT) -> Shape:
    """The template's shape for a tiling, from `simt` where no tensor core is used. BugError where there is none."""
    match tiling.template:
        case "simt":
            shape = _simt(form, tiling, simt)
        case "mma":
            shape = _mma(form, tiling)
        case "wgmma":
            shape = _wgmma(form, tiling)
        case "gemv":
            shape = _gemv(form, tiling)
        case _:
            shape = None
    if shape is None:
        raise BugError(f"no {tiling.template} product of {tiling.rows} by {tiling.vectors} for {form.dtype}")
    return shape


def _simt(form: Contraction, tiling: StageTiling, tiles: Tiles) -> Shape | None:
    size = form.dtype.itemsize
    found = tiles.get(size, {}).get((tiling.rows, tiling.vectors))
    if found is None:
        return None
    depth, _, stages, _ = found
    arguments = element_type(form.dtype), tiling.rows, tiling.vectors, *found
    return Shape(arguments, panels(tiling, depth, stages, size, size), form.dtype, form.dtype)


def _mma(form: Contraction, tiling: StageTiling) -> Shape | None:
    dtype = tensor_dtype(form)
    found = MMA[dtype.itemsize].get((tiling.rows, tiling.vectors)) if dtype is not None else None
    if dtype is None or found is None:
        return None
    depth, _, stages, _ = found
    arguments = element_type(dtype), tiling.rows, tiling.vectors, *found
    return Shape(arguments, panels(tiling, depth, stages, dtype.itemsize, 4), dtype, dtype)


def _wgmma(form: Contraction, tiling: StageTiling) -> Shape | None:
    dtype, stages = tensor_dtype(form), WGMMA.get((tiling.rows, tiling.vectors))
    if dtype is None or stages is None:
        return None
    shared = stages * ((tiling.rows + tiling.vectors) * LINE + MBARRIER)
    depth = LINE // dtype.itemsize
    return Shape(
        (element_type(dtype), tiling.rows, tiling.vectors, depth, stages), shared, dtype, dtype, dtype is DType.F32
    )


def tensor_dtype(form: Contraction) -> DType | None:
    """What tensor cores multiply: a 16-bit float where A and B both are that, else float as tf32; None for other sums."""
    if form.dtype is not DType.F32:
        return None
    sides = {unwidened(form.left), unwidened(form.right)}
    narrow = next(iter(sides)) if len(sides) == 1 else DType.F32
    return narrow if narrow in NARROW else DType.F32


def panels(tiling: StageTiling, depth: int, stages: int, size: int, sum_size: int) -> int:
    """Bytes of the stages however A and B lie, or of the tile of sums, whichever are more."""
    pad = max(CHUNK // size, 8)  # of either core
    stage = sum(max(n * (depth + pad), depth * (n + pad)) for n in (tiling.rows, tiling.vectors))
    return max(stages * stage * size, tiling.rows * (tiling.vectors + 8) * sum_size)


def _gemv(form: Contraction, tiling: StageTiling) -> Shape | None:
    if tiling.rows not in GEMV_ROWS or form.dtype is not DType.F32:
        return None
    chunk = max(2048, 8192 // tiling.rows)
    return Shape((tiling.rows,), tiling.rows * (chunk + GEMV_COLUMNS) * 4, DType.F32, unwidened(form.right))


def unwidened(e: Expr) -> DType:
    """The dtype of what an expression was before it was widened to float."""
    return without_widening(e).dtype


def without_widening(e: Expr) -> Expr:
    """The expression without casts that only widen 16-bit floats to float."""
    while isinstance(e, Prim) and e.name == "cast" and e.dtype is DType.F32 and e.args[0].dtype in NARROW:
        (e,) = e.args
    return e
