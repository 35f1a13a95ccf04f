"""Nests on a device: whether a thread, a warp or a block computes a point, along which axis neighbours are neighbours in
memory, and how many points are a tile.

A block of 256 threads runs a tile. A tile should bring 16 to 64 KiB from memory: a few microseconds of a multiprocessor's
share of the bandwidth, which pays for handing it out; but there should be several tiles for each of some hundred blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fusec.ir.dim import Dim, Extent, ceildiv, floordiv, maximum, minimum, product, substitute, symbols_of
from fusec.ir.expr import Expr, Load, Ref, walk
from fusec.kernels.cuda.known import program_with
from fusec.kernels.cuda.turn import turned_axis
from fusec.kernels.kernel import Guard, StageTiling, Tiling
from fusec.tile.program import Fold, Let, Stage, Store, TileProgram
from fusec.tiling.lane import stride
from fusec.tiling.product import uses
from fusec.tiling.tiles import bytes_per_step

INVARIANT, CONTIGUOUS, APART = 0.3, 1.0, 8.0
"""Cost of an access of 32 threads that all want one element, neighbouring ones, and elements in as many lines of memory; lines
stay in cache while a thread goes along them, or it would be 32."""
FEW_STEPS = 16
"""Folds of so many steps at most are not worth sharing out."""
MANY_STEPS = 64
"""Folds of so many steps at least are shared by warps where there are fewer points than ..."""
MANY_POINTS = 64 << 10
"""... keep all threads of a device busy alone."""
SQUARE = 32
"""Rows and columns of what is turned at a time."""
LONG = 2048
"""Steps from which on a fold keeps a whole block busy."""
LONG_ALONE = 256
"""The same where a stage has a single point: no other warp has anything to do."""
TILE_BYTES = 64 << 10
LEAST_BYTES = 8 << 10
"""Tiles are not made smaller for the sake of their number."""
TASKS = 512
"""So many tiles there should be, where there is enough work."""
WARPS = 8
MOST_KNOWN = 4
"""Values of a parameter that get a kernel of their own."""
MOST_ROWS = 256
"""Rows of a tile with locals."""
SHARED_BYTES = 48 << 10
"""What the locals of a tile may take, so that four blocks fit on a multiprocessor of Hopper."""
UNIT = 64
"""Points along a lane that a tile is a multiple of."""


class Sizes:
    """What is known of extents: the values that parameters have in the calls of a program."""

    def __init__(self, program: TileProgram, calls: Sequence[Mapping[str, Extent]]) -> None:
        self.program = program
        self.calls = calls

    def values(self, param: str) -> list[int]:
        """The values of a parameter in calls that tell it, the most frequent first."""
        found = Counter(n for call in self.calls if isinstance(n := call[param], int))
        return [n for n, _ in found.most_common()]

    def where(self, param: str, value: int) -> Sizes:
        """Of the calls, those with a value of a parameter."""
        return Sizes(self.program, [call for call in self.calls if call[param] == value])

    def most(self, x: Extent) -> int | None:
        """The largest value of an extent over all calls; None where some call leaves it open."""
        if isinstance(x, int):
            return x
        found = [substitute(x, call) for call in self.calls]
        known = [n for n in found if isinstance(n, int)]
        return max(known) if known and len(known) == len(found) else None

    def least(self, x: Extent) -> int | None:
        """The smallest value of an extent over all calls; None where some call leaves it open."""
        if isinstance(x, int):
            return x
        found = [substitute(x, call) for call in self.calls]
        known = [n for n in found if isinstance(n, int)]
        return min(known) if known and len(known) == len(found) else None


def nest_choices(program: TileProgram, sizes: Sizes) -> tuple[Tiling, ...]:
    """The tilings of a program whose stages are all nests, in the order in which they are tried.

    Locals lie in shared memory where their size is known, so there is a tiling for each value of the parameter that decides.
    """
    out = [_tiling(program, sizes)]
    param = _deciding(program)
    for n in sizes.values(param)[:MOST_KNOWN] if param else ():
        known = program_with(program, {param: n})
        row = _local_bytes(known)
        if isinstance(row, int) and row <= SHARED_BYTES:
            out.insert(-1, _tiling(known, sizes.where(param, n), Guard(param, n, n)))
    return tuple(out)


def _tiling(program: TileProgram, sizes: Sizes, guard: Guard | None = None) -> Tiling:
    stages = tuple(nest_stage(program, s, sizes) for s in program.stages)
    return Tiling(_tile(program, stages), stages, guard=guard)


def _deciding(program: TileProgram) -> str:
    """The parameter that decides how large the locals of a row are; "" where none does, or several."""
    found = symbols_of(_local_bytes(program))
    return min(found) if len(found) == 1 else ""


def _local_bytes(program: TileProgram) -> Extent:
    """Bytes of all locals for one index of every task axis."""
    task = {a.name for a in program.axes}
    total: Extent = 0
    for o in program.operands:
        indices = [x.index for s in program.stages for x in s.stores if x.operand == o.name]
        if o.role == "local" and indices:
            own = [d for d, i in zip(o.shape, indices[0], strict=True) if not uses(i, task)]
            total = total + product(own) * o.dtype.itemsize
    return total


def _axes_of_locals(program: TileProgram) -> frozenset[str]:
    """The task axes along which locals hold a tile's part."""
    names = {o.name for o in program.operands if o.role == "local"}
    entries = [i for s in program.stages for x in s.stores if x.operand in names for i in x.index]
    return frozenset(a.name for a in program.axes if any(uses(i, {a.name}) for i in entries))


