"""A region bound to numbers on a device: planned once per combination of its symbols, then run through pooled frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusec.errors import ExecutionError
from fusec.ir.dim import evaluate
from fusec.kernels.backend import Body
from fusec.kernels.cuda.abi import WORD
from fusec.kernels.kernel import BoundKernel, IntArray
from fusec.knobs import Limits
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.binding import IDLE_FRAMES, Spec, buffer_spec, check_arrays, checked_region, io_buffers
from fusec.runtime.device.arrays import DeviceArray
from fusec.runtime.device.code import Modules, RegionCode
from fusec.runtime.device.flight import Flight, attempts
from fusec.runtime.device.frame import Frame, Image, make_image
from fusec.runtime.device.opened import Opened
from fusec.runtime.device.weights import DeviceWeights
from fusec.runtime.weights import Weights
from fusec.schedule.bind import schedule_region
from fusec.schedule.device import schedule_device
from fusec.schedule.region import BoundRegion
from fusec.schedule.schedule import Schedule
from fusec.schedule.uses import steps

IDLE_BYTES = 2 << 30
"""How much memory idle frames of a binding may have together; one is always kept."""


@dataclass(frozen=True, eq=False)
class DevicePlanner:
    """What it takes to bind the regions of one plan on a device. `blocks` limits how many a launch has."""

    plan: Plan
    opened: Opened
    modules: Modules
    weights: Weights
    on_device: DeviceWeights
    blocks: int | None
    limits: Limits
    microseconds: Callable[[BoundKernel], float]
    patience: float | None = None
    """Seconds after which a launch may be ended (see flight.py); None is never."""
    watch: Callable[[Any], None] | None = None

    def bind(self, step: RegionStep, symbols: Mapping[str, int], what: str) -> DeviceBinding:
        """Plan a region. ResourceError, before anything is allocated, where it would pass the memory limit."""
        region = checked_region(self.plan, step, symbols, self.limits, what)
        code = self.modules.of(region)

        def body(kernel: BoundKernel) -> Body:
            return code.bodies[self.modules.class_key(kernel.kernel)]

        def scratch(kernel: BoundKernel) -> int:
            return evaluate(body(kernel).source.scratch, kernel.environment)

        shared = max((evaluate(body(c.kernel).source.shared, c.kernel.environment) for c in region.calls), default=0)
        schedule = schedule_device(region, self._workers(code, shared, what), self.microseconds, scratch)
        used, outputs = io_buffers(self.plan, step, region)

        def image(schedule: Schedule, stage: IntArray | None) -> Image:
            return make_image(
                region, schedule, lambda c: body(c.kernel), self.on_device.address, [*used, *outputs], stage
            )

        binding = DeviceBinding(self, region, code, schedule, used, outputs, image)
        fresh = sum(region.buffers[n].bytes for n in outputs)
        self.limits.check_bytes(binding.bytes + fresh, what)
        if self.watch is not None:
            self.watch(binding)
        return binding

    def _workers(self, code: RegionCode, shared: int, what: str) -> int:
        """Blocks that fit at once. ExecutionError where not even one does."""
        device = self.opened.device
        fits = device.resident(code.module, shared)
        if fits < 1:
            raise ExecutionError(
                f"{what}: a block needs {shared:,} bytes of shared memory, {device.name} has {device.shared_limit:,}",
                hint="the plan was made for devices with more; `--device cuda` compiles for this one",
            )
        return min(fits, self.blocks or fits)


class DeviceBinding:
    """One region for one combination of symbols: its image, and frames that wait for the next run.

    `inputs` and `outputs` are root values in the order of the frame's IO words. `is_staged` is set once the watchdog had to end
    a run: from then on each call is a launch of its own.
    """

    def __init__(
        self,
        planner: DevicePlanner,
        region: BoundRegion,
        code: RegionCode,
        schedule: Schedule,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        make: Callable[[Schedule, IntArray | None], Image],
    ) -> None:
        self.planner = planner
        self.region = region
        self.code = code
        self.schedule = schedule
        self.inputs = inputs
        self.outputs = outputs
        self.image = make(schedule, None)
        self.expected: tuple[Spec, ...] = tuple(buffer_spec(region, n) for n in inputs)
        self.fresh: tuple[Spec, ...] = tuple(buffer_spec(region, n) for n in outputs)
        self.idle: list[Frame] = []
        self.used = True
        self.is_staged = False
        self._make = make

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The only one, as a tuple."""
        return (self.schedule,)

    @property
    def bytes(self) -> int:
        """Device memory of one frame."""
        return self.image.bytes

    @property
    def origin(self) -> str:
        """The nodes of the model that the region computes, for people."""
        names = [n for c in self.region.calls for n in (c.call.origin or (c.label,))]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def take(self) -> Frame:
        """A frame that nobody else has."""
        try:
            return self.idle.pop()
        except IndexError:
            with self.planner.opened.gate:
                return Frame(self.planner.opened.device, self.image)

    def give(self, frame: Frame) -> None:
        """Keep a frame for the next run, or let its memory go where enough are kept."""
        idle = self.idle
        if frame.image is not self.image or frame.is_recorded:
            return  # from before calls became launches of their own, or part of a graph
        if not idle or (len(idle) < IDLE_FRAMES and (len(idle) + 1) * self.bytes <= IDLE_BYTES):
            idle.append(frame)

    def run(self, arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
        """Run on checked inputs, in the order of `inputs`, to the end; the outputs, in fresh memory."""
        return attempts(self.planner.opened, self.planner.patience, lambda flight: self.begin(flight, arrays))

    def begin(self, flight: Flight, arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
        """Queue a run; its outputs hold their values when the flight has landed."""
        self.check(arrays)
        opened = self.planner.opened
        with opened.gate:
            made = [DeviceArray.empty(opened, shape, dtype) for shape, dtype in self.fresh]
            flight.keep(arrays, made)
            if len(self.schedule.tasks):
                frame = self.take()
                frame.set_io(opened.device, [a.address for a in (*arrays, *made)])
                flight.add(self, frame)
                for at in frame.image.launches:
                    opened.device.launch(
                        self.code.module, frame.address + at * WORD, self.image.blocks, self.image.shared
                    )
        return made

    def check(self, arrays: Sequence[Any]) -> None:
        """ExecutionError where an array has another shape or dtype than its buffer: kernels trust that it has not."""
        check_arrays(self.inputs, arrays, self.expected)

    def stage(self) -> None:
        """From now on make every call a launch of its own: nothing waits for anything within one."""
        if self.is_staged:
            return
        in_order = schedule_region(self.region, 1, self.planner.microseconds, far=0)
        plain = replace(self.schedule, offsets=in_order.offsets, arena=in_order.arena)
        self.image = self._make(plain, steps(self.schedule, self.region.calls))
        self.idle.clear()
        self.is_staged = True
