"""Which tilings the templates for a device take: asked of plans that were read from files, before anything is emitted.

What is refused here would be emitted as a program that reads or writes where it must not: block tiles that no template has, or
tiles that begin where 16 bytes cannot be moved at once.
"""

from __future__ import annotations

from fusec.errors import FusecError
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.types import DType
from fusec.kernels.backend import EMULATED
from fusec.kernels.cpu.contract_form import Contraction, contraction, direct_load
from fusec.kernels.cuda.blocks import COLUMNS as BLOCK_COLUMNS
from fusec.kernels.cuda.blocks import blocked, panelled
from fusec.kernels.cuda.emit import NESTS
from fusec.kernels.cuda.known import with_known
from fusec.kernels.cuda.levels import LEVELS, Level
from fusec.kernels.cuda.product import TEMPLATES as PRODUCTS
from fusec.kernels.cuda.product_shapes import STREAMED, shape_of, tensor_dtype, unwidened, without_widening
from fusec.kernels.cuda.resident_shape import TEMPLATE as RESIDENT
from fusec.kernels.cuda.resident_shape import residents
from fusec.kernels.cuda.scan import TEMPLATE as SCAN
from fusec.kernels.cuda.scan import running
from fusec.kernels.cuda.stream import COLUMNS, products
from fusec.kernels.cuda.turn import turned_axis
from fusec.kernels.kernel import Kernel, StageTiling
from fusec.kernels.layout import Layout
from fusec.tile.program import Stage, TileProgram
from fusec.tiling.lane import stride

MOVED = 16
"""Bytes that products move at once."""
BLOCK_UNIT = 8
"""Rows and columns of block tiles are multiples of this: 16 bytes of the smallest type that products multiply."""
MOST_TILE = 1 << 40


def refusal(kernel: Kernel, level: str, precision: str) -> str:
    """Why a kernel cannot be emitted for a level with its tiling; empty where it can.

    `precision` is what the plan says of itself: "tf32" allows tensor cores for float32.
    """
    tile = dict(kernel.tiling.tile)
    for axis, extent in tile.items():
        if isinstance(extent, int) and not 1 <= extent <= MOST_TILE:
            return f"a tile is {extent} along {axis}"
    known = LEVELS.get(level.removesuffix(EMULATED))
    if why := _layouts(kernel, tile):
        return why
    if any(t.template == "stream" for t in kernel.tiling.stages):
        return _stream(kernel, tile)
    if any(t.template == SCAN for t in kernel.tiling.stages):
        whole = all(t == StageTiling(SCAN) for t in kernel.tiling.stages) and running(kernel.program) is not None
        return "" if whole else "it has no running sums of whole lines"
    if why := _resident(kernel, known):
        return why
    for stage, tiling in zip(kernel.program.stages, kernel.tiling.stages, strict=True):
        if tiling.template == RESIDENT:
            continue
        if tiling.template == "wgmma" and not (known is not None and known.has_wgmma):
            return f"{level} has no wgmma"
        form = contraction(stage) if tiling.template in ("mma", "wgmma") else None
        if form is not None and tensor_dtype(form) is DType.F32 and precision != "tf32":
            return "it would round float32 to tf32, and the plan says that nothing does"
        if why := _stage(kernel.program, stage, tiling, tile):
            return f"a stage cannot have the template {tiling.template!r}: {why}"
    return ""


def _resident(kernel: Kernel, level: Level | None) -> str:
    """What is kept in shared memory has a known size that there is room for."""
    wanted = [t for t in kernel.tiling.stages if t.template == RESIDENT]
    if not wanted:
        return ""
    whole = with_known(kernel)
    found = residents(whole.program, whole.tiling)
    if len(found) != len(wanted) or any(t.lane not in ("", r.form.n) for t, r in zip(wanted, found, strict=True)):
        return "a stage has no weights of known size that could stay in shared memory"
    size = sum(r.kept + r.working for r in found)
    if level is not None and size > level.shared:
        return f"{size} bytes of shared memory are wanted, and {level.name} has {level.shared}"
    return ""


