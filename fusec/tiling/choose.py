"""menu: the kernels that a tile program may run as, each with its choices made, each for a range of sizes.

The choices are few: which stages are matrix products on register tiles and which are loop nests, along which axis a
nest is vectorised, how large a tile is, and which weights lie in panels. All kernels of a menu read a weight in the
same layout. Tiles never depend on the number of workers, so results do not either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fusec.errors import BugError
from fusec.ir.dim import Extent, substitute, symbol
from fusec.ir.types import DType
from fusec.kernels import backend
from fusec.kernels.cpu.contract_dot import is_dot
from fusec.kernels.cpu.contract_form import Contraction, contraction, panel_load
from fusec.kernels.cpu.contract_tile import padded_rows
from fusec.kernels.kernel import Guard, Kernel, StageTiling, Tiling, loads_of
from fusec.kernels.layout import Layout
from fusec.target import Isa, Target
from fusec.tile.program import Stage, TileProgram
from fusec.tiling.across import across_rows
from fusec.tiling.dots import dots, long_row
from fusec.tiling.lane import best_lane, points_at_once
from fusec.tiling.stream import streamed
from fusec.tiling.tiles import tile_extents

REGISTER_TILES = {"generic": (4, 2), "avx2": (6, 2), "avx512": (12, 2), "neon": (6, 4)}
"""Rows and vectors of the largest register tile: accumulators, a row of B and one broadcast fill the registers. Levels of
back ends that are not listed get what their registers hold."""
TAP_ROWS = 8
"""Rows of a tile of one vector where windows are summed: each row has a pointer of its own for every tap, and more of them
do not fit into registers. It takes 0.77 of the time of 12 rows for groups of 8 channels (AVX2, Zen)."""
FEW_ROWS = 4
"""Up to this many rows a smaller register tile wastes less than it loses."""
MOST_ODD = 8
"""Numbers of rows that get a register tile of their own."""
WORTH = 0.02
"""Part of the rows that a kernel for one number of them must not compute for nothing, as others do."""
FEW_COLUMNS = 4
"""Up to this many columns a product is better summed along k."""
NARROW = 64
"""Below so many columns, panels of one vector where those of two would be half empty at the end: such a register tile
loads as much as it multiplies, which costs less than a quarter of the columns for nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel of a menu before its tiles are sized: the most rows of a register tile, and when it applies."""

    rows: int
    guard: Guard | None


def menu(
    program: TileProgram, target: Target, calls: Iterable[Mapping[str, Extent]] = (), precision: str = "f32"
) -> tuple[Kernel, ...]:
    """The kernels for a program, in the order in which `choose` tries them; the last one, or the only one, takes the rest.

    Products of a few rows get register tiles for the numbers of rows that `calls` name. `precision` says whether a device may
    round the factors of float32 products ("tf32").
    """
    if backend.device(target.kind) is not None:
        from fusec.tiling.device.menu import device_menu

        return device_menu(program, target, calls, precision)
    isa = backend.host_memory(target.kind).isa(target.level)
    forms = [contraction(s) for s in program.stages]
    calls = list(calls)
    if (few := dots(program, forms, isa, calls)) is not None:
        return _few_columns(program, forms, isa, *few)
    products = [f for f in forms if f is not None]
    columns = [n for f in products for n in _columns(program, f, calls)]
    tile_shape = _register_tile(isa, columns, any(f.taps for f in products))
    layouts = _layouts(program, forms, isa, tile_shape[1])
    out = []
    for choice in _choices(program, forms, tile_shape, calls):
        stages = tuple(
            _stage(program, stage, form, choice, isa, tile_shape, dict(layouts), calls)
            for stage, form in zip(program.stages, forms, strict=True)
        )
        stages, tile = streamed(program, stages) or (stages, tile_extents(program, stages, forms))
        out.append(Kernel(program, Tiling(tile, stages, layouts, choice.guard)))
    if not products and (short := across_rows(program, out[0].tiling.stages, isa, calls)) is not None:
        stages, guard = short
        kernel = Kernel(program, Tiling(tile_extents(program, stages, forms), stages, layouts, guard))
        out = [kernel, *out] if guard is not None else [kernel]
    return tuple(out)


def _few_columns(
    program: TileProgram,
    forms: Sequence[Contraction | None],
    isa: Isa,
    product: StageTiling,
    layout: Layout | None,
    guard: Guard | None,
) -> tuple[Kernel, ...]:
    """The kernel for the columns that all calls have, and one of loop nests for any other number."""
    operands = [panel_load(f) for f in forms if f is not None]
    layouts = tuple((o, layout) for o in operands if o is not None and layout is not None)
    plain = [_nest(program, s, isa) for s in program.stages]
    some = tuple(product if f is not None else nest for f, nest in zip(forms, plain, strict=True))
    out = [Kernel(program, Tiling(tile_extents(program, some, forms), some, layouts, guard))]
    if guard is not None:
        out.append(Kernel(program, Tiling(tile_extents(program, plain, forms), tuple(plain), layouts)))
    return tuple(out)


def choose(kernels: Sequence[Kernel], params: Mapping[str, int]) -> Kernel:
    """The first kernel of a menu whose guard admits a binding."""
    for kernel in kernels:
        if kernel.tiling.guard is None or kernel.tiling.guard.admits(params):
            return kernel
    raise BugError(f"no kernel of the menu takes {dict(params)}")


def needed(kernels: Sequence[Kernel], calls: Iterable[Mapping[str, Extent]]) -> tuple[Kernel, ...]:
    """The kernels of a menu that some call may choose, given each call's parameters, known or symbolic."""
    wanted = set[int]()
    for params in calls:
        for i, kernel in enumerate(kernels):
            guard = kernel.tiling.guard
            value = None if guard is None else params[guard.param]
            if isinstance(value, int) and guard is not None and not guard.admits({guard.param: value}):
                continue
            if not isinstance(value, int) and any(_covers(k.tiling.guard, guard) for k in kernels[i + 1 :]):
                continue  # sizes that may never come have no kernel of their own
            wanted.add(i)
            if guard is None or isinstance(value, int):
                break  # the first one that admits a binding is taken
    return tuple(k for i, k in enumerate(kernels) if i in wanted)