def nest_stage(program: TileProgram, stage: Stage, sizes: Sizes) -> StageTiling:
    """The template of one stage and its lane."""
    lane, alone = _best_points(program, stage)
    if stage.folds and stage.ordered():
        return _following(program, stage, sizes, lane)
    if not stage.folds or stage.ordered():
        return _moved(program, stage, lane)
    steps = product(a.extent for a in stage.folds)
    fold = stage.folds[-1].name
    shared = sum(_cost(program, x, fold) for x in _inside(stage))
    most, least = sizes.most(steps), sizes.least(steps)
    if lane and most is not None and most <= FEW_STEPS:
        return StageTiling("points", lane)
    if lane and alone < shared:
        points = sizes.least(product(program.axis[a].extent for a in stage.axis_names))
        many = points is not None and points >= MANY_POINTS
        return StageTiling("points" if many or (most is not None and most < MANY_STEPS) else "columns", lane)
    row = _local_bytes(program)
    is_wide = isinstance(row, int) and SHARED_BYTES // WARPS < row <= SHARED_BYTES
    is_long = least is not None and least >= (LONG if lane else LONG_ALONE)
    return StageTiling("block" if is_wide or is_long else "warp", fold)


def _following(program: TileProgram, stage: Stage, sizes: Sizes, lane: str) -> StageTiling:
    """A stage whose points follow each other: their folds are all that can be shared out. Of few lines, and of long folds, each
    is the work of a block."""
    steps = product(a.extent for a in stage.folds)
    most = sizes.most(steps)
    if most is not None and most <= FEW_STEPS:
        return StageTiling("points", lane)
    lines = sizes.least(product(program.axis[a].extent for a in stage.axis_names if a not in stage.ordered()))
    many = lines is not None and lines >= TASKS * WARPS and most is not None and most < LONG_ALONE
    return StageTiling("warp" if many else "block", stage.folds[-1].name)


def _moved(program: TileProgram, stage: Stage, lane: str) -> StageTiling:
    """A stage without folds: through squares where it writes along one axis what it reads along another."""
    steps = {a: [_stride(program, s, a) for s in stage.stores] for a in stage.axis_names}
    along = [a for a in reversed(stage.axis_names) if all(n == 1 for n in steps[a])]
    for axis in along:
        other = turned_axis(program, stage, axis)
        if other and all(_is_long(program.axis[a].extent) for a in (axis, other)):
            return StageTiling("turn", axis)
    return StageTiling("points", lane)


def _stride(program: TileProgram, store: Store, axis: str) -> Extent | None:
    return stride(program, store.operand, store.index, axis)


def _is_long(extent: Extent) -> bool:
    return not isinstance(extent, int) or extent >= SQUARE // 2


def _best_points(program: TileProgram, stage: Stage) -> tuple[str, float]:
    """The axis along which a thread per point reaches memory best, and what its accesses inside folds then cost."""
    names = [a for a in reversed(stage.axis_names) if a not in stage.ordered()]
    if not names:
        return "", sum(_cost(program, x, "") for x in _inside(stage))
    inside = _inside(stage)
    once = [(x.operand, x.index) for x in stage.loads() if x not in inside]
    once += [(s.operand, s.index) for s in stage.stores]

    def cost(axis: str) -> float:
        total = sum(_cost(program, x, axis) for x in inside)
        steps = 8 if stage.folds else 1
        total += sum(_access(program, o, i, axis) for o, i in once) / steps
        extent = program.axis[axis].extent
        return total * (32 / extent if isinstance(extent, int) and 0 < extent < 32 else 1.0)

    best = min(names, key=lambda a: cost(a) + 1e-6 * names.index(a))
    return best, sum(_cost(program, x, best) for x in inside)


