"""A region bound to numbers: planned once for every combination of its symbols, then run through pooled frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ExecutionError, InputError, ResourceError
from fusec.ir.dim import evaluate
from fusec.kernels.cpu.driver import ABORTED, DONE, FAILED, UNFINISHED
from fusec.kernels.kernel import BoundKernel, Kernel
from fusec.knobs import Limits
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.frame import CallCode, Frame, Image, make_image, place
from fusec.runtime.team import Driver, Team
from fusec.runtime.weights import Weights
from fusec.schedule.bind import schedule_region
from fusec.schedule.inside import check_region
from fusec.schedule.region import BoundRegion, bind_calls
from fusec.schedule.schedule import Schedule

Array = npt.NDArray[Any]
Spec = tuple[tuple[int, ...], np.dtype[Any]]

IDLE_FRAMES = 16
IDLE_BYTES = 128 << 20
"""How many idle frames a binding keeps, and how much memory they may have together; one is always kept."""

GAIN = 0.95
"""A team's schedule is kept where it promises at most this share of the one-worker time."""


@dataclass(frozen=True, eq=False)
class Planner:
    """What it takes to bind the regions of one plan."""

    plan: Plan
    code: Callable[[Kernel], CallCode]
    weights: Weights
    driver: Driver
    team: Team
    workers: int
    limits: Limits
    microseconds: Callable[[BoundKernel], float]
    watch: Callable[[RegionBinding], None] | None = None
    """Called with every new binding, for those who want to see what was planned."""

    def bind(self, step: RegionStep, symbols: Mapping[str, int], what: str) -> RegionBinding:
        """Plan a region. ResourceError, before anything is planned or allocated, where it would pass the memory limit.

        InputError where a kernel would leave its operands with these sizes.
        """
        region = checked_region(self.plan, step, symbols, self.limits, what)
        schedules = self._schedules(region)
        used, outputs = io_buffers(self.plan, step, region)
        image = make_image(
            region,
            schedules,
            lambda c: self.code(c.kernel.kernel),
            self.weights.address,
            [*used, *outputs],
        )
        fresh = sum(region.buffers[n].bytes for n in outputs)
        self.limits.check_bytes(image.bytes + fresh, what)
        binding = RegionBinding(self, region, image, tuple(schedules), used, outputs)
        if self.watch is not None:
            self.watch(binding)
        return binding

    def _schedules(self, region: BoundRegion) -> list[Schedule]:
        def scratch(kernel: BoundKernel) -> int:
            return evaluate(self.code(kernel.kernel).binary.scratch, kernel.environment)

        alone = schedule_region(region, 1, self.microseconds, scratch)
        if self.workers == 1 or len(region.calls) == 0:
            return [alone]
        together = schedule_region(region, self.workers, self.microseconds, scratch)
        return [alone, together] if together.makespan <= alone.makespan * GAIN else [alone]


