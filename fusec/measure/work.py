"""How much a kernel has to do: arithmetic, and the bytes that must at least be moved, each element counted once."""

from __future__ import annotations

from dataclasses import dataclass

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
    sizes = call.kernel.footprint
    constant = sum(n for o, n in sizes.items() if region.buffers[call.buffers[o]].role == "weight")
    return Work(call.kernel.flops * call.kernel.tiles, constant, sum(sizes.values()) - constant)
