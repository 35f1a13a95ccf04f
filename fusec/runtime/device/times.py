"""When every row of a region began and ended on a device: a table that blocks fill, hung into a frame while one looks."""

from __future__ import annotations

import numpy as np

from fusec.errors import ExecutionError
from fusec.kernels.cuda import abi
from fusec.runtime.device.frame import Frame
from fusec.runtime.device.opened import Opened
from fusec.runtime.times import WorkerTimes
from fusec.schedule.schedule import Schedule


class DeviceTimes:
    """The table of one frame. A row then costs two looks at the device's clock more than without.

    ExecutionError where the region runs as several launches: their rows stand in another order.
    """

    def __init__(self, frame: Frame, opened: Opened, schedule: Schedule) -> None:
        if len(frame.image.launches) != 1:
            raise ExecutionError("a region that was ended by the watchdog has no times", hint="start a new process")
        self._frame, self._opened, self._schedule = frame, opened, schedule
        self._rows = len(schedule.queues)
        words = np.zeros(abi.times_words(self._rows, schedule.workers), np.int64)
        with opened.gate:
            self._memory = opened.device.allocate(words.nbytes)
            opened.device.upload(self._memory, 0, words)
        self._hang(self._memory.address)

    def read(self, began: int = 0) -> list[WorkerTimes]:
        """The last run's times for each block, moved so that the first block came at `began`: the device has its own clock."""
        with self._opened.gate:
            raw = self._opened.device.download(self._memory, 0, self._memory.nbytes).view(np.int64)
        spans = raw[2 * self._rows :].reshape(-1, 2)
        raw = raw - int(spans[:, 0].min(initial=np.iinfo(np.int64).max)) + began if len(spans) else raw
        return [self._of(block, raw) for block in range(self._schedule.workers)]

    def close(self) -> None:
        """Take the table away; blocks note nothing any more."""
        self._hang(0)

    def _of(self, block: int, raw: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> WorkerTimes:
        low, high = (int(n) for n in self._schedule.queue_starts[block : block + 2])
        came = int(raw[2 * (self._rows + block)])
        ready, done = raw[2 * low : 2 * high : 2], raw[2 * low + 1 : 2 * high : 2]
        arrived = np.concatenate([[came], done[:-1]]) if high > low else done
        return WorkerTimes(came, self._schedule.queue(block), arrived, ready, done)

    def _hang(self, address: int) -> None:
        with self._opened.gate:
            at = self._frame.image.launches[0] + abi.Frame.TIMES
            self._opened.device.upload(self._frame.memory, at * abi.WORD, np.array([address], np.int64))
