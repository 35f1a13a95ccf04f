"""Which stages of a program are matrix products on a device, and how large their tiles are.

Up to 8 rows a product is bound by reading B, which is then dealt out to all multiprocessors in one wave. Larger products take
the block tile that finishes first: a large one does more per byte that it brings, a small one keeps more multiprocessors busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fusec.ir.dim import Dim, Extent, ceildiv, floordiv, maximum, product, substitute, symbol
from fusec.ir.types import DType
from fusec.kernels.backend import EMULATED
from fusec.kernels.cpu.contract_form import Contraction, contraction, direct_load
from fusec.kernels.cuda.blocks import MOVED, blocked, panelled
from fusec.kernels.cuda.levels import LEVELS, Level
from fusec.kernels.cuda.product_shapes import GEMV_ROWS, NARROW, SIMT, tensor_dtype, unwidened, without_widening
from fusec.kernels.kernel import Guard, StageTiling
from fusec.kernels.layout import Layout
from fusec.target import Target
from fusec.tile.program import TileProgram
from fusec.tiling.device.speeds import HOPPER, HOPPER_FLOAT, PLAIN, TENSOR, WIDE, Shapes
from fusec.tiling.lane import stride

FEW_ROWS = 8
"""Up to this many rows B is streamed."""
MOST_PANEL = 1024
"""Columns of a tile from which on rows of it are long enough as they lie."""
FEW_COLUMNS = 4
"""Up to this many columns, and many rows, a product is better summed along k by nests."""
SHORT = 8
"""Sums of so few products are not worth a tile in shared memory."""
SECTOR = 32
"""Bytes: columns of a streamed B are dealt out in multiples of this."""
GUESS = 512
"""What is assumed of an extent that no call tells."""


@dataclass(frozen=True, slots=True)
class ProductChoice:
    """A way to compute the products of a program: their stages by number, the tile of the whole program, and for which sizes.

    The other stages run as nests. Choices are tried in order; the last one, or the only one, takes what is left.
    """

    stages: Mapping[int, StageTiling]
    tile: tuple[tuple[str, Extent], ...]
    layouts: tuple[tuple[str, Layout], ...] = ()
    guard: Guard | None = None


def product_choices(
    program: TileProgram, target: Target, calls: Iterable[Mapping[str, Extent]], precision: str = "f32"
) -> tuple[ProductChoice, ...]:
    """The choices for a program with products; none where it has no product that a template takes."""
    calls = list(calls)
    forms: dict[int, Contraction] = {}
    for i, stage in enumerate(program.stages):
        form = contraction(stage)
        if form is not None and not stage.ordered() and _is_worth_it(program, form):
            forms[i] = form
    if not forms:
        return ()
    menu = _Menu(program, forms, LEVELS[target.level.removesuffix(EMULATED)], precision)
    guards = _guards(program, forms, calls)
    menu.is_single = len(guards) == 1
    choices = [menu.choice(guard, calls) for guard in guards]
    layouts = tuple(
        f for i in forms if (f := menu.layout(i, [c.stages[i].template for c in choices], calls)) is not None
    )
    return tuple(replace(menu.choice(guard, calls), layouts=layouts) for guard in guards)


def _is_worth_it(program: TileProgram, form: Contraction) -> bool:
    if form.dtype.itemsize not in SIMT or (isinstance(form.depth, int) and form.depth <= SHORT):
        return False
    columns, rows = program.axis[form.n].extent, program.axis[form.m].extent if form.m else 1
    few = isinstance(columns, int) and columns <= FEW_COLUMNS
    return not few or (isinstance(rows, int) and rows <= FEW_ROWS and form.dtype is DType.F32)


def _guards(
    program: TileProgram, forms: Mapping[int, Contraction], calls: Sequence[Mapping[str, Extent]]
) -> list[Guard | None]:
    """Ranges of the number of rows, where that is a parameter whose values differ or are not known."""
    for form in forms.values():
        m = program.axis[form.m].extent if form.m else 1
        for param in program.params:
            if m != symbol(param):
                continue
            values = {call[param] for call in calls}
            if len(values) == 1 and isinstance(next(iter(values)), int):
                return [None]
            few = [Guard(param, low + 1, high) for low, high in zip((-1, *GEMV_ROWS), GEMV_ROWS, strict=False)]
            return [*few, Guard(param, FEW_ROWS + 1, 64), Guard(param, 65, None)]
    return [None]


class _Menu:
    """The products of one program, and how the tiles for a range of sizes are chosen."""

    def __init__(self, program: TileProgram, forms: Mapping[int, Contraction], level: Level, precision: str) -> None:
        self.program, self.forms, self.level, self.precision = program, forms, level, precision
        self.processors = level.multiprocessors
        self.names = {a.name for a in program.axes}
        self.panels = set[str]()
        """Axes of columns that lie in panels."""
        self.is_single = False
        """Whether there is one choice for all sizes, so that a weight can lie as that one reads it."""

    def choice(self, guard: Guard | None, calls: Sequence[Mapping[str, Extent]]) -> ProductChoice:
        """The products within a guard."""
        found = [c for c in calls if guard is None or not isinstance(n := c[guard.param], int) or _admits(guard, n)]
        axes = self.program.axis.items()
        sizes = [{n: self._guess(a.extent, call, guard) for n, a in axes} for call in found or [{}]]
        stages = self._stages(sizes)
        tile: dict[str, Extent] = {a.name: 1 for a in self.program.axes}
        heights: dict[str, int] = {}
        for i, tiling in stages.items():
            form = self.forms[i]
            if form.m in tile:
                height = FEW_ROWS if tiling.template == "gemv" else tiling.rows
                tile[form.m] = heights[form.m] = max(heights.get(form.m, 0), height)
            if form.n in tile:
                tile[form.n] = self._streamed(form) if tiling.template == "gemv" else tiling.vectors
        return ProductChoice(stages, tuple(tile.items()), guard=guard)

    def layout(
        self, stage: int, templates: Sequence[str], calls: Sequence[Mapping[str, Extent]]
    ) -> tuple[str, Layout] | None:
        """The weight of a product that lies otherwise than row by row, where all choices read it so: it is stored once."""
        form = self.forms[stage]
        if set(templates) == {"wgmma"}:
            return blocked(self.program, form)
        if set(templates) != {"gemv"} or panelled(self.program, form, MOST_PANEL) is None:
            return None
        self.panels.add(form.n)
        streamed = self._streamed(form)
        widths = {streamed if isinstance(streamed, int) else substitute(streamed, call) for call in calls or [{}]}
        width = next(iter(widths))
        if len(widths) > 1 or not isinstance(width, int) or width > MOST_PANEL:
            self.panels.remove(form.n)
            return None
        return panelled(self.program, form, width)

    def _guess(self, x: Extent, call: Mapping[str, Extent], guard: Guard | None) -> int:
        """An extent in a call; of a range of sizes the largest."""
        if isinstance(x, Dim):
            known = dict(call)
            if guard is not None and not isinstance(known.get(guard.param), int):
                known[guard.param] = max(GUESS, guard.low) if guard.high is None else guard.high
            x = substitute(x, known)
        return x if isinstance(x, int) else GUESS

    def _stages(self, sizes: Sequence[Mapping[str, int]]) -> dict[int, StageTiling]:
        """The template of each product. Products that meet in a panel have equally many rows in a tile."""
        rows = {i: max(s[f.m] if f.m else 1 for s in sizes) for i, f in self.forms.items()}
        out = {
            i: StageTiling("gemv", f.n, next(n for n in GEMV_ROWS if n >= rows[i]))
            for i, f in self.forms.items()
            if rows[i] <= FEW_ROWS and f.dtype is DType.F32
        }
        costs: dict[int, dict[int, tuple[float, tuple[str, int, int]]]] = {}
        for i, f in self.forms.items():
            if i in out:
                continue
            best = costs[i] = {}
            for shape, speed in block_tiles(f, self.level, self.precision).items():
                if shape[0] == "wgmma" and not self._has_lines_along_k(f):
                    continue
                cost = sum(self._time(f, shape[1:], size) / speed for size in sizes)
                best[shape[1]] = min(best.get(shape[1], (cost, shape)), (cost, shape))
        common = set[int].intersection(*map(set, costs.values())) if costs else set[int]()
        if costs:
            height = min(sorted(common), key=lambda h: sum(best[h][0] for best in costs.values()))
            for i, best in costs.items():
                template, _, columns = best[height][1]
                out[i] = StageTiling(template, self.forms[i].n, height, columns)
        return out

    def _time(self, form: Contraction, shape: tuple[int, int], size: Mapping[str, int]) -> float:
        """How long a block tile takes for all, in steps: waves of tiles times the sums of one."""
        rows, columns = shape
        down, across = -(-(size[form.m] if form.m else 1) // rows), -(-size[form.n] // columns)
        tiles = inside = 1
        if form.n in self.names:
            tiles *= across
        else:  # a block computes all columns of its rows
            inside *= across
        if form.m in self.names:
            tiles *= down
        else:
            inside *= down
        for axis in form.batch:
            tiles *= size[axis]
        return -(-tiles // self.processors) * inside * rows * columns

    def _streamed(self, form: Contraction) -> Extent:
        """Columns of a tile so that one wave of tiles reads all of B."""
        unit = self._unit(form)
        others = product(self.program.axis[a].extent for a in form.batch if a in self.names)
        share = maximum(1, floordiv(self.processors, maximum(1, others)))
        return unit * maximum(1, ceildiv(ceildiv(self.program.axis[form.n].extent, unit), share))

    def _has_lines_along_k(self, form: Contraction) -> bool:
        """Whether wgmma can have its operands: of float, k must run along the lines of both, and nothing turns them in time."""
        if tensor_dtype(form) in NARROW:
            return True
        left, right = direct_load(form.left), direct_load(form.right)
        if left is not None and form.m and stride(self.program, *left, form.m) == 1:
            return False
        if right is not None and stride(self.program, *right, form.k.name) == 1:
            return True
        return self.is_single and blocked(self.program, form) is not None

    def _unit(self, form: Contraction) -> int:
        if form.n in self.panels:
            return MOVED // unwidened(form.right).itemsize
        load = direct_load(without_widening(form.right))
        if load is None or stride(self.program, *load, form.n) != 1:
            return 1 if load is not None and stride(self.program, *load, form.k.name) == 1 else SECTOR // 4
        return SECTOR // unwidened(form.right).itemsize


def block_tiles(form: Contraction, level: Level, precision: str) -> Shapes:
    """The block tiles that a product of more than a few rows may have, and how fast each is."""
    if form.dtype.itemsize == 8:
        return WIDE
    if tensor_dtype(form) in NARROW:
        return HOPPER if level.has_wgmma else TENSOR
    if precision == "tf32" and tensor_dtype(form) is not None:
        return HOPPER_FLOAT if level.has_wgmma else TENSOR
    return PLAIN


def _admits(guard: Guard, n: int) -> bool:
    return guard.low <= n and (guard.high is None or n <= guard.high)
