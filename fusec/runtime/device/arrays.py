"""Arrays in device memory: what regions read and make, and what a caller may feed or get without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import InputError
from fusec.kernels.cuda.exchange import Foreign, give, is_foreign, take, wait_for
from fusec.runtime.device.opened import Opened

Array = npt.NDArray[Any]
_HOST_DEVICE = (1, 0)
"""How DLPack names memory of the process, which plays the device where that is emulated."""


class DeviceArray:
    """C-contiguous elements in the memory of a device.

    `numpy()` copies them to the host, once. Other libraries take them without a copy: `__dlpack__` and, on a GPU,
    `__cuda_array_interface__`. On an emulated device they are memory of this process.
    """

    __slots__ = ("_host", "address", "dtype", "opened", "owner", "shape")

    def __init__(self, opened: Opened, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any) -> None:
        self.opened = opened
        self.address = address
        self.shape = shape
        self.dtype = dtype
        self.owner = owner
        self._host: Array | None = None

    @staticmethod
    def empty(opened: Opened, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Memory of its own, with undefined content."""
        memory = opened.device.allocate(max(1, prod(shape) * dtype.itemsize))
        return DeviceArray(opened, memory.address, shape, dtype, memory)

    @staticmethod
    def of(opened: Opened, array: Array) -> DeviceArray:
        """A copy of a host array."""
        made = DeviceArray.empty(opened, array.shape, array.dtype)
        if array.nbytes:
            with opened.gate:
                opened.device.upload(made.owner, 0, array)
        return made

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize

    def reshape(self, shape: Sequence[int]) -> DeviceArray:
        """The same elements in another shape."""
        return DeviceArray(self.opened, self.address, tuple(int(n) for n in shape), self.dtype, self.owner)

    def numpy(self) -> Array:
        """The elements on the host, after everything that was queued before; copied when first asked for."""
        if self._host is None:
            self._host = self.download()
        return self._host

    @property
    def is_on_host(self) -> bool:
        """Whether `numpy()` was asked for before."""
        return self._host is not None

    def download(self) -> Array:
        """A fresh copy on the host."""
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        device = self.opened.device
        with self.opened.gate:
            if self.opened.is_emulated:
                device.synchronise()
                return self._view().copy()
            raw = device.download(_Part(self.address, self.nbytes), 0, self.nbytes)
        return raw.view(self.dtype).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self.numpy() if not copy else self.download()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self.opened.device.name})"

    def __dlpack_device__(self) -> tuple[int, int]:
        return _HOST_DEVICE if self.opened.is_emulated else self._foreign().__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if self.opened.is_emulated:
            return self._view().__dlpack__()
        return self._foreign().__dlpack__(**options)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.opened.is_emulated:
            raise AttributeError("an emulated device has no memory that CUDA can reach")
        found: dict[str, Any] = self._foreign().__cuda_array_interface__
        return found

    def _view(self) -> Array:
        """The elements where they are: only where the device is this process."""
        held = (ctypes.c_uint8 * max(1, self.nbytes)).from_address(self.address)
        held.owner = self.owner  # type: ignore[attr-defined] # the view keeps the memory alive
        return np.ctypeslib.as_array(held)[: self.nbytes].view(self.dtype).reshape(self.shape)

    def _foreign(self) -> Any:
        """The same elements as another library's array that lies on the GPU."""
        if not isinstance(self.owner, Foreign):
            device: Any = self.opened.device
            return give(device.cupy, self.owner.pointer, self.address - self.owner.address, self.shape, self.dtype)
        return self.owner.owner[0] if isinstance(self.owner.owner, tuple) else self.owner.owner


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes to copy, whoever owns them."""

    address: int
    nbytes: int


def adopted(opened: Opened, value: Any, name: str) -> DeviceArray | None:
    """A device array over what a caller feeds, without a copy; None where it does not lie on a device.

    InputError where it is not C-contiguous, of a type that models do not have, or on another device.
    """
    if isinstance(value, DeviceArray):
        return value if value.opened is opened else None
    if type(value) is np.ndarray or not is_foreign(value):
        return None
    device: Any = opened.device
    found = take(value, 1 if opened.is_emulated else device.stream.ptr, name)
    if not opened.is_emulated:
        if found.device not in (None, device.index):
            raise InputError(
                f"input {name!r} lies on CUDA device {found.device}, the model runs on device {device.index}",
                hint="copy it to that device first",
                input=name,
            )
        wait_for(device.cupy, found, device.stream)
    return DeviceArray(opened, found.address, found.shape, found.dtype, found)
