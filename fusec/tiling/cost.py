"""How long a tile takes, estimated from what it computes and moves: for balancing workers, not for choosing kernels."""

from __future__ import annotations

from fusec.ir.expr import TRANSCENDENTAL, Prim, walk
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.kernel import BoundKernel
from fusec.target import ISAS, Target
from fusec.tile.program import Fold, Stage

PRODUCT_RATE = {"generic": 25e3, "avx2": 80e3, "avx512": 130e3, "neon": 25e3}
"""Flops per microsecond of matrix products on register tiles, one core."""
NEST_RATE = {"generic": 5e3, "avx2": 25e3, "avx512": 40e3, "neon": 5e3}
"""Operations per microsecond of vectorised loop nests. Levels of other back ends count as the slowest."""
BYTES_RATE = 20e3
"""Bytes per microsecond from beyond the second level cache."""
KEPT_RATE = 55e3
"""Bytes per microsecond of weights that a kernel with steps reads again in each of them."""
TRANSCENDENTAL_OPERATIONS = 16.0
TILE_OVERHEAD = 0.05
"""Microseconds to enter a tile."""


def tile_microseconds(bound: BoundKernel, target: Target) -> float:
    """Microseconds of one average tile on one core, or one multiprocessor of a GPU."""
    if target.kind == "cuda":
        from fusec.tiling.device.cost import device_microseconds

        return device_microseconds(bound, target)
    if bound.tiles == 0:
        return 0.0
    level = ISAS[target.level].name if target.level in ISAS else "generic"
    busy = 0.0
    for stage, tiling in zip(bound.kernel.program.stages, bound.kernel.tiling.stages, strict=True):
        points = 1.0
        for a in stage.axis_names:
            points *= bound.extents[a]
        folded = points
        for f in stage.folds:
            folded *= bound.extents[f.name]
        if tiling.template == "contract" or (tiling.template == "stream" and contraction(stage) is not None):
            busy += 2.0 * folded / PRODUCT_RATE[level]
            folded = 0.0
        operations = points * _operations(stage, inside=False) + folded * _operations(stage, inside=True)
        busy += operations / NEST_RATE[level]
    if any(a.sequential for a in bound.kernel.program.axes):
        return TILE_OVERHEAD + max(busy / bound.tiles, bound.bytes / KEPT_RATE)
    moved = sum(bound.footprint.values()) / bound.tiles  # what one tile reads again of another's is in a cache
    return TILE_OVERHEAD + max(busy / bound.tiles, moved / BYTES_RATE)


def _operations(stage: Stage, inside: bool) -> float:
    """Operations per point, of the folds' arguments or of everything else; each statement counts for its memory access."""
    total = 0.0
    for s in stage.body:
        if isinstance(s, Fold) is inside:
            expressions = s.args if isinstance(s, Fold) else (s.value,)
            for e in expressions:
                total += 1.0 + sum(_weight(x.name) for x in walk(e) if isinstance(x, Prim))
    return total


def _weight(name: str) -> float:
    return TRANSCENDENTAL_OPERATIONS if name in TRANSCENDENTAL else 1.0
