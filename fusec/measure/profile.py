"""Profiles: where the time of a run goes, from times that the driver notes while the model runs as it always does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.errors import ExecutionError
from fusec.measure.work import Work, work_of
from fusec.plan.plan import HostStep
from fusec.runtime.binding import RegionBinding
from fusec.runtime.device.binding import DeviceBinding
from fusec.runtime.device.times import DeviceTimes
from fusec.runtime.session import Session
from fusec.runtime.times import FrameTimes, WorkerTimes
from fusec.schedule.schedule import CALL

Feeds = Mapping[str, Any]
Binding = RegionBinding | DeviceBinding


@dataclass(frozen=True, eq=False)
class RegionRun:
    """One region in one run: a timeline per worker."""

    step: int
    binding: Binding
    workers: list[WorkerTimes]


@dataclass(frozen=True, eq=False)
class HostRun:
    """One host step in one run, in nanoseconds."""

    step: int
    began: int
    ended: int


@dataclass(frozen=True, eq=False)
class Run:
    """One run, from the call of `Session.run_list` to its return."""

    began: int
    ended: int
    regions: tuple[RegionRun, ...]
    hosts: tuple[HostRun, ...]

    @property
    def workers(self) -> int:
        """How many workers the largest region had."""
        return max((len(r.workers) for r in self.regions), default=0)


@dataclass(frozen=True)
class Item:
    """One kernel call or host step: `seconds` of work in each run, summed over workers. A host step has no work."""

    step: int
    program: str
    label: str
    origin: tuple[str, ...]
    seconds: tuple[float, ...]
    work: Work | None
    roof: float

    @property
    def is_host(self) -> bool:
        """Whether it runs in Python."""
        return self.work is None


@dataclass(frozen=True, eq=False)
class Profile:
    """What `profile` found. Per run, in seconds: `total` wall time, `waiting[w]` of each worker, `outside` regions and steps.

    Runs that had fewer workers than most others are left out and counted in `skipped`: the driver falls back to one worker
    where the team was slower or busy.
    """

    items: tuple[Item, ...]
    workers: int
    total: tuple[float, ...]
    waiting: tuple[tuple[float, ...], ...]
    outside: tuple[float, ...]
    typical: Run
    skipped: int


Roof = Callable[[float, tuple[tuple[float, int], ...]], float]


def profile(
    session: Session,
    feeds: Feeds,
    rounds: int,
    roof: Roof | None = None,
    between: Callable[[int], None] | None = None,
    seconds: float = 20.0,
) -> Profile:
    """Run a session some times and note when each task of each kernel was ready and done.

    The kernels, their order and their workers are those of any other run; a task costs two looks at the clock more, about
    50 ns. `roof` tells the least seconds for operations and bytes (see `Roofs.seconds_of`). Stops early after `seconds`.
    """
    recorder = _Recorder(session, feeds)
    try:
        runs, end = [], time.monotonic() + seconds
        for r in range(rounds):
            runs.append(recorder.run())
            if between is not None:
                between(r)
            if r >= 2 and time.monotonic() > end:
                break
    finally:
        recorder.close()
    (workers, _), *_ = Counter(r.workers for r in runs).most_common(1)
    kept = [r for r in runs if r.workers == workers]
    return Profile(
        tuple(_items(session, kept, roof)),
        workers,
        tuple((r.ended - r.began) * 1e-9 for r in kept),
        tuple(tuple(_waiting(r, w) for r in kept) for w in range(workers)),
        tuple(_outside(r) for r in kept),
        sorted(kept, key=lambda r: r.ended - r.began)[len(kept) // 2],
        len(runs) - len(kept),
    )


class _Recorder:
    """Runs a session with tables for times in the frames that its regions use."""

    def __init__(self, session: Session, feeds: Feeds) -> None:
        self._session, self._feeds = session, feeds
        self._steps: list[tuple[int, Binding | None, int, int]] = []
        self._times: dict[int, FrameTimes | DeviceTimes] = {}
        self._bindings: dict[int, Binding] = {}
        for _ in range(3):  # shapes are planned, code is loaded, frames exist
            self._once()
        if session.is_direct:
            self._bindings[0] = session.binding_of(feeds)
        else:
            self._bindings = {i: b for i, b, _, _ in self._steps if b is not None}
        for i, binding in self._bindings.items():
            if len(binding.idle) != 1:
                raise ExecutionError("the session is running elsewhere", hint="profile a session of its own")
            self._times[i] = _times_of(binding)

    def run(self) -> Run:
        """One run with its times."""
        began, ended = self._once()
        starts = {i: start for i, _, start, _ in self._steps}
        regions = tuple(RegionRun(i, b, self._times[i].read(starts.get(i, began))) for i, b in self._bindings.items())
        hosts = tuple(HostRun(i, start, end) for i, b, start, end in self._steps if b is None)
        return Run(began, ended, regions, hosts)

    def close(self) -> None:
        """Leave the frames as they were."""
        for times in self._times.values():
            times.close()

    def _once(self) -> tuple[int, int]:
        self._steps.clear()
        self._session.steps.finished = lambda *told: self._steps.append(told)
        try:
            began = time.perf_counter_ns()
            self._session.run_list(self._feeds)
            return began, time.perf_counter_ns()
        finally:
            self._session.steps.finished = None


def _times_of(binding: Binding) -> FrameTimes | DeviceTimes:
    """Tables in the only frame of a binding."""
    if isinstance(binding, DeviceBinding):
        return DeviceTimes(binding.idle[0], binding.planner.opened, binding.schedule)
    return FrameTimes(binding.idle[0], binding.schedules)


def _items(session: Session, runs: list[Run], roof: Roof | None) -> list[Item]:
    all_weights = sum(w.array.nbytes for w in session.plan.weights.values())
    seen: set[str] = set()
    out: list[Item] = []
    for k, region in enumerate(runs[0].regions):
        bound = region.binding.region
        busy = np.array([_busy(r.regions[k], len(bound.calls)) for r in runs])
        for c, call in enumerate(bound.calls):
            work = work_of(call, bound)
            constants = {call.buffers[o] for o in call.buffers if bound.buffers[call.buffers[o]].role == "weight"}
            far = 0.0 if constants <= seen else work.weights  # what this run has read before is in a nearer cache
            seen |= constants
            least = 0.0
            if roof is not None:
                least = roof(work.flops, ((far, all_weights), (work.bytes - far, int(work.bytes))))
            name = call.call.program.name
            out.append(Item(region.step, name, call.label, call.call.origin, tuple(busy[:, c]), work, least))
    for k, host in enumerate(runs[0].hosts):
        step = session.plan.steps[host.step]
        assert isinstance(step, HostStep)
        op = str(step.node.attr("op_type", step.node.op))
        took = tuple((r.hosts[k].ended - r.hosts[k].began) * 1e-9 for r in runs)
        out.append(Item(host.step, "host", op, tuple(step.node.origin), took, None, 0.0))
    return sorted(out, key=lambda i: i.step)


def _busy(region: RegionRun, calls: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds of work per call, summed over workers."""
    out = np.zeros(calls)
    workers = len(region.workers)
    schedule = next(s for s in region.binding.schedules if s.workers == workers)
    for w in region.workers:
        np.add.at(out, schedule.tasks[w.tasks, CALL], (w.done - w.ready) * 1e-9)
    return out


def _waiting(run: Run, worker: int) -> float:
    """Seconds that a worker waited for others' tiles, and at the end for the others."""
    total = 0
    for region in run.regions:
        if worker < len(region.workers):
            w = region.workers[worker]
            end = max(v.ended for v in region.workers)
            begin = min(v.began for v in region.workers)
            total += int((w.ready - w.arrived).sum()) + (end - w.ended) + (w.began - begin)
    return total * 1e-9


def _outside(run: Run) -> float:
    """Seconds of the run outside regions and host steps: checking inputs, calling, making outputs."""
    inside = sum(max(w.ended for w in r.workers) - min(w.began for w in r.workers) for r in run.regions if r.workers)
    return (run.ended - run.began - inside - sum(h.ended - h.began for h in run.hosts)) * 1e-9
