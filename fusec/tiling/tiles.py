"""Tile extents, as polynomials of a program's parameters: enough work to pay for a task, little enough to share out.

A tile should take 5 to 50 us and keep what it touches twice in the first or second level cache. The scheduler joins
tiles into runs; so a tile may be small, and is so where that costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.ir.dim import Dim, Extent, ceildiv, floordiv, maximum, minimum, product, symbols_of
from fusec.ir.expr import Load
from fusec.kernels.cpu.contract_form import Contraction, direct_load, panel_load
from fusec.kernels.cpu.merged import columns_of
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Axis, Stage, TileProgram

TILE_BYTES = 32 << 10
"""What a tile of rows or of a map reads and writes: the first level cache."""
LINE = 64
"""Elements that a map's tile is a multiple of, along the lane."""
PRODUCT_FLOPS = 5_000_000
"""About 60 us of a matrix product on one core with AVX2."""
FEWEST_ROWS = 24
"""Rows of a product's tile at least, however deep it is: B then comes from afar a few times only."""
GEMV_WEIGHTS = 16 << 10
"""Weights that a tile of a vector-matrix product reads: few, so that even a small layer can be split."""
MOST_ROWS = 66
"""Rows of a product's tile: they share each panel of B."""
COLUMNS = 64
"""Columns of a product's tile at least: as many as one epilogue takes."""
COLUMNS_AFTER_PROLOGUE = 256
"""... where each tile computes its part of A first."""
PANEL_ELEMENTS = 64 << 10
"""Elements of the locals of a chain's tile: 256 KiB, in the second level cache with the weights going past."""


def tile_extents(
    program: TileProgram, stages: Sequence[StageTiling], forms: Sequence[Contraction | None]
) -> tuple[tuple[str, Extent], ...]:
    """Axis -> tile extent, for the task axes in order."""
    products = [(s, f) for s, f in zip(stages, forms, strict=True) if f is not None and s.template == "contract"]
    if products:
        return _product_tiles(program, products)
    return _plain_tiles(program, stages)


def _plain_tiles(program: TileProgram, stages: Sequence[StageTiling]) -> tuple[tuple[str, Extent], ...]:
    """From the innermost task axis outwards: as many points as fit into the budget of bytes, and whole rows of images."""
    out: list[tuple[str, Extent]] = []
    inner: list[str] = []
    for axis in reversed(program.axes):
        size = maximum(1, _bytes_per_step(program, axis.name, inner))
        unit = _unit(program, stages, axis)
        tile: Extent = unit * maximum(1, floordiv(TILE_BYTES, size * unit))
        out.append((axis.name, 1 if axis.sequential else tile))
        inner.append(axis.name)
    return tuple(reversed(out))


def _unit(program: TileProgram, stages: Sequence[StageTiling], axis: Axis) -> Extent:
    """What a tile along an axis is a multiple of: lines of memory, the rows that were merged into it, or all of the axis
    where points are computed side by side along it."""
    if any(t.lane == axis.name for t in stages):
        return LINE
    for stage, tiling in zip(program.stages, stages, strict=True):
        columns = columns_of(stage, axis.name)
        if columns is not None:
            return maximum(1, columns)
        if tiling.rows > 1 and [a for a in stage.axis_names if a != tiling.lane][-1] == axis.name:
            return maximum(1, axis.extent)
    return 1


def _bytes_per_step(program: TileProgram, axis: str, inner: Sequence[str]) -> Extent:
    """Bytes that one more index of an axis reads and writes, the axes inside in full, of operands that depend on them."""
    task = {a.name for a in program.axes}
    counted = {axis, *inner}
    seen: dict[str, Extent] = {}
    for stage in program.stages:
        accesses = [(x.operand, x.index) for x in stage.loads()] + [(s.operand, s.index) for s in stage.stores]
        for name, index in accesses:
            operand = program.operand[name]
            mentioned = {a for i in index if isinstance(i, Dim) for a in symbols_of(i) & task}
            if axis not in mentioned:
                continue
            own = [
                d for d, i in zip(operand.shape, index, strict=True) if not isinstance(i, int) and not _uses(i, task)
            ]
            extents = [maximum(1, program.axis[a].extent) for a in sorted(mentioned & counted - {axis})]
            seen[name] = product([*own, *extents]) * operand.dtype.itemsize
    total: Extent = 0
    for n in seen.values():
        total = total + n
    return total


def _uses(i: object, task: set[str]) -> bool:
    if isinstance(i, Dim):
        return bool(symbols_of(i) & task)
    return isinstance(i, Load) and any(_uses(j, task) for j in i.index)


def _product_tiles(
    program: TileProgram, products: Sequence[tuple[StageTiling, Contraction]]
) -> tuple[tuple[str, Extent], ...]:
    names = [a.name for a in program.axes]
    rows = max(s.rows for s, _ in products)
    n_task = [f for _, f in products if f.n in names]
    depth: Extent = 1
    for _, f in products:
        depth = maximum(depth, f.depth)
    columns = _columns(program, products[0][0], products[0][1], depth) if n_task else None
    out: dict[str, Extent] = {a.name: 1 for a in program.axes}
    for _, f in products:
        if f.m in out:
            out[f.m] = _rows(program, f, rows, depth, columns)
        if f.n in out and columns is not None:
            out[f.n] = columns
    return tuple(out.items())


def _columns(program: TileProgram, tiling: StageTiling, form: Contraction, depth: Extent) -> Extent:
    if tiling.rows == 1:
        return COLUMNS * maximum(1, floordiv(GEMV_WEIGHTS, COLUMNS * depth))
    return COLUMNS if _is_direct(program, form) else COLUMNS_AFTER_PROLOGUE


def _rows(program: TileProgram, form: Contraction, rows: int, depth: Extent, columns: Extent | None) -> Extent:
    """A multiple of the register tile's rows, and tiles of about equal size."""
    if rows == 1:
        return 1
    extent = program.axis[form.m].extent
    most = MOST_ROWS // rows * rows
    limit: Extent
    if columns is None:
        limit = floordiv(PANEL_ELEMENTS, maximum(1, _panel(program)))
    else:
        limit = floordiv(PRODUCT_FLOPS, 2 * columns * depth)
    panels = panel_load(form)
    if panels is None or program.operand[panels].role != "weight":
        limit = most  # every tile packs its part of B first: the more rows share that, the better
    limit = maximum(max(2, FEWEST_ROWS // rows) * rows, minimum(most, limit))
    tiles = maximum(1, ceildiv(extent, limit))
    return rows * maximum(1, ceildiv(ceildiv(extent, tiles), rows))


def _panel(program: TileProgram) -> Extent:
    """Elements of the locals per row of the task: what the stages of a chain hand on."""
    task = {a.name for a in program.axes}
    total: Extent = 0
    for o in program.operands:
        if o.role == "local":
            own = [d for d, i in zip(o.shape, _index(program.stages, o.name), strict=False) if not _uses(i, task)]
            total = total + product(own)
    return total


def _index(stages: Sequence[Stage], operand: str) -> Sequence[object]:
    for stage in stages:
        for store in stage.stores:
            if store.operand == operand:
                return store.index
    return ()


def _is_direct(program: TileProgram, form: Contraction) -> bool:
    load = direct_load(form.left)
    return load is not None and program.operand[load[0]].dtype is form.dtype
