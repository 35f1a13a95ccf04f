"""Arrays of other libraries that lie on a GPU, taken and given without a copy: DLPack, and `__cuda_array_interface__`.

DLPack comes first where an array offers both: it knows bfloat16, and orders the producer's stream before ours. Capsules are
read through ctypes as the header dlpack.h 0.8 lays them out, so no library is needed to take one apart; ours are made by CuPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import InputError
from fusec.ir.types import DType

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""Kinds of devices in DLPack."""
_CODES = {(0, "i"), (1, "u"), (2, "f"), (6, "b")}
_BFLOAT = 4
_LEGACY, _PER_THREAD = 1, 2
"""The two streams that the array interface names by small numbers."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """C-contiguous elements at a device address; `owner` keeps them alive. `stream` must be waited for where it is not None."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    device: int | None = None
    stream: int | None = None

    @property
    def nbytes(self) -> int:
        """The size of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def is_foreign(value: Any) -> bool:
    """Whether a value says that its elements lie on a CUDA device."""
    if type(value) is np.ndarray:
        return False
    if (where := getattr(value, "__dlpack_device__", None)) is not None:
        return bool(where()[0] in (CUDA, CUDA_MANAGED))
    return hasattr(value, "__cuda_array_interface__")


def take(value: Any, stream: int, name: str = "") -> Foreign:
    """The elements of a foreign array, ready for what is queued on `stream` from now on (but see `Foreign.stream`).

    InputError where they are not C-contiguous or of a type that models do not have.
    """
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _from_dlpack(value, stream, name)
    return _from_interface(value, name)


def _from_interface(value: Any, name: str) -> Foreign:
    """`__cuda_array_interface__`, versions 2 and 3."""
    told = value.__cuda_array_interface__
    dtype, shape = np.dtype(told["typestr"]), tuple(int(n) for n in told["shape"])
    _check(dtype, told.get("strides"), shape, dtype.itemsize, name)
    if told.get("mask") is not None:
        raise InputError(f"{_input(name)}masked arrays cannot be read", input=name or None)
    stream = told.get("stream")
    return Foreign(int(told["data"][0]), shape, dtype, value, None, stream if stream is None else int(stream))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, stream: int, name: str) -> Foreign:
    """A capsule that stays ours, unused: when it is dropped, its own destructor gives the memory back."""
    capsule = value.__dlpack__(stream=stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    dtype = _dtype(tensor.code, tensor.bits, tensor.lanes, name)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None
    _check(dtype, strides, shape, 1, name)
    address = (tensor.data or 0) + tensor.byte_offset
    return Foreign(address, shape, dtype, (value, capsule), int(value.__dlpack_device__()[1]))


def _dtype(code: int, bits: int, lanes: int, name: str) -> np.dtype[Any]:
    if lanes == 1 and bits in (8, 16, 32, 64):
        if (code, bits) == (_BFLOAT, 16):
            return DType.BF16.numpy
        for known, kind in _CODES:
            if code == known and not (kind == "f" and bits == 8) and (kind != "b" or bits == 8):
                return np.dtype(f"{kind}{bits // 8}")
    raise InputError(
        f"{_input(name)}elements of DLPack type {code} with {bits} bits cannot be read", input=name or None
    )


def _check(dtype: np.dtype[Any], strides: Sequence[int] | None, shape: Sequence[int], step: int, name: str) -> None:
    """InputError where elements do not lie one after the other, in the order of numpy's arrays, or are none of ours."""
    try:
        DType.of(dtype)
    except KeyError as e:
        raise InputError(f"{_input(name)}elements of type {dtype} cannot be read", input=name or None) from e
    if strides is None or 0 in shape:
        return
    for size, stride in zip(reversed(shape), reversed(list(strides)), strict=True):
        if size != 1 and stride != step:
            raise InputError(
                f"{_input(name)}an array on a GPU must be C-contiguous, this one of shape {tuple(shape)} has the "
                f"strides {tuple(strides)}",
                hint="make a contiguous copy first: cupy.ascontiguousarray(x), or x.contiguous() in PyTorch",
                input=name or None,
            )
        step *= size


def _input(name: str) -> str:
    return f"input {name!r}: " if name else ""


def wait_for(cupy: Any, foreign: Foreign, stream: Any) -> None:
    """Let `stream` (CuPy's) wait for what the producer of an array has queued on its own, where that says which it is."""
    if foreign.stream is None:
        return
    external: Any = {_LEGACY: cupy.cuda.Stream.null, _PER_THREAD: cupy.cuda.Stream.ptds}.get(foreign.stream)
    if external is None:
        external = cupy.cuda.ExternalStream(foreign.stream)
    stream.wait_event(external.record())


def give(cupy: Any, pointer: Any, offset: int, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
    """A `cupy.ndarray` over bytes of a block of CuPy's pool: other libraries read it through DLPack without a copy."""
    return cupy.ndarray(tuple(shape), dtype=np.dtype(dtype), memptr=pointer + offset)