def _covers(later: Guard | None, guard: Guard | None) -> bool:
    """Whether a later kernel takes all sizes of an earlier one."""
    if later is None or guard is None or later.param != guard.param or later.low > guard.low:
        return False
    return later.high is None or (guard.high is not None and guard.high <= later.high)


def _choices(
    program: TileProgram,
    forms: Sequence[Contraction | None],
    tile_shape: tuple[int, int],
    calls: Iterable[Mapping[str, Extent]],
) -> list[Choice]:
    """One choice where the number of rows is known or no parameter, else one row, known numbers, a few rows, and many."""
    most, vectors = tile_shape
    for form in forms:
        if form is None or not form.m:
            continue
        m = program.axis[form.m].extent
        for param in program.params:
            if m == symbol(param):
                known = {n for call in calls if isinstance(n := call[param], int) and n > 1}
                few = min(FEW_ROWS, most)
                usual = {n: few if n <= FEW_ROWS else most for n in sorted(known)}
                odd = [n for n, r in usual.items() if _fitting(n, most, vectors) != r or _saves(n, r, vectors)]
                return [
                    Choice(1, Guard(param, 0, 1)),
                    *(Choice(_fitting(n, most, vectors), Guard(param, n, n)) for n in odd[:MOST_ODD]),
                    Choice(few, Guard(param, 2, FEW_ROWS)),
                    Choice(most, Guard(param, FEW_ROWS + 1, None)),
                ]
    return [Choice(most, None)]


def _columns(program: TileProgram, form: Contraction, calls: Iterable[Mapping[str, Extent]]) -> list[Extent]:
    """The columns of a product in each call, known or not."""
    n = program.axis[form.n].extent
    return [n if isinstance(n, int) else substitute(n, call) for call in calls]


