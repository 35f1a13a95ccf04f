"""Arrays that say they lie on a GPU: taken apart without a copy, refused with a reason where kernels could not read them."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusec.errors import InputError
from fusec.kernels.cuda import exchange
from fusec.runtime.device.arrays import adopted


class Packed:
    """An array that offers DLPack; its memory is numpy's."""

    def __init__(self, array: np.ndarray, kind: int = exchange.CUDA) -> None:
        self.array, self.kind, self.streams = array, kind, list[int]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: int) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


class Interfaced:
    """An array that offers `__cuda_array_interface__`."""

    def __init__(self, array: np.ndarray, **changed: Any) -> None:
        told = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False), "version": 3}
        self.__cuda_array_interface__ = told | changed


def elements(f: exchange.Foreign) -> np.ndarray:
    import ctypes

    return np.frombuffer(ctypes.string_at(f.address, f.nbytes), f.dtype).reshape(f.shape)


@pytest.mark.parametrize("kind", "f4 f8 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split())
@pytest.mark.parametrize("wrap", [Packed, Interfaced])
def test_dtypes(kind: str, wrap: Any) -> None:
    array = (np.arange(12).reshape(3, 4) % 2).astype(kind)
    assert exchange.is_foreign(wrap(array))
    found = exchange.take(wrap(array), 77)
    assert (found.address, found.shape, found.dtype) == (array.ctypes.data, (3, 4), array.dtype)
    assert np.array_equal(elements(found), array)


def test_bfloat16_comes_by_dlpack() -> None:
    assert exchange._dtype(4, 16, 1, "") == np.dtype(ml_dtypes.bfloat16)


def test_the_producer_is_told_our_stream() -> None:
    packed = Packed(np.zeros(3, np.float32))
    exchange.take(packed, 1234)
    assert packed.streams == [1234]


def test_offsets_and_empty_arrays() -> None:
    array = np.arange(10, dtype=np.float32)[3:]
    assert exchange.take(Packed(array), 1).address == array.ctypes.data
    assert exchange.take(Packed(np.zeros((3, 0, 2), np.float32)), 1).shape == (3, 0, 2)
    assert exchange.take(Interfaced(np.zeros((0, 2), np.float32), strides=(99, 4)), 1).nbytes == 0


@pytest.mark.parametrize(
    "array", [np.zeros((4, 6), np.float32).T, np.zeros((4, 6), np.float32)[:, ::2], np.zeros(8)[::-1]]
)
def test_strides_are_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"input 'x': .*C-contiguous.*contiguous copy"):
        exchange.take(Interfaced(array, strides=array.strides), 1, "x")
    if min(array.strides) > 0:
        with pytest.raises(InputError, match="C-contiguous"):
            exchange.take(Packed(array), 1, "x")


def test_strides_of_single_rows_mean_nothing() -> None:
    array = np.zeros((1, 6), np.float32)
    assert exchange.take(Interfaced(array, strides=(999, 4)), 1).shape == (1, 6)


@pytest.mark.parametrize("typestr", ["<V3", "<M8[s]"])
def test_types_that_models_have_not_are_refused(typestr: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        exchange.take(Interfaced(np.zeros(4), typestr=typestr), 1)


def test_types_that_dlpack_alone_has_are_refused() -> None:
    for code, bits, lanes in ((2, 8, 1), (4, 32, 1), (2, 32, 4), (9, 8, 1)):
        with pytest.raises(InputError, match="DLPack type"):
            exchange._dtype(code, bits, lanes, "")


def test_a_capsule_is_given_back_when_the_array_is_dropped() -> None:
    array = np.zeros(1000, np.float32).view(type("Watched", (np.ndarray,), {}))
    gone = weakref.ref(array)
    found = exchange.take(Packed(array), 1)
    del array
    gc.collect()
    assert gone() is not None
    del found
    gc.collect()
    assert gone() is None


def test_what_is_not_on_a_gpu() -> None:
    for value in (np.zeros(3), 3.0, [1, 2], Packed(np.zeros(3), exchange.CPU), Packed(np.zeros(3), exchange.CUDA_HOST)):
        assert not exchange.is_foreign(value)


@pytest.mark.parametrize(("stream", "waits"), [(None, []), (1, ["null"]), (2, ["ptds"]), (4711, [4711])])
def test_the_stream_of_an_interface_is_waited_for(stream: int | None, waits: list[Any]) -> None:
    seen: list[Any] = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = name

        def record(self) -> Any:
            return self.name

    streams = types.SimpleNamespace(null=Stream("null"), ptds=Stream("ptds"))
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(Stream=streams, ExternalStream=Stream))
    foreign = exchange.take(Interfaced(np.zeros(3), stream=stream), 1)
    exchange.wait_for(cupy, foreign, types.SimpleNamespace(wait_event=seen.append))
    assert seen == waits


def test_an_array_of_another_device_is_refused() -> None:
    class Elsewhere(Packed):
        def __dlpack_device__(self) -> tuple[int, int]:
            return self.kind, 1

    stream = types.SimpleNamespace(ptr=7)
    opened: Any = types.SimpleNamespace(device=types.SimpleNamespace(index=0, stream=stream), is_emulated=False)
    with pytest.raises(InputError, match="'x' lies on CUDA device 1, the model runs on device 0"):
        adopted(opened, Elsewhere(np.zeros(3, np.float32)), "x")