class RegionBinding:
    """One region for one combination of symbols: its image, and frames that wait for the next run.

    `inputs` and `outputs` are root values in the order of the frame's IO words; `expected` and `fresh` their
    shapes and dtypes.
    """

    __slots__ = (
        "bytes",
        "driver",
        "expected",
        "fresh",
        "idle",
        "image",
        "inputs",
        "outputs",
        "planner",
        "region",
        "schedules",
        "used",
    )

    def __init__(
        self,
        planner: Planner,
        region: BoundRegion,
        image: Image,
        schedules: tuple[Schedule, ...],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        self.planner = planner
        self.region = region
        self.image = image
        self.schedules = schedules
        self.inputs = inputs
        self.outputs = outputs
        self.driver = planner.driver
        self.bytes = image.bytes
        self.fresh: tuple[Spec, ...] = tuple(buffer_spec(region, n) for n in outputs)
        self.expected: tuple[Spec, ...] = tuple(buffer_spec(region, n) for n in inputs)
        self.idle: list[Frame] = []
        self.used = True

    def take(self) -> Frame:
        """A frame that nobody else has."""
        try:
            return self.idle.pop()
        except IndexError:
            return self._new_frame()

    def give(self, frame: Frame) -> None:
        """Keep a frame for the next run, or let its memory go where enough are kept."""
        idle = self.idle
        if not idle or (len(idle) < IDLE_FRAMES and (len(idle) + 1) * self.bytes <= IDLE_BYTES):
            idle.append(frame)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on checked inputs, in the order of `inputs`; the outputs, in fresh memory."""
        self.check(arrays)
        made = [np.empty(shape, dtype) for shape, dtype in self.fresh]
        frame = self.take()
        io = frame.io
        for i, array in enumerate((*arrays, *made)):
            io[i] = place(array)
        try:
            code = self.driver.run(frame.address)
            if code:
                self.settle(frame, code)
        except BaseException:
            frame.cancel()
            raise
        self.give(frame)
        return made

    def check(self, arrays: Sequence[Array]) -> None:
        """ExecutionError where an array has another shape or dtype than its buffer: kernels trust that it has not."""
        check_arrays(self.inputs, arrays, self.expected)

    def settle(self, frame: Frame, code: int) -> None:
        """Go on until the run has ended. ExecutionError where a kernel reported a failure or the run was aborted."""
        while code == UNFINISHED:
            code = self.driver.resume(frame.address)  # between the calls Python delivers signals
        if code == FAILED:
            raise kernel_failure(self.region, *frame.take_status())
        if code == ABORTED:
            if self.planner.team.ended and threading.current_thread() is not threading.main_thread():
                # A daemon thread at the end of the process. Python stops such threads wherever they next ask for the
                # interpreter; stopping here is the same, and saves a traceback that nobody can do anything about.
                threading.Event().wait()
            raise ExecutionError("the run was aborted because the process ends", hint="run models before exit handlers")
        if code != DONE:
            raise ExecutionError(f"the driver answered {code}")

    def _new_frame(self) -> Frame:
        if len(self.schedules) > 1:
            self.planner.team.ensure(self.planner.workers, self.driver)
        try:
            return Frame(self.image, self.planner.team, self.driver.resume, self.planner.weights)
        except (MemoryError, OSError) as e:
            raise ResourceError(
                f"no memory for {self.bytes} bytes of working space", hint="use a smaller batch or free memory"
            ) from e


def checked_region(plan: Plan, step: RegionStep, symbols: Mapping[str, int], limits: Limits, what: str) -> BoundRegion:
    """A region with numbers for its symbols, all of whose kernels stay inside their operands.

    ResourceError where it would pass the memory limit, InputError where a kernel would leave its operands with these sizes.
    """
    try:
        region = bind_calls(step, plan.kernels, symbols, plan.values, plan.root)
        limits.check_bytes(_least_bytes(region), what)
        check_region(region)
    except BugError as e:  # the importer takes sizes for equal where models cannot mean anything else
        if plan.from_file or not symbols:
            raise
        hint = f"sizes that the model needs to be equal are not, or a part is cut out of too little: {dict(symbols)}"
        raise InputError(e.message, hint=hint, node=e.node) from e
    _check_buffers(region)
    return region


def io_buffers(plan: Plan, step: RegionStep, region: BoundRegion) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The inputs that a region reads and the outputs that it makes, as root values."""
    inputs = dict.fromkeys(plan.root(v) for v in step.inputs)
    outputs = tuple(n for n, b in region.buffers.items() if b.role == "output")
    return tuple(n for n in inputs if n in region.buffers), outputs


def check_arrays(names: Sequence[str], arrays: Sequence[Any], expected: Sequence[Spec]) -> None:
    """ExecutionError where an array has another shape or dtype than its buffer: kernels trust that it has not."""
    for name, array, (shape, dtype) in zip(names, arrays, expected, strict=True):
        if array.shape != shape or array.dtype != dtype:
            raise ExecutionError(
                f"{name} is {array.dtype}{list(array.shape)}, the region that reads it was planned for "
                f"{dtype}{list(shape)}",
                hint="a host step made another shape than the plan declares, or the plan contradicts itself",
            )


def kernel_failure(region: BoundRegion, code: int, call: int, detail: int) -> ExecutionError:
    """The error for what a kernel reported."""
    origin, label = region.calls[call].call.origin, region.calls[call].label
    where = ", ".join(origin) or label
    what = f"index {detail} is out of range" if code == 1 else f"kernel failure {code} ({detail})"
    return ExecutionError(
        f"{where}: {what}",
        hint="check the index inputs of the model" if code == 1 else None,
        node=origin[0] if origin else label,
        op=label,
    )


def buffer_spec(region: BoundRegion, name: str) -> Spec:
    """Shape and dtype of a buffer."""
    buffer = region.buffers[name]
    if buffer.dtype is None:
        raise ExecutionError(f"{name} in a region has no dtype")
    return buffer.shape, buffer.dtype.numpy


def _check_buffers(region: BoundRegion) -> None:
    """BugError where a call would write to memory that is not the region's, or read a packed weight that is none."""
    for call in region.calls:
        for o in call.call.program.operands:
            role = region.buffers[call.buffers[o.name]].role if o.name in call.buffers else ""
            if role == "input" and o.role in ("output", "inout"):
                raise BugError(
                    f"{call.label} writes to {call.buffers[o.name]}, an input of its region", node=call.label
                )
            if role != "weight" and not call.kernel.kernel.layouts[o.name].is_row_major:
                raise BugError(f"{call.label} reads {o.name} in a layout, and it is no weight", node=call.label)


def _least_bytes(region: BoundRegion) -> int:
    """Bytes that any schedule needs at some moment: all outputs, or the buffers of the greediest call."""
    outputs = sum(b.bytes for b in region.buffers.values() if b.role == "output")
    calls = (sum({n: region.buffers[n].bytes for n in c.buffers.values()}.values()) for c in region.calls)
    return max(outputs, max(calls, default=0))
