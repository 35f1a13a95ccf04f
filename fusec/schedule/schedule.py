"""Schedule: everything that workers need to run a region, as integer tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import PlanError
from fusec.kernels.kernel import IntArray

CALL, FIRST, COUNT, WAIT, WAITS, SIGNAL = range(6)
"""Columns of the task table."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Task lists for a number of workers. Rows are int64.

    - `tasks`: call, first tile, number of tiles, first row in `waits`, number of waits, counter to increment after (-1
      for none). Numbered in program order.
    - `waits`: counter, threshold counted from the start of the run: with `epoch` runs before, the wait is over once the
      counter has reached `epoch * totals[counter] + threshold`.
    - `queues`: task numbers, worker after worker; those of worker w are `queues[queue_starts[w]:queue_starts[w + 1]]`.
    - `totals`: how often each counter is incremented in a run. Counters are never reset.
    - `choices`: for each call, which kernel of its program's menu.
    - `offsets`: temporary -> byte in the arena of `arena` bytes; `arena_bound` is a lower bound for this order.
    - `scratch`: bytes of private memory per worker.
    - `makespan`, `work`: the estimates, in nanoseconds, of the run and of the sum of all tasks.
    - `calls`: labels, for people.
    """

    tasks: IntArray
    waits: IntArray
    queues: IntArray
    queue_starts: IntArray
    totals: IntArray
    choices: IntArray
    offsets: dict[str, int]
    arena: int
    arena_bound: int
    scratch: int
    makespan: int
    work: int
    calls: tuple[str, ...]

    @property
    def workers(self) -> int:
        """The number of workers that it is for."""
        return len(self.queue_starts) - 1

    def queue(self, worker: int) -> IntArray:
        """The tasks of a worker, in order."""
        return self.queues[self.queue_starts[worker] : self.queue_starts[worker + 1]]

    def task_name(self, task: int) -> str:
        """A task for messages: `fc1 tiles 4-7`."""
        call, first, count = self.tasks[task, :3].tolist()
        label = self.calls[call] if 0 <= call < len(self.calls) else f"call {call}"
        return f"{label} tile {first}" if count == 1 else f"{label} tiles {first}-{first + count - 1}"

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The schedule as arrays for a plan file: int64 tables, and one uint8 array of names (JSON)."""
        names = json.dumps([list(self.calls), list(self.offsets)], separators=(",", ":"), ensure_ascii=False)
        numbers = [self.arena, self.arena_bound, self.scratch, self.makespan, self.work]
        return {
            **{name: getattr(self, name) for name in _TABLES},
            "offsets": np.array(list(self.offsets.values()), np.int64),
            "numbers": np.array(numbers, np.int64),
            "names": np.frombuffer(names.encode(), np.uint8),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Schedule:
        """What `to_arrays` wrote. PlanError where arrays are missing or misshapen; `validate` judges what they say."""
        tables = {name: _table(arrays, name, width) for name, width in _TABLES.items()}
        offsets = _table(arrays, "offsets", 0)
        numbers = _table(arrays, "numbers", 0).tolist()
        calls, temps = _names(arrays)
        starts = tables["queue_starts"]
        if len(numbers) != 5 or len(temps) != len(offsets) or len(set(temps)) != len(temps):
            raise PlanError("a schedule of the plan is damaged: its names and numbers do not fit", hint=_AGAIN)
        if len(starts) < 2 or starts[0] or starts[-1] != len(tables["queues"]) or (np.diff(starts) < 0).any():
            raise PlanError("a schedule of the plan is damaged: its queues are not a partition", hint=_AGAIN)
        arena, bound, scratch, makespan, work = numbers
        places = dict(zip(temps, offsets.tolist(), strict=True))
        return Schedule(
            **tables,
            offsets=places,
            arena=arena,
            arena_bound=bound,
            scratch=scratch,
            makespan=makespan,
            work=work,
            calls=tuple(calls),
        )

    def __str__(self) -> str:
        head = (
            f"schedule: {len(self.tasks)} tasks, {self.workers} workers, {len(self.waits)} waits, "
            f"arena {self.arena} bytes (at least {self.arena_bound}), scratch {self.scratch}, "
            f"about {self.makespan / 1e3:.1f} us ({self.work / 1e3:.1f} us of work)"
        )
        lines = [head]
        for w in range(self.workers):
            lines.append(f"worker {w}:")
            for t in self.queue(w).tolist():
                first, count = self.tasks[t, WAIT : WAITS + 1].tolist()
                waits = "".join(f"  after {c}:{v}" for c, v in self.waits[first : first + count].tolist())
                lines.append(f"  {self.task_name(t)}{waits}")
        lines += [f"{name} at {offset}" for name, offset in self.offsets.items()]
        return "\n".join(lines)


_TABLES = {"tasks": 6, "waits": 2, "queues": 0, "queue_starts": 0, "totals": 0, "choices": 0}
"""Table fields and their number of columns, 0 for a plain list."""

_AGAIN = "compile the model again"


def _table(arrays: Mapping[str, npt.NDArray[Any]], name: str, width: int) -> IntArray:
    array = arrays.get(name)
    if array is None or array.dtype != np.int64 or array.ndim != (2 if width else 1):
        raise PlanError(f"a schedule of the plan is damaged: table {name!r} is missing or misshapen", hint=_AGAIN)
    if width and array.shape[1] != width:
        raise PlanError(f"a schedule of the plan is damaged: {name!r} has {array.shape[1]} columns", hint=_AGAIN)
    return array


def _names(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[list[str], list[str]]:
    try:
        calls, temps = json.loads(np.asarray(arrays["names"], np.uint8).tobytes())
    except (KeyError, ValueError, TypeError) as e:
        raise PlanError("a schedule of the plan is damaged: its names cannot be read", hint=_AGAIN) from e
    for names in (calls, temps):
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise PlanError("a schedule of the plan is damaged: its names are no texts", hint=_AGAIN)
    return calls, temps