def _register_tile(isa: Isa, columns: Sequence[Extent], has_taps: bool) -> tuple[int, int]:
    """Rows and vectors of the register tile for products of so many columns."""
    rows, vectors = REGISTER_TILES.get(isa.name) or (max(1, (isa.registers - 3) // 2), 2)
    half = isa.lanes * vectors // 2
    if (
        vectors == 2
        and columns
        and all(isinstance(n, int) and n < NARROW and 0 < n % (2 * half) <= half for n in columns)
    ):
        return min(2 * rows, TAP_ROWS) if has_taps else 2 * rows, 1
    return rows, vectors


def _stage(
    program: TileProgram,
    stage: Stage,
    form: Contraction | None,
    choice: Choice,
    isa: Isa,
    tile_shape: tuple[int, int],
    layouts: Mapping[str, Layout],
    calls: Sequence[Mapping[str, Extent]],
) -> StageTiling:
    if form is None:
        return _nest(program, stage, isa)
    vectors = tile_shape[1]
    rows = _rows(program, form, choice, tile_shape)
    n = program.axis[form.n].extent
    panels = panel_load(form)
    streams = panels in layouts or rows > 1
    if rows > 1 and is_dot(program, form, isa):
        return StageTiling("contract", form.n, isa.lanes * 4 // form.dtype.itemsize)
    if not streams and (tiling := long_row(program, form, isa, calls)) is not None:
        return tiling
    if (isinstance(n, int) and n <= FEW_COLUMNS) or not streams:
        # one row: copying B into panels first would take longer than the product
        return StageTiling("nest", best_lane(program, stage, isa))
    return StageTiling("contract", form.n, rows, vectors)


def _nest(program: TileProgram, stage: Stage, isa: Isa) -> StageTiling:
    lane = best_lane(program, stage, isa)
    return StageTiling("nest", lane, points_at_once(program, stage, lane, isa))


def _rows(program: TileProgram, form: Contraction, choice: Choice, tile_shape: tuple[int, int]) -> int:
    if not form.m:
        return 1
    m = program.axis[form.m].extent
    if not isinstance(m, int):
        return choice.rows
    return _fitting(m, *tile_shape)


def _fitting(m: int, most: int, vectors: int) -> int:
    """Of the register tiles that fit, the rows of the one that computes the fewest for nothing."""

    def waste(r: int) -> float:
        return (padded_rows(m, r, vectors) - m) / max(1, m) + 0.25 * (most - r) / most

    return min(range(min(most, max(1, m)), 0, -1), key=waste)


def _saves(m: int, rows: int, vectors: int) -> bool:
    """Whether a kernel for so many rows alone, whose last tiles are smaller, computes enough fewer of them."""
    return -(-m // rows) * rows - padded_rows(m, rows, vectors) >= WORTH * m


def _layouts(
    program: TileProgram, forms: Sequence[Contraction | None], isa: Isa, vectors: int
) -> tuple[tuple[str, Layout], ...]:
    """Panels for each weight that only matrix products read, as `w[.., k, n]`."""
    out = []
    for o in program.operands:
        users = [(s, f) for s, f in zip(program.stages, forms, strict=True) if loads_of(s, o.name)]
        if o.role != "weight" or not users or o.dtype in (DType.F16, DType.BF16):
            continue
        if all(f is not None and panel_load(f) == o.name and len(set(loads_of(s, o.name))) == 1 for s, f in users):
            paired = any(f is not None and f.pairs for _, f in users)
            width = vectors * isa.lanes * 4 // (4 if paired else o.dtype.itemsize)
            small = any(isinstance(e := program.axis[f.n].extent, int) and e <= FEW_COLUMNS for _, f in users if f)
            if not small:
                out.append((o.name, (Layout.paired if paired else Layout.panels)(len(o.shape), width)))
    return tuple(out)
