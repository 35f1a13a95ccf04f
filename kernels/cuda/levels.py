"""The levels of NVIDIA's GPUs that code is made for: what each compiles as, runs on and can hold.

Numbers are those of the CUDA C++ Programming Guide, "Compute Capabilities", and of NVIDIA's data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass

Capability = tuple[int, int]
WALK = 1 << 10
"""Bytes that the task loop takes of a block's shared memory (tasks.cuh), rounded up to where dynamic memory may begin."""


@dataclass(frozen=True, slots=True)
class Level:
    """A level by its name, as `sm_80`.

    `architecture` is what NVRTC compiles for; `capability` the oldest device that runs the code, later minors of the same major
    do as well unless `is_exact`. `instructions` says as FX_ARCH which of them bodies may use: 800 (mma.sync, cp.async) or 900
    (wgmma and bulk copies besides). `shared` are the bytes of shared memory that bodies can have at most;
    `multiprocessors` those of the largest common device.
    """

    name: str
    architecture: str
    capability: Capability
    is_exact: bool
    instructions: int
    block: int
    multiprocessors: int

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory that a body can have."""
        return self.block - WALK

    @property
    def has_wgmma(self) -> bool:
        """Whether a warpgroup multiplies from shared memory, and bulk copies fill that."""
        return self.instructions >= 900

    def runs_on(self, capability: Capability) -> bool:
        """Whether a device of a compute capability executes the code."""
        if self.is_exact:
            return capability == self.capability
        return capability[0] == self.capability[0] and capability[1] >= self.capability[1]


LEVELS = {
    x.name: x
    for x in (
        Level("sm_90", "sm_90a", (9, 0), True, 900, 227 << 10, 132),  # H100, H200: wgmma exists nowhere else
        Level("sm_100", "sm_100", (10, 0), False, 800, 227 << 10, 148),  # B200, B300
        Level("sm_120", "sm_120", (12, 0), False, 800, 99 << 10, 170),  # RTX 50
        Level("sm_86", "sm_86", (8, 6), False, 800, 99 << 10, 84),  # RTX 30 and 40, A10, A40, L4, L40
        Level("sm_80", "sm_80", (8, 0), False, 800, 163 << 10, 108),  # A100
    )
}
"""All levels by name. Where a device runs the code of two, the first suits it better."""
