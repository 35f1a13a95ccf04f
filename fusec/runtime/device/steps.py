"""Running a plan's steps on a device: regions are queued one after the other, values stay there, host steps fetch theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fusec.errors import ExecutionError
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.binding import Planner
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.binding import DeviceBinding, DevicePlanner
from fusec.runtime.device.flight import CutOffError, Flight, attempts
from fusec.runtime.device.recording import Recording, record
from fusec.runtime.steps import Place, Steps

if TYPE_CHECKING:
    from fusec.host.inner import CompileBody

RECORD_AT = 3
"""Runs with the same shapes after which a graph is made: it costs about as much as a run of its launches."""
MOST_RECORDINGS = 8
MOST_BYTES = 8 << 30


@dataclass(slots=True)
class Transfers:
    """What a run copied between host and device: how often, and how many bytes."""

    uploads: int = 0
    uploaded: int = 0
    downloads: int = 0
    downloaded: int = 0

    def __str__(self) -> str:
        to, back = f"{self.uploads} copies to the device", f"{self.downloads} from it"
        return f"{to} ({self.uploaded:,} bytes), {back} ({self.downloaded:,} bytes)"


class DevicePlace(Place):
    """Values are on the device, unless a host step made them or wants them."""

    def __init__(self, flight: Flight, on_device: bool, each_lands: bool) -> None:
        self.flight, self.opened = flight, flight.opened
        self.on_device, self.each_lands = on_device, each_lands
        self.transfers = Transfers()
        self._copies: dict[int, tuple[Any, DeviceArray]] = {}

    def run(self, binding: Any, arrays: Sequence[Any]) -> Sequence[Any]:
        """A region's outputs, which hold their values when the flight has landed."""
        made: list[DeviceArray] = cast(DeviceBinding, binding).begin(self.flight, arrays)
        if self.each_lands:
            self.flight.land()
        return made

    def tensor(self, value: Any, name: str) -> DeviceArray:
        """A value for a region, copied to the device where it is not there; once per run."""
        if isinstance(value, DeviceArray):
            return value
        key = id(value)
        if key not in self._copies:
            array = super().tensor(value, name)
            self._copies[key] = value, self._upload(array)
        return self._copies[key][1]

    def on_host(self, value: Any) -> Any:
        """A value for a host step, once what makes it is done."""
        return self._download(value) if isinstance(value, DeviceArray) else value

    def result(self, value: Any, is_weight: bool, others: Sequence[Any]) -> Any:
        """A value for the caller, on the host or on the device as it was asked for."""
        if not self.on_device:
            if isinstance(value, DeviceArray):
                self.flight.land()
                return self._download(value, again=True)
            return super().result(value, is_weight, others)
        self.flight.land()
        if isinstance(value, DeviceArray):
            taken = any(isinstance(x, DeviceArray) and x.address == value.address for x in others)
            return self._upload(self._download(value)) if taken and value.nbytes else value
        is_tensor = isinstance(value, np.ndarray) and value.dtype.kind != "O"
        return self._upload(super().tensor(value, "")) if is_tensor else value

    def _upload(self, array: Any) -> DeviceArray:
        self.transfers.uploads += 1
        self.transfers.uploaded += array.nbytes
        made = DeviceArray.of(self.opened, array)
        self.flight.keep(made)
        return made

    def _download(self, value: DeviceArray, again: bool = False) -> Any:
        if again or not value.is_on_host:
            self.flight.land()
            self.transfers.downloads += 1
            self.transfers.downloaded += value.nbytes
        return value.download() if again else value.numpy()


class DeviceSteps(Steps):
    """The steps of a plan for a device. `transfers` are those of the run that ended last.

    With `records`, launches of plans of several regions without host steps become a graph once the same shapes come again.
    """

    def __init__(
        self,
        plan: Plan,
        planner: DevicePlanner,
        on_drop: Callable[[Any], None],
        compile_body: CompileBody | None = None,
    ) -> None:
        super().__init__(plan, cast(Planner, planner), on_drop, compile_body)
        self.on_device = planner
        self.transfers = Transfers()
        self.records = len(plan.steps) > 1 and all(isinstance(s, RegionStep) for s in plan.steps)
        self._seen: dict[tuple[Any, ...], int] = {}
        self.recordings: dict[tuple[Any, ...], Recording] = {}

    @property
    def most_bytes(self) -> int:
        """How much device memory the frames of all bindings may have."""
        return MOST_BYTES

    def run(self, feeds: Mapping[str, Any], wanted: Sequence[str], on_device: bool = False) -> list[Any]:
        """Run on checked feeds; the wanted values, each in memory of its own."""
        opened, patience = self.on_device.opened, self.on_device.patience
        recording = self._recording(feeds, wanted) if self.records and self.finished is None else None
        if recording is not None and recording.lock.acquire(blocking=False):
            try:
                return self._replay(recording, Flight(opened, patience), feeds, on_device)
            except CutOffError:
                self.recordings = {k: r for k, r in self.recordings.items() if r is not recording}
            finally:
                recording.lock.release()

        def once(flight: Flight) -> list[Any]:
            place = DevicePlace(flight, on_device, self.finished is not None)
            made = self.run_in(place, feeds, wanted)
            flight.land()
            self.transfers = place.transfers
            return made

        return attempts(opened, patience, once)

    def _replay(self, recording: Recording, flight: Flight, feeds: Mapping[str, Any], on_device: bool) -> list[Any]:
        transfers = Transfers()
        try:
            made = recording.run(flight, feeds, on_device, transfers)
            flight.land()
        except BaseException:
            flight.drop()
            raise
        if not on_device:
            transfers.downloads = len(made)
            transfers.downloaded = sum(x.nbytes for x in made)
            made = [x.download() for x in made]
        self.transfers = transfers
        return made

    def _recording(self, feeds: Mapping[str, Any], wanted: Sequence[str]) -> Recording | None:
        """The recording for the shapes of some feeds, made when they come the third time."""
        key = tuple([getattr(a, "shape", None) for a in feeds.values()]), tuple(wanted)
        found = self.recordings.get(key)
        if found is not None:
            return found
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        if seen != RECORD_AT:
            return None
        if len(self.recordings) >= MOST_RECORDINGS:
            self.recordings = {}
        with self.on_device.opened.gate:
            made = record(self, feeds, wanted)
        if made is not None:
            self.recordings = {**self.recordings, key: made}
        return made

    def binding_on_device(self, index: int, symbols: Mapping[str, int]) -> DeviceBinding:
        """The region of a step for these symbols."""
        found: Any = self.binding(index, symbols)
        if not isinstance(found, DeviceBinding):
            raise ExecutionError(f"step {index} does not run on a device")
        return found
