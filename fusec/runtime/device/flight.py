"""A flight: the launches of one run between the first and the moment when somebody needs to know how they went.

Launches are only queued. Landing waits for them with a limit on time, and looks at the status words of the kernels that have
any. A launch that is far past its expected time is ended by the abort word; frames of a flight that did not land are dropped,
not used again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fusec.errors import ExecutionError
from fusec.runtime.binding import kernel_failure
from fusec.runtime.device.opened import Opened

if TYPE_CHECKING:
    from fusec.runtime.device.binding import DeviceBinding
    from fusec.runtime.device.frame import Frame

FLOOR_SECONDS = 10.0
"""No launch is ended earlier, whatever was estimated: other programs may share the device."""
PATIENCE = 1000.0
"""Times the estimate that a launch may take."""
ATTEMPTS = 5

T = TypeVar("T")


class WatchdogWarning(RuntimeWarning):
    """A region took far longer than expected, was ended, and runs as one launch per call from now on."""


class CutOffError(ExecutionError):
    """A run that must begin again, because launches of the device were ended."""


class Flight:
    """Launches on their way. `limit` is the shortest time in seconds after which one is ended; None is never."""

    def __init__(self, opened: Opened, limit: float | None = None) -> None:
        self.opened = opened
        self.limit = limit
        self._aborts = opened.aborts
        self._on_the_way: list[tuple[DeviceBinding, Frame]] = []
        self._kept: list[Any] = []

    def add(self, binding: DeviceBinding, frame: Frame) -> None:
        """Launches of a frame that are about to be queued."""
        frame.runs += 1
        self._on_the_way.append((binding, frame))

    def keep(self, *arrays: Any) -> None:
        """What launches read and write must not be freed before they are done."""
        if self.opened.is_emulated:
            self._kept.extend(arrays)

    def land(self) -> None:
        """Wait for everything that was queued. ExecutionError where a kernel reported a failure.

        CutOffError where launches were ended, by this flight's watchdog or another's.
        """
        if not self._on_the_way:
            return
        with self.opened.turn:
            done = self.opened.device.synchronise(self._timeout())
        if not done:
            self.opened.abort()
        if self.opened.aborts != self._aborts and (cut := self._first_cut_off()) is not None:
            if not done:
                self._overdue(cut)
            raise CutOffError("launches of the device were ended")
        landed, self._on_the_way = self._on_the_way, []
        self._kept.clear()
        failed: ExecutionError | None = None
        for binding, frame in landed:
            with self.opened.gate:
                code, call, detail = frame.take_status(self.opened.device)
            binding.give(frame)
            if code and failed is None:
                failed = kernel_failure(binding.region, code, call, detail)
        if failed is not None:
            raise failed

    def drop(self) -> None:
        """After an error: nothing that is still queued may touch memory that is about to be freed."""
        if not self._on_the_way:
            return
        self._on_the_way.clear()
        try:
            with self.opened.turn:
                done = self.opened.device.synchronise(self.limit)
        except ExecutionError:
            done = True  # a failed launch; the others were taken off the queue
        if not done:
            self.opened.abort()
        self._kept.clear()

    def _timeout(self) -> float | None:
        if self.limit is None:
            return None
        expected = sum(b.schedule.makespan for b, _ in self._on_the_way) * 1e-9
        return max(self.limit, PATIENCE * expected)

    def _first_cut_off(self) -> DeviceBinding | None:
        """The first region that did not end: the last block out counts a run only where no block left early."""
        with self.opened.gate:
            for binding, frame in self._on_the_way:
                if min(frame.epochs(self.opened.device)) < frame.runs:
                    return binding
        return None

    def _overdue(self, binding: DeviceBinding) -> None:
        """A region that took too long runs call by call from now on."""
        binding.stage()
        expected = binding.schedule.makespan * 1e-9
        warnings.warn(
            f"the region of {binding.origin} was ended after {self._timeout():.1f} s, where {expected:.2g} s were expected; "
            "from now on its calls are launched one by one",
            WatchdogWarning,
            stacklevel=2,
        )


def attempts(opened: Opened, limit: float | None, work: Callable[[Flight], T]) -> T:
    """Do `work`, which queues launches, until they have landed: again where launches of the device were ended meanwhile."""
    for left in reversed(range(ATTEMPTS)):
        flight = Flight(opened, limit)
        try:
            made = work(flight)
            flight.land()
            return made
        except CutOffError:
            flight.drop()
            if not left:
                raise
        except BaseException:
            flight.drop()
            raise
    raise AssertionError("unreachable")
