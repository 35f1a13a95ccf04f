"""When every row of a region began and ended: tables that the driver fills, hung into a frame for as long as one looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusec.kernels.cpu import driver as d
from fusec.kernels.kernel import IntArray
from fusec.runtime.frame import LINE_WORDS, Frame
from fusec.schedule.schedule import Schedule


@dataclass(frozen=True, eq=False)
class WorkerTimes:
    """One worker's rows of one run, in nanoseconds of the monotonic clock (that of `time.perf_counter_ns` on Linux).

    `tasks` are rows of the schedule's task table. Row i waits from `arrived[i]` to `ready[i]` and works until `done[i]`.
    """

    began: int
    tasks: IntArray
    arrived: IntArray
    ready: IntArray
    done: IntArray

    @property
    def ended(self) -> int:
        """When the last row was done."""
        return int(self.done[-1]) if len(self.done) else self.began


class FrameTimes:
    """Tables for all programs of a frame. A row then costs two looks at the clock, about 50 ns, more than without."""

    def __init__(self, frame: Frame, schedules: tuple[Schedule, ...]) -> None:
        self._frame, self._schedules = frame, schedules
        self._tables = [[np.zeros(2 + 2 * len(s.queue(w)), np.int64) for w in range(s.workers)] for s in schedules]
        self._hang(True)

    def read(self, began: int = 0) -> list[WorkerTimes]:
        """The last run's times, a copy, for each worker that it had; `began` is for devices, whose clock is another one."""
        del began
        used = self._frame.workers_used
        for schedule, tables in zip(self._schedules, self._tables, strict=True):
            if schedule.workers == used:
                return [_times(table.copy(), schedule.queue(w)) for w, table in enumerate(tables)]
        return []

    def close(self) -> None:
        """Take the tables away; the driver notes nothing any more."""
        self._hang(False)

    def _hang(self, on: bool) -> None:
        words, base = self._frame.block.words, self._frame.address
        for program, tables in zip((d.Frame.SOLO, d.Frame.TEAMED), self._tables, strict=False):
            at = (int(words[program]) - base) // d.WORD
            line = (int(words[at + d.Program.TABLE]) - base) // d.WORD
            for w, table in enumerate(tables):
                words[line + w * LINE_WORDS + d.Worker.TIMES] = table.ctypes.data if on else 0


def _times(table: IntArray, queue: IntArray) -> WorkerTimes:
    ready, done = table[2::2], table[3::2]
    arrived = np.concatenate([table[:1], done[:-1]]) if len(done) else done
    return WorkerTimes(int(table[0]), queue, arrived, ready, done)
