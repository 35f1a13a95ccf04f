"""An opened device: what the sessions of a process share of it, and the order in which threads use it.

Calls are queued in one order, so threads take turns queueing. The abort word is the whole device's: whoever sets it ends the
launches of all, so it is set and taken back behind a gate, and everybody whose launches may have been cut off runs again.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from fusec.errors import BugError, ExecutionError
from fusec.kernels import backend
from fusec.target import Target

if TYPE_CHECKING:
    from fusec.kernels.cuda.device import Device

GRACE_SECONDS = 10.0
"""So long blocks have to notice the abort word."""


def has_own_memory(target: Target) -> bool:
    """Whether plans for a target run on a device with memory of its own."""
    return backend.device(target.kind) is not None


_EMULATOR = threading.RLock()
"""Emulated devices take turns, all of a process: those that run the same module share its runtime."""


class Opened:
    """A device, its locks, and how often launches were aborted on it."""

    def __init__(self, device: Device, is_emulated: bool) -> None:
        self.device = device
        self.is_emulated = is_emulated
        self.gate = _EMULATOR if is_emulated else threading.RLock()
        self.aborts = 0

    @property
    def turn(self) -> AbstractContextManager[object]:
        """To be held while waiting: the emulator does its work then, for one thread at a time."""
        return self.gate if self.is_emulated else nullcontext()

    def abort(self) -> None:
        """End whatever runs. ExecutionError where the device does not come back."""
        with self.gate:
            self.device.set_abort(1)
            try:
                is_back = self.device.synchronise(GRACE_SECONDS)
            finally:
                self.device.set_abort(0)
                self.aborts += 1
        if not is_back:
            raise ExecutionError(
                f"{self.device.name} does not come back from a launch that was aborted",
                hint="start a new process; `fusec doctor` shows the device",
            )


_opened: dict[tuple[Target, int | None], Opened] = {}
_lock = threading.Lock()


def open_target(target: Target, blocks: int | None = None) -> Opened:
    """The device for a target, opened once per process. `blocks` is how many an emulated one runs at once.

    ExecutionError that says what is missing where this machine has none.
    """
    level = target.level.removesuffix(backend.EMULATED)
    is_emulated = level != target.level
    key = target, blocks if is_emulated else None
    with _lock:
        if key not in _opened:
            if is_emulated:
                from fusec.kernels.cuda.emulator.device import BLOCKS, EmulatedDevice

                _opened[key] = Opened(EmulatedDevice(level, blocks or BLOCKS), True)
            else:
                maker = backend.device(target.kind)
                if maker is None:
                    raise BugError(f"{target} has no memory of its own")
                _opened[key] = Opened(maker.open(level), False)
        return _opened[key]
