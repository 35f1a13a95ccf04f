"""Recurrent layers whose weights stay in shared memory: which programs, and how many columns a block keeps.

A step of a layer is short: from the shared cache a block reads its part of the recurrent matrix in microseconds, from its own
shared memory in half a one. So each block keeps some columns of all gates and computes these at every step. More columns are
more to read; fewer are more blocks, of which all layers that run side by side need some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from fusec.ir.dim import Extent, ceildiv, symbols_of
from fusec.kernels.backend import EMULATED
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda.known import program_with
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.resident_shape import ROWS, TEMPLATE, resident, residents
from fusec.kernels.kernel import Guard, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.program import TileProgram
from fusec.tiling.device.nest import MOST_KNOWN, Sizes, nest_stage

WIDTHS = (128, 64, 32, 16, 8)
FEW_ROWS = 8
"""Rows of a tile."""
OPEN_ROWS = 4
"""Rows that are multiplied at a time where their number is open; a single one is always multiplied alone."""
SPARE_BYTES = 8 << 10
"""Shared memory for locals."""
SHARE = 0.97
"""Of all multiprocessors: the rest projects inputs."""
MEETING, EACH, ALONE = 2.0, 0.02, 0.8
"""Microseconds of a step besides its product: where blocks wait for each other, for each of them, and where a layer has only
one."""
SHARED_BYTES, OPERATIONS = 200e3, 200e3
"""What a multiprocessor reads of shared memory and multiplies in a microsecond: 128 bytes and 256 operations per cycle, less
what comes in between."""


@dataclass(frozen=True, slots=True)
class ResidentChoice:
    """A tiling whose weights are kept; None where that is not possible, and `why`."""

    tiling: Tiling | None
    why: str = ""


def is_recurrent(program: TileProgram) -> bool:
    """Whether a program runs in steps that multiply with a matrix."""
    return any(a.sequential for a in program.axes) and any(contraction(s) is not None for s in program.stages)


def resident_choices(
    program: TileProgram, target: Target, calls: Iterable[Mapping[str, Extent]]
) -> list[ResidentChoice]:
    """One for each size of the recurrent matrix that the calls of a program name, the most frequent first; at least one."""
    calls = list(calls)
    folds = {s for stage in program.stages if contraction(stage) for a in stage.folds for s in symbols_of(a.extent)}
    if len(folds) != 1:
        return [ResidentChoice(None, "its sums have more than one length")]
    (param,) = folds
    sizes = Sizes(program, calls)
    values = sizes.values(param)
    if not values or any(not isinstance(c[param], int) for c in calls):
        return [ResidentChoice(None, "the size of its recurrent matrix is not known")]
    return [_choice(program, target, sizes.where(param, n), Guard(param, n, n)) for n in values[:MOST_KNOWN]]


def _choice(program: TileProgram, target: Target, sizes: Sizes, guard: Guard) -> ResidentChoice:
    level = LEVELS[target.level.removesuffix(EMULATED)]
    known = program_with(program, {guard.param: guard.low})
    available = SHARE * level.multiprocessors
    best: tuple[float, Tiling] | None = None
    least, fewest = 0, 0
    for width in _widths(known, guard.low):
        tiling = _tiling(known, sizes, guard, width)
        found = residents(known, tiling)
        if not found:
            return ResidentChoice(None, "its weights are no constants, or are not read as a matrix")
        shared = sum(r.kept + r.working for r in found) + SPARE_BYTES
        least = min(least or shared, shared)
        if shared > level.shared:
            continue
        blocks = _blocks(known, sizes, tiling)
        fewest = min(fewest or blocks, blocks)
        if blocks > available:
            continue
        busy = sum(r.kept / SHARED_BYTES + 2.0 * r.rows * r.depth * r.columns / OPERATIONS for r in found)
        turns = ceil(len(sizes.calls) * blocks / available)
        cost = ((MEETING + blocks * EACH if blocks > 1 else ALONE) + busy) * turns
        if best is None or cost < best[0]:
            best = cost, tiling
    if best is not None:
        return ResidentChoice(best[1])
    if fewest:
        return ResidentChoice(
            None, f"a step needs {fewest} blocks, and {level.name} has {level.multiprocessors} multiprocessors"
        )
    return ResidentChoice(None, f"a block would need {least:,} bytes, and {level.name} has {level.shared:,}")


def _widths(known: TileProgram, hidden: int) -> list[int]:
    """Numbers of columns that a block may keep; one where all columns are one tile."""
    columns = {f.n for s in known.stages if (f := contraction(s)) is not None}
    if not columns & {a.name for a in known.axes}:
        return [WIDTHS[-1]]
    return [n for n in WIDTHS if n < 2 * hidden] or [WIDTHS[-1]]


def _tiling(known: TileProgram, sizes: Sizes, guard: Guard, width: int) -> Tiling:
    """The tiling whose blocks keep so many columns of each gate."""
    forms = [contraction(s) for s in known.stages]
    heights = [sizes.most(known.axis[f.m].extent) if f.m else 1 for f in forms if f is not None]
    rows, height = OPEN_ROWS, FEW_ROWS
    if None not in heights:
        most = max(n for n in heights if n is not None)
        rows = height = next((n for n in ROWS if n >= most), ROWS[-1])
    columns = {f.n for f in forms if f is not None}
    tile = {a.name: 1 if a.sequential else width if a.name in columns else height for a in known.axes}
    stages = []
    for stage in known.stages:
        found = resident(known, stage, tile, rows)
        stages.append(nest_stage(known, stage, sizes) if found is None else StageTiling(TEMPLATE, found.form.n, rows))
    return Tiling(tuple(tile.items()), tuple(stages), (), guard)


def _blocks(known: TileProgram, sizes: Sizes, tiling: Tiling) -> int:
    """Tiles of a step; where rows are open, of few rows."""
    total = 1
    for axis, extent in tiling.tile:
        if not known.axis[axis].sequential:
            most = sizes.most(ceildiv(known.axis[axis].extent, extent))
            total *= 1 if most is None else most
    return total