def _stream(kernel: Kernel, tile: dict[str, Extent]) -> str:
    """All stages are streamed together, on tiles of as many rows as there is room for."""
    rows = kernel.tiling.stages[0].rows
    found = products(kernel.program, rows)
    if found is None or any(t != StageTiling("stream", "", rows, COLUMNS) for t in kernel.tiling.stages):
        return f"it is no attention that can be streamed on tiles of {rows} rows"
    form, both, tilings = found
    if tile.get(form.scores.m) != rows:
        return f"tiles of {tile.get(form.scores.m)} rows are streamed where there is room for {rows}"
    for f, t in zip(both, tilings, strict=True):
        shape_of(f, t, STREAMED)
    return ""


def _stage(program: TileProgram, stage: Stage, tiling: StageTiling, tile: dict[str, Extent]) -> str:
    if tiling.template in NESTS:
        return _nest(program, stage, tiling)
    if tiling.template in PRODUCTS:
        return _product(program, stage, tiling, tile)
    return "there is no such template for CUDA"


def _nest(program: TileProgram, stage: Stage, tiling: StageTiling) -> str:
    if tiling.lane and tiling.lane not in {*stage.axis_names, *(a.name for a in stage.folds)}:
        return f"it has no axis {tiling.lane!r}"
    if (tiling.rows, tiling.vectors) != (1, 1):
        return f"a nest has no block tiles, this one is {tiling.rows} by {tiling.vectors}"
    if tiling.template == "turn":
        return "" if turned_axis(program, stage, tiling.lane) else "there is nothing to turn"
    if tiling.template != "points" and not stage.folds:
        return "there is no fold to share"
    return ""


def _product(program: TileProgram, stage: Stage, tiling: StageTiling, tile: dict[str, Extent]) -> str:
    form = contraction(stage)
    if form is None:
        return "it is no matrix product"
    if tiling.lane and tiling.lane != form.n:
        return f"its columns are {form.n!r}, not {tiling.lane!r}"
    try:
        shape_of(form, tiling)
    except (FusecError, KeyError):
        return f"there is no block tile of {tiling.rows} by {tiling.vectors} for {form.dtype}"
    streamed = tiling.template == "gemv"
    units = {form.n: _streamed_unit(program, form) if streamed else BLOCK_UNIT}
    if form.m and not streamed:
        units[form.m] = BLOCK_UNIT
    for axis, unit in units.items():
        if axis in tile and not _is_multiple(tile[axis], unit):
            return f"tiles of {tile[axis]} along {axis} are no multiples of {unit}"
    return ""


def _streamed_unit(program: TileProgram, form: Contraction) -> int:
    """Columns that a row of B moves at once."""
    load = direct_load(without_widening(form.right))
    if load is None or stride(program, *load, form.n) != 1:
        return 1
    return MOVED // unwidened(form.right).itemsize


def _is_multiple(extent: Extent, unit: int) -> bool:
    return extent % unit == 0 if isinstance(extent, int) else exact_quotient(extent, unit) is not None


def _layouts(kernel: Kernel, tile: dict[str, Extent]) -> str:
    """Weights lie in blocks or panels only where a product that knows these reads them; tiles must begin where blocks do."""
    stages = zip(kernel.program.stages, kernel.tiling.stages, strict=True)
    products = [(f, t.template) for s, t in stages if (f := contraction(s)) is not None]
    for name, layout in kernel.tiling.layouts:
        if not layout.is_row_major and not any(_reads(kernel.program, *x, name, layout) for x in products):
            return f"{name} cannot have the layout {layout}, which nothing reads"
    for form, template in products:
        if template == "wgmma" and form.n in tile and not _is_multiple(tile[form.n], BLOCK_COLUMNS):
            return f"tiles of {tile[form.n]} along {form.n} are no multiples of {BLOCK_COLUMNS}"
    return ""


def _reads(program: TileProgram, form: Contraction, template: str, name: str, layout: Layout) -> bool:
    if template == "wgmma":
        return blocked(program, form) == (name, layout)
    width = layout.factors[-1].block if layout.factors else 0
    return template == "gemv" and width > 0 and panelled(program, form, width) == (name, layout)
