"""Tiles of matrix products and convolutions, as polynomials of a program's parameters.

Rows come first: as many as there are, up to what the second level cache holds of them, share each panel of B. Columns
then make up a task of 50 to 200 us, less where there would be too few tasks to share out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusec.ir.dim import Dim, Extent, ceildiv, floordiv, linear, maximum, minimum, product, symbols_of
from fusec.ir.expr import Load
from fusec.ir.types import DType
from fusec.kernels.cpu.chunk import CHUNK_ROWS
from fusec.kernels.cpu.contract_epilogue import SHORT_SUM
from fusec.kernels.cpu.contract_form import Contraction, before_widening, direct_load, panel_load, stores_columns
from fusec.kernels.kernel import StageTiling
from fusec.tile.program import Stage, TileProgram
from fusec.tiling.bands import band

TASK_FLOPS = 8_000_000
"""About 100 us of a matrix product on one core with AVX2."""
LEAST_FLOPS = 400_000
"""Tasks are not made smaller for the sake of their number: 5 us."""
TASKS = 16
"""So many there should be, where the product is large enough: enough for a few workers to finish together."""
MOST_ROWS = 66
"""Rows of a tile: they share each panel of B."""
TURNED_ROWS, LINE = 96, 16
"""Rows where columns of at least four such tiles are stored and sums are short: stretches of columns are then whole lines of
memory, of so many elements (0.8 of the time of 66 rows for a first convolution of 224 x 224 pixels; AVX2, Zen 4)."""
A_ELEMENTS = 160 << 10
"""All rows are one tile where they are no more than a chunk, and no more elements of A than this, which then stays in the
second level cache: B comes by once."""
FEWEST_ROWS = 24
"""Rows of a tile at least where each tile computes its part of A first: B then comes from afar a few times only."""
UNIT = 32
"""Columns of a tile are a multiple of this: whole panels on every level."""
MOST_COLUMNS = 256
"""Columns of a tile: more would not use A's rows any better."""
COLUMNS_AFTER_PROLOGUE = 256
"""Columns where each tile computes its part of A first."""
PACKED_COLUMNS = 64
"""Columns where each tile packs its part of B first."""
GEMV_COLUMNS = 64
"""Columns of a vector-matrix product's tile at least."""
GEMV_WEIGHTS = 16 << 10
"""Weights that a tile of a vector-matrix product reads: few, so that even a small layer can be split."""
NARROW_GROUP = 16
"""Channels of a group up to which all groups are one tile: a line of memory holds those of several, and the pixels of one
group alone, far apart as they are, meet in few sets of the first level cache."""
GROUPED_ROWS = 24
"""Rows of such a tile: its pixels stay in the first level cache for all groups."""
PANEL_ELEMENTS = 64 << 10
"""Elements of the locals of a chain's tile: 256 KiB, in the second level cache with the weights going past."""
MORE_ROWS = 132
"""Rows of a tile of a large weight, ..."""
LARGE_WEIGHT = 256 << 10
"""... of so many elements, which each tile brings from beyond the second level cache, or of an operand that each packs."""


