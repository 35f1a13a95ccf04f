"""How long a tile takes on one multiprocessor, estimated from what it computes and moves: for balance, and for the watchdog."""

from __future__ import annotations

from fusec.ir.expr import TRANSCENDENTAL, Prim, walk
from fusec.kernels.cuda.rates import TILE_OVERHEAD, Rates, rates_of
from fusec.kernels.kernel import BoundKernel
from fusec.target import Target
from fusec.tile.program import Fold, Stage
from fusec.tiling.device.speeds import OF_TEMPLATE, Shapes

PRODUCTS = frozenset(["simt", "mma", "wgmma", "gemv", "stream"])
"""Templates that multiply matrices: two operations per step of their sum."""


RESIDENT = 100e3
"""Operations of products with weights that are kept: each weight is read from shared memory once a step."""
TRANSCENDENTAL_OPERATIONS = 12.0


def device_microseconds(bound: BoundKernel, target: Target) -> float:
    """Microseconds of one average tile on one multiprocessor."""
    if bound.tiles == 0:
        return 0.0
    rates = rates_of(target)
    busy = _busy(bound, rates, {})
    if any(a.sequential for a in bound.kernel.program.axes):
        return TILE_OVERHEAD + max(busy / bound.tiles, (bound.bytes - _kept(bound)) / rates.kept)
    moved = sum(bound.footprint.values()) / bound.tiles  # what one tile reads again of another's is in the shared cache
    return TILE_OVERHEAD + max(busy / bound.tiles, moved / rates.bytes, bound.bytes / rates.kept)


def alone_microseconds(bound: BoundKernel, target: Target, multiprocessors: int) -> float:
    """Microseconds of all tiles on a device that does nothing else.

    Few tiles have the memory's bandwidth to themselves, but none takes more of it than it takes of the shared cache.
    """
    if bound.tiles == 0:
        return 0.0
    rates = rates_of(target)
    tile = TILE_OVERHEAD + max(_busy(bound, rates, OF_TEMPLATE) / bound.tiles, bound.bytes / rates.kept)
    waves = -(-bound.tiles // multiprocessors)
    return max(waves * tile, TILE_OVERHEAD + sum(bound.footprint.values()) / (rates.bytes * multiprocessors))


def _busy(bound: BoundKernel, rates: Rates, speeds: Shapes) -> float:
    """Microseconds that all tiles compute, one after the other; `speeds` of block tiles where they are to be told apart."""
    busy = 0.0
    for stage, tiling in zip(bound.kernel.program.stages, bound.kernel.tiling.stages, strict=True):
        points = 1.0
        for a in stage.axis_names:
            points *= bound.extents[a]
        folded = points
        for f in stage.folds:
            folded *= bound.extents[f.name]
        if tiling.template in PRODUCTS and stage.folds:
            speed = speeds.get((tiling.template, tiling.rows, tiling.vectors), 1.0)
            busy += 2.0 * folded / (rates.products.get(tiling.template, RESIDENT) * speed)
            folded = 0.0
        busy += (points * _operations(stage, False) + folded * _operations(stage, True)) / rates.nests
    return busy


def _kept(bound: BoundKernel) -> float:
    """Bytes of weights that an average tile finds where the one before left them."""
    if not bound.kernel.keeps:
        return 0.0
    total = 0.0
    for name, box in bound.reads.items():
        operand = bound.kernel.program.operand[name]
        if operand.role == "weight":
            total += float((box[:, :, 1] - box[:, :, 0]).prod(1).sum()) * operand.dtype.itemsize
    return total / bound.tiles


def _operations(stage: Stage, inside: bool) -> float:
    """Operations per point, of the folds' arguments or of everything else; each statement counts for its memory access."""
    total = 0.0
    for s in stage.body:
        if isinstance(s, Fold) is inside:
            for e in s.args if isinstance(s, Fold) else (s.value,):
                total += 1.0 + sum(
                    TRANSCENDENTAL_OPERATIONS if x.name in TRANSCENDENTAL else 1.0
                    for x in walk(e)
                    if isinstance(x, Prim)
                )
    return total
