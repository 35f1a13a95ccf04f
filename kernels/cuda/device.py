"""Devices: memory of their own and launches. One protocol, for a GPU and for the emulator.

Everything that a device does happens in order, as in one stream: uploads, launches, downloads. A launch only queues; a failure
of it is raised by the next `synchronise` or `download`. Objects free what they hold when nobody refers to them any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Memory(Protocol):
    """A block of device memory, aligned to 256 bytes; freed when it is dropped."""

    @property
    def address(self) -> int:
        """Its device address."""

    @property
    def nbytes(self) -> int:
        """Its size."""


class Module(Protocol):
    """Code on the device, with the entry that `load` was asked for."""

    @property
    def entry(self) -> str:
        """The kernel's name."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One cooperative launch of a module's entry: its argument is the address of a frame, `shared` is in bytes per block."""

    module: Module
    frame: int
    blocks: int
    shared: int


class Graph(Protocol):
    """Launches that are replayed as one."""

    def replay(self) -> None:
        """Queue the launches, in order."""


class Device(Protocol):
    """One device. ExecutionError where it fails, ResourceError where memory is short."""

    @property
    def name(self) -> str:
        """What to call it in messages, as `NVIDIA H100`."""

    @property
    def level(self) -> str:
        """The level of the target whose code it runs, as `sm_90`."""

    @property
    def multiprocessors(self) -> int:
        """How many it has; the emulator's number is what its caller asked for."""

    @property
    def shared_limit(self) -> int:
        """The most bytes of dynamic shared memory that a block can have."""

    @property
    def memory_free(self) -> int:
        """Bytes that can still be allocated, about."""

    @property
    def abort_address(self) -> int:
        """The device address of the abort word, an int32 that frames point to."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory; its content is undefined."""

    def upload(self, memory: Memory, offset: int, data: npt.NDArray[Any]) -> None:
        """Copy an array's bytes to `offset`; the array may be changed as soon as this returns."""

    def download(self, memory: Memory, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes from `offset` on, after everything that was queued before."""

    def load(self, code: bytes, entry: str) -> Module:
        """Put a module onto the device, or find it there."""

    def resident(self, module: Module, shared: int) -> int:
        """How many blocks of the module with `shared` bytes each fit at once."""

    def launch(self, module: Module, frame: int, blocks: int, shared: int) -> None:
        """Queue a cooperative launch. ExecutionError with the reason where its blocks cannot all be resident."""

    def synchronise(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that was queued is done: False where that takes longer than `timeout_s`.

        ExecutionError where a launch failed. After a failure, the frames of the launches that were queued must be made anew.
        """

    def set_abort(self, value: int) -> None:
        """Write the abort word: blocks that wait leave their kernels soon. Set it to 0 before the next launch."""

    def capture(self, launches: Sequence[Launch]) -> Graph:
        """Launches as a graph."""
