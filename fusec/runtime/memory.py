"""Memory for the runtime: aligned blocks whose addresses machine code may keep."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Arenas, scratch, weights and tables start on a cache line."""

HUGE = 32 << 20
"""Blocks from here on are mapped on their own, so that freeing them gives the memory back to the system at once."""

WordArray = npt.NDArray[np.int64]


class Block:
    """Zeroed bytes at an aligned address; they live as long as the object."""

    __slots__ = ("_keep", "address", "bytes", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        buffer: Any = mmap.mmap(-1, size + ALIGNMENT) if size >= HUGE else np.zeros(size + ALIGNMENT, np.uint8)
        whole = np.frombuffer(buffer, np.uint8)
        start = -address_of(whole) % ALIGNMENT
        self.bytes = whole[start : start + size]
        self.address = address_of(whole) + start
        self._keep = buffer

    @property
    def words(self) -> WordArray:
        """The block as 64-bit words; its size is a multiple of eight bytes."""
        return self.bytes.view(np.int64)


def address_of(array: npt.NDArray[Any]) -> int:
    """The address of an array's first element."""
    return int(array.__array_interface__["data"][0])


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is C-contiguous at an aligned address, else a copy that is."""
    if array.flags.c_contiguous and address_of(array) % ALIGNMENT == 0:
        return array
    block = Block(array.nbytes)
    copy = block.bytes.view(array.dtype).reshape(array.shape) if array.nbytes else np.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def data_offset() -> int:
    """Where an ndarray object keeps its data pointer, or -1 where that cannot be told.

    Asking numpy for the pointer costs 1.5 us, four times a foreign call. The field is the first of numpy's public
    structure and its place part of the binary interface; it is looked for here all the same, never assumed.
    """
    import ctypes

    arrays: list[npt.NDArray[Any]] = [np.zeros(3, np.float32), np.zeros((2, 2))[1:], np.zeros(64, np.uint8)[5:]]
    for offset in (16, 24, 32):
        if all(ctypes.c_int64.from_address(id(a) + offset).value == address_of(a) for a in arrays):
            return offset
    return -1