def _inside(stage: Stage) -> list[Load]:
    """The loads that fold loops repeat."""
    lets = {s.name: s.value for s in stage.body if isinstance(s, Let)}
    folds = {a.name for a in stage.folds}
    todo: list[Expr] = [a for s in stage.body if isinstance(s, Fold) for a in s.args]
    seen = set[str]()
    out: dict[Load, None] = {}
    while todo:
        for x in walk(todo.pop()):
            if isinstance(x, Ref) and x.name in lets and x.name not in seen:
                seen.add(x.name)
                todo.append(lets[x.name])
            elif isinstance(x, Load) and _symbols(x) & folds:
                out[x] = None
    return list(out)


def _symbols(x: Load) -> frozenset[str]:
    return frozenset(
        s for y in walk(x) if isinstance(y, Load) for i in y.index if isinstance(i, Dim) for s in i.symbols
    )


def _cost(program: TileProgram, x: Load, axis: str) -> float:
    return _access(program, x.operand, x.index, axis)


def _access(program: TileProgram, operand: str, index: Sequence[Extent | Expr], axis: str) -> float:
    if program.operand[operand].role == "scalar":
        return 0.0
    step = stride(program, operand, index, axis) if axis else 0
    return INVARIANT if step == 0 else CONTIGUOUS if step == 1 else APART


# ---- tiles


def _tile(program: TileProgram, stages: Sequence[StageTiling]) -> tuple[tuple[str, Extent], ...]:
    """From the innermost task axis outwards: as many points as the budget of bytes holds, or as make enough tiles."""
    out: list[tuple[str, Extent]] = []
    inner: dict[str, Extent] = {}
    row = _local_bytes(program)
    rows = min(MOST_ROWS, max(1, SHARED_BYTES // max(1, row))) if isinstance(row, int) else MOST_ROWS
    total: Extent = 1
    for axis in program.axes:
        total = total * (1 if axis.sequential else maximum(1, axis.extent))
    turned, held, places = _turned(program, stages), _axes_of_locals(program), _places(program)
    for axis in reversed(program.axes):
        if axis.name in turned:
            out.append((axis.name, UNIT))
            inner[axis.name] = minimum(UNIT, maximum(1, axis.extent))
            continue
        size = maximum(1, bytes_per_step(program, axis.name, inner)) * places
        unit = _unit(program, stages, axis.name, not inner)
        whole = maximum(1, axis.extent)
        inside: Extent = product(inner.values())
        most = maximum(1, floordiv(TILE_BYTES, size * unit))
        least = maximum(1, floordiv(LEAST_BYTES, size * unit))
        enough = maximum(1, ceildiv(floordiv(total, inside * TASKS), unit))
        tile: Extent = unit * minimum(most, maximum(least, enough))
        if axis.name in held:
            tile = minimum(tile, max(1, rows // unit) * unit if not inner else 1)
        out.append((axis.name, 1 if axis.sequential else tile))
        inner[axis.name] = whole
    return tuple(reversed(out))


def _places(program: TileProgram) -> int:
    """How many places of one operand a point touches at most: a point of Winograd's transforms is a whole tile of pixels."""
    most = 1
    for s in program.stages:
        touched = {(x.operand, x.index) for x in s.loads()} | {(x.operand, x.index) for x in s.stores}
        most = max(most, *Counter(operand for operand, _ in touched).values())
    return most


def _turned(program: TileProgram, stages: Sequence[StageTiling]) -> set[str]:
    """The axes of what is turned: a tile is a few squares."""
    pairs = ((s, t) for s, t in zip(program.stages, stages, strict=True) if t.template == "turn")
    return {a for s, t in pairs for a in (t.lane, turned_axis(program, s, t.lane))}


def _unit(program: TileProgram, stages: Sequence[StageTiling], axis: str, innermost: bool) -> int:
    """What a tile along an axis is a multiple of: threads side by side along a lane, or a row per warp. 1 where blocks take one
    index after the other."""
    pairs = list(zip(program.stages, stages, strict=True))
    if any(t.template == "block" and s.ordered() and axis in s.axis_names for s, t in pairs):
        return 1
    for t in stages:
        if t.template in ("points", "columns") and t.lane == axis:
            return UNIT if t.template == "points" else SQUARE
    rows = (t.template == "warp" and axis in s.axis_names for s, t in zip(program.stages, stages, strict=True))
    return WARPS if innermost and any(rows) else 1