def product_tiles(
    program: TileProgram, products: Sequence[tuple[StageTiling, Contraction]]
) -> tuple[tuple[str, Extent], ...]:
    """Axis -> tile extent, for the task axes in order, of a program with these contractions."""
    names = [a.name for a in program.axes]
    rows = max(s.rows for s, _ in products)
    depth: Extent = 1
    for _, f in products:
        depth = maximum(depth, f.depth)
    tiling, form = products[0]
    has_columns = any(f.n in names for _, f in products)
    share = _rows(program, form, rows, depth, has_columns)
    out: dict[str, Extent] = {a.name: 1 for a in program.axes}
    side = _side_by_side(program, form)
    if side and len(products) == 1:
        narrow, groups = minimum(1, floordiv(NARROW_GROUP, maximum(1, form.k.extent))), program.axis[side].extent
        some = maximum(1, floordiv(groups * ceildiv(program.axis[form.m].extent, share), TASKS))
        some = minimum(groups, some)
        out[side] = some + narrow * (groups - some)
        few = max(1, GROUPED_ROWS // rows) * rows
        share = share - narrow * maximum(0, share - few)
    for _, f in products:
        if f.m in out:
            out[f.m] = share if f.m == form.m else _rows(program, f, rows, depth, has_columns)
        if f.n in out:
            out[f.n] = _columns(program, tiling, form, depth, share)
    return tuple(out.items())


def _side_by_side(program: TileProgram, form: Contraction) -> str:
    """The batch axis of groups whose channels lie side by side in each pixel; "" where there is none."""
    load = direct_load(before_widening(form, form.left))
    if load is None or not form.taps or not form.m or form.m not in {a.name for a in program.axes}:
        return ""
    groups = [a.name for a in program.axes if a.name in form.batch]
    split = linear(load[1][-1], [form.k.name, *groups])
    for a in groups:
        if split is not None and split[1].get(form.k.name) == 1 and split[1].get(a) == form.k.extent:
            return a
    return ""


def _columns(program: TileProgram, tiling: StageTiling, form: Contraction, depth: Extent, rows: Extent) -> Extent:
    if tiling.rows == 1:
        return GEMV_COLUMNS * maximum(1, floordiv(GEMV_WEIGHTS, GEMV_COLUMNS * depth))
    if not _is_direct(program, form):
        return COLUMNS_AFTER_PROLOGUE
    if not _is_stored(program, form):
        return PACKED_COLUMNS
    extent = program.axis[form.n].extent
    flops = maximum(1, 2 * UNIT * rows * depth)
    units: Extent = maximum(1, floordiv(TASK_FLOPS, flops))
    others = product(program.axis[a].extent for a in form.batch if a in {t.name for t in program.axes})
    if form.m in {t.name for t in program.axes}:
        others = others * ceildiv(program.axis[form.m].extent, rows)
    enough = maximum(ceildiv(LEAST_FLOPS, flops), floordiv(extent * others, UNIT * TASKS))
    units = minimum(MOST_COLUMNS // UNIT, minimum(units, maximum(1, enough)))
    tiles = maximum(1, ceildiv(extent, UNIT * units))
    return UNIT * maximum(1, ceildiv(ceildiv(extent, tiles), UNIT))


def _rows(program: TileProgram, form: Contraction, rows: int, depth: Extent, has_columns: bool) -> Extent:
    """A multiple of the register tile's rows, and tiles of about equal size."""
    if rows == 1 or not form.m:
        return 1
    extent = program.axis[form.m].extent
    unit: Extent = rows
    most: Extent = MOST_ROWS // rows * rows
    if stores_columns(program, form):
        lines, short = math.lcm(rows, LINE), minimum(1, floordiv(SHORT_SUM, maximum(1, depth)))
        many = minimum(short, floordiv(extent, 4 * TURNED_ROWS))
        unit = rows + many * (lines - rows)
        most = most + many * (max(1, TURNED_ROWS // lines) * lines - most)
    limit = most
    fewest = max(2, FEWEST_ROWS // rows) * rows
    if not has_columns and _is_stored(program, form):
        panel = maximum(fewest, floordiv(PANEL_ELEMENTS, maximum(1, _panel(program))))
        if (whole_rows := band(program, form.m, panel)) is not None:
            return whole_rows
        limit = minimum(most, panel)
    elif _is_stored(program, form) and _is_direct(program, form):
        fits = minimum(1, floordiv(A_ELEMENTS, maximum(1, extent * depth)))
        large = minimum(1, floordiv(depth * program.axis[form.n].extent, LARGE_WEIGHT))
        limit = most + maximum(fits * (CHUNK_ROWS // rows * rows - most), large * (MORE_ROWS // rows * rows - most))
    elif _is_stored(program, form):
        task = floordiv(TASK_FLOPS, maximum(1, 2 * COLUMNS_AFTER_PROLOGUE * depth))
        limit = maximum(fewest, minimum(most, task))
    elif _is_direct(program, form):
        limit = MORE_ROWS // rows * rows
    tiles = maximum(1, ceildiv(extent, limit))
    return unit * maximum(1, ceildiv(ceildiv(extent, tiles), unit))


def _is_stored(program: TileProgram, form: Contraction) -> bool:
    """Whether B lies in panels; else each tile packs its part first, and the more rows share that, the better."""
    operand = panel_load(form)
    return operand is not None and program.operand[operand].role == "weight"


def _is_direct(program: TileProgram, form: Contraction) -> bool:
    load = direct_load(before_widening(form, form.left))
    return load is not None and program.operand[load[0]].dtype is (DType.I16 if form.pairs else form.dtype)


def _panel(program: TileProgram) -> Extent:
    """Elements of the locals per row of the task: what the stages of a chain hand on."""
    task = {a.name for a in program.axes}
    total: Extent = 0
    for o in program.operands:
        if o.role == "local":
            own = [d for d, i in zip(o.shape, _index(program.stages, o.name), strict=False) if not uses(i, task)]
            total = total + product(own)
    return total


def _index(stages: Sequence[Stage], operand: str) -> Sequence[object]:
    for stage in stages:
        for store in stage.stores:
            if store.operand == operand:
                return store.index
    return ()


def uses(i: object, task: set[str]) -> bool:
    """Whether an index entry depends on some axes, also through what it reads."""
    if isinstance(i, Dim):
        return bool(symbols_of(i) & task)
    return isinstance(i, Load) and any(uses(j, task) for j in i.index)
