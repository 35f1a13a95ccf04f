"""How much a kernel has to do: arithmetic, and the bytes that must at least be moved, each element counted once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from fusec.ir.dim import Dim
from fusec.kernels.kernel import BoundKernel
from fusec.schedule.region import BoundCall, BoundRegion


@dataclass(frozen=True)
class Work:
    """What one call computes and moves. `weights` are bytes of constants, `activations` of everything else."""

    flops: float
    weights: float
    activations: float

    @property
    def bytes(self) -> float:
        """All bytes."""
        return self.weights + self.activations


def work_of(call: BoundCall, region: BoundRegion) -> Work:
    """The work of a whole call. Overlapping reads (of a convolution's input) and repeated ones (of weights) count once."""
    sizes = operand_bytes(call.kernel)
    constant = sum(n for o, n in sizes.items() if region.buffers[call.buffers[o]].role == "weight")
    return Work(call.kernel.flops * call.kernel.tiles, constant, sum(sizes.values()) - constant)


def operand_bytes(kernel: BoundKernel) -> dict[str, float]:
    """Operand -> bytes of it that the call touches: the hull of all tiles; of gathered operands what is gathered."""
    operands, gathered, out = kernel.kernel.program.operand, _gathered(kernel), dict[str, float]()
    for boxes in (kernel.reads, kernel.writes):
        for name, box in boxes.items():
            touched = float((box[..., 1].max(0) - box[..., 0].min(0)).prod()) if len(box) else 0.0
            touched = min(touched, gathered.get(name, touched))
            out[name] = max(out.get(name, 0.0), touched * operands[name].dtype.itemsize)
    return out


def _gathered(kernel: BoundKernel) -> dict[str, float]:
    """Operand read through an index from memory -> how many elements are asked for."""
    out: dict[str, float] = {}
    for stage in kernel.kernel.program.stages:
        points = float(prod(kernel.extents[a] for a in (*stage.axis_names, *(f.name for f in stage.folds))))
        for load in stage.loads():
            if not all(isinstance(i, int | Dim) for i in load.index):
                out[load.operand] = out.get(load.operand, 0.0) + points
    return out
