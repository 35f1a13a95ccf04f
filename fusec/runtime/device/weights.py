"""A plan's weights in device memory: each is copied when a region that reads it is first planned, and stays."""

from __future__ import annotations

import threading

import numpy as np

from fusec.kernels.cuda.device import Memory
from fusec.runtime.device.opened import Opened
from fusec.runtime.weights import Weights
from fusec.schedule.region import BoundCall


class DeviceWeights:
    """Device addresses for kernels. Keeps what it hands out alive."""

    def __init__(self, weights: Weights, opened: Opened) -> None:
        self._weights, self._opened = weights, opened
        self._memory: dict[tuple[str, str], Memory] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Device memory of the weights that are there."""
        return sum(m.nbytes for m in self._memory.values())

    def address(self, call: BoundCall, operand: str) -> int:
        """Where a call finds a weight operand. BugError where the plan has not packed it as its kernel wants it."""
        key = self._weights.find(call, operand)
        with self._lock:
            found = self._memory.get(key)
            if found is None:
                stored = np.ascontiguousarray(self._weights.stored(key))
                with self._opened.gate:
                    found = self._opened.device.allocate(max(1, stored.nbytes))
                    if stored.nbytes:
                        self._opened.device.upload(found, 0, stored)
                self._memory[key] = found
            return found.address
