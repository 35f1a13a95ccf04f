"""Copies between host and device through two pinned buffers: while one is filled or emptied, the other one is on the bus."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 8 << 20
"""Bytes of a buffer: long enough for the bus' full speed, short enough that small copies do not wait."""


class _Buffer:
    """Pinned memory, as an array, and an event that says when the last copy from or to it was over."""

    def __init__(self, cupy: Any, nbytes: int) -> None:
        self.memory = cupy.cuda.alloc_pinned_memory(nbytes)
        self.address = int(self.memory.ptr)
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))
        self.free = cupy.cuda.Event(disable_timing=True)


class Staging:
    """The buffers of one stream; they are allocated when the first copy comes. Calls must not overlap."""

    def __init__(self, cupy: Any, stream: Any, chunk: int = CHUNK) -> None:
        self._cupy, self._runtime, self._stream, self._chunk = cupy, cupy.cuda.runtime, stream, chunk
        self._buffers: tuple[_Buffer, ...] = ()
        self._turn = 0

    def upload(self, address: int, data: npt.NDArray[np.uint8]) -> None:
        """Queue copies of bytes to a device address; `data` has been read when this returns."""
        for at in range(0, data.size, self._chunk):
            part = data[at : at + self._chunk]
            buffer = self._next()
            buffer.bytes[: part.size] = part
            self._runtime.memcpyAsync(
                address + at, buffer.address, part.size, self._runtime.memcpyHostToDevice, self._stream.ptr
            )
            buffer.free.record(self._stream)

    def download(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes at a device address, once everything that was queued before is done."""
        out = np.empty(nbytes, np.uint8)
        pending: tuple[_Buffer, int, int] | None = None
        for at in range(0, nbytes, self._chunk):
            size = min(self._chunk, nbytes - at)
            buffer = self._next()
            self._runtime.memcpyAsync(
                buffer.address, address + at, size, self._runtime.memcpyDeviceToHost, self._stream.ptr
            )
            buffer.free.record(self._stream)
            if pending is not None:
                _empty(*pending, out)
            pending = buffer, at, size
        if pending is None:
            self._stream.synchronize()  # no bytes are wanted: the failure of a launch is all the same
        else:
            _empty(*pending, out)
        return out

    def _next(self) -> _Buffer:
        """The buffer whose turn it is, once its last copy is over."""
        if not self._buffers:
            self._buffers = tuple(_Buffer(self._cupy, self._chunk) for _ in range(2))
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn]
        buffer.free.synchronize()
        return buffer


def _empty(buffer: _Buffer, at: int, size: int, out: npt.NDArray[np.uint8]) -> None:
    buffer.free.synchronize()
    out[at : at + size] = buffer.bytes[:size]
