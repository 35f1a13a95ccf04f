"""Recordings: all launches of a plan for given shapes as one graph, so that a run costs the host one call.

Only plans of several regions and no host steps gain by it, above all the unfused ones. A recording has memory of its own for
everything between inputs and results. What a caller feeds from the device, and results that stay there, are put into the IO
words of the launches that read and write them; all else is where it always is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fusec.kernels.cuda.abi import WORD
from fusec.kernels.cuda.device import Launch, Memory
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.binding import DeviceBinding
from fusec.runtime.device.flight import Flight
from fusec.runtime.device.frame import Frame
from fusec.runtime.device.opened import Opened
from fusec.runtime.steps import Place

if TYPE_CHECKING:
    from fusec.runtime.device.steps import DeviceSteps, Transfers


class Recording:
    """One graph and its memory. One run at a time may use it: `lock` is held meanwhile."""

    def __init__(
        self, opened: Opened, inputs: dict[str, DeviceArray], results: list[DeviceArray], place: _Recorder
    ) -> None:
        self.opened, self.inputs, self.results = opened, inputs, results
        self.launched = place.launched
        self._memory = place.pool
        ends = {a.address for a in (*inputs.values(), *results)}
        self._ends = [(f, f.io.tolist()) for _, f in place.launched if ends & set(f.io.tolist())]
        self.graph = opened.device.capture(place.launches)
        self.lock = threading.Lock()

    def run(self, flight: Flight, feeds: Mapping[str, Any], on_device: bool, transfers: Transfers) -> list[Any]:
        """Replay. The caller holds the lock, and lands the flight before results are looked at."""
        moved: dict[int, int] = {}
        device = self.opened.device
        with self.opened.gate:
            for name, place in self.inputs.items():
                given = feeds[name]
                if isinstance(given, DeviceArray):
                    moved[place.address] = given.address
                elif place.nbytes:
                    transfers.uploads += 1
                    transfers.uploaded += place.nbytes
                    device.upload(place.owner, 0, Place().tensor(given, name))
            made: list[DeviceArray] = self.results
            if on_device:
                made = [DeviceArray.empty(self.opened, r.shape, r.dtype) for r in self.results]
                moved |= {r.address: m.address for r, m in zip(self.results, made, strict=True)}
            for frame, usual in self._ends:
                frame.set_io(device, [moved.get(a, a) for a in usual])
            flight.keep(feeds, made)
            for binding, frame in self.launched:
                flight.add(binding, frame)
            self.graph.replay()
        return list(made)


def record(steps: DeviceSteps, feeds: Mapping[str, Any], wanted: Sequence[str]) -> Recording | None:
    """A recording for the shapes of some feeds; None where results are not what launches make, each in memory of its own."""
    opened = steps.on_device.opened
    inputs: dict[str, DeviceArray] = {}
    for name, array in feeds.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            return None
        inputs[name] = DeviceArray.empty(opened, tuple(array.shape), np.dtype(array.dtype))
    place = _Recorder(opened)
    results = steps.run_in(place, inputs, wanted)
    places = [r.address for r in results if isinstance(r, DeviceArray)]
    apart = len({*places, *(a.address for a in inputs.values())}) == len(results) + len(inputs)
    if len(places) < len(results) or not apart or not place.launches:
        return None
    return Recording(opened, inputs, results, place)


class _Recorder(Place):
    """Instead of queueing launches it writes them down."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.pool = _Pool(opened)
        self.launches: list[Launch] = []
        self.launched: list[tuple[DeviceBinding, Frame]] = []
        self._weights: dict[int, tuple[Any, DeviceArray]] = {}

    def run(self, binding: Any, arrays: Sequence[Any]) -> Sequence[Any]:
        """Outputs without values, in memory that nothing before needs any more."""
        region = cast(DeviceBinding, binding)
        region.check(arrays)
        made = [self.pool.empty(shape, dtype) for shape, dtype in region.fresh]
        if len(region.schedule.tasks):
            device, image = self.opened.device, region.image
            frame = Frame(device, image)
            frame.is_recorded = True
            frame.set_io(device, [a.address for a in (*arrays, *made)])
            self.launched.append((region, frame))
            for at in image.launches:
                self.launches.append(Launch(region.code.module, frame.address + at * WORD, image.blocks, image.shared))
        return made

    def tensor(self, value: Any, name: str) -> Any:
        """Weights that are read as values are copied to the device for good."""
        if isinstance(value, DeviceArray):
            return value
        if id(value) not in self._weights:
            array = super().tensor(value, name)
            self._weights[id(value)] = value, DeviceArray.of(self.opened, array)
            self.pool.keep(self._weights[id(value)][1].owner)
        return self._weights[id(value)][1]

    def result(self, value: Any, is_weight: bool, others: Sequence[Any]) -> Any:  # noqa: ARG002 - checked at the end
        """The place of a result; None where it has none of its own."""
        return None if is_weight else value


class _Pool:
    """Memory for values between launches: used again as soon as nobody refers to a value any more."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._all: list[Memory] = []
        self._free: list[Memory] = []

    def keep(self, memory: Memory) -> None:
        """Memory that lives as long as the recording."""
        self._all.append(memory)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Memory of a freed value that is large enough and not much larger, or more of it."""
        nbytes = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        fitting = [m for m in self._free if nbytes <= m.nbytes <= 2 * nbytes]
        if fitting:
            memory = min(fitting, key=lambda m: m.nbytes)
            self._free.remove(memory)
        else:
            memory = self._opened.device.allocate(nbytes)
            self._all.append(memory)
        return DeviceArray(self._opened, memory.address, shape, dtype, _Lent(memory, self._free))


class _Lent:
    """Memory that goes back to the pool with the last array over it."""

    def __init__(self, memory: Memory, free: list[Memory]) -> None:
        self.memory, self._free = memory, free
        self.address, self.nbytes = memory.address, memory.nbytes
        self.pointer = getattr(memory, "pointer", None)

    def __del__(self) -> None:
        self._free.append(self.memory)
