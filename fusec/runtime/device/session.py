"""DeviceSession: a plan that is ready to run on a device with memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fusec.errors import AssumptionError, InputError
from fusec.ir.graph import Value
from fusec.ir.types import TensorType
from fusec.kernels.kernel import BoundKernel
from fusec.knobs import Knobs, Limits
from fusec.plan.plan import Plan
from fusec.runtime.code import check_target
from fusec.runtime.device.arrays import DeviceArray, adopted
from fusec.runtime.device.binding import DevicePlanner
from fusec.runtime.device.code import Modules
from fusec.runtime.device.flight import FLOOR_SECONDS
from fusec.runtime.device.opened import Opened, open_target
from fusec.runtime.device.steps import DeviceSteps, Transfers
from fusec.runtime.device.weights import DeviceWeights
from fusec.runtime.inputs import Feeds, as_value, describe_type, named_feeds
from fusec.runtime.session import Second, Session, estimate
from fusec.runtime.weights import Weights
from fusec.runtime.workers import check_workers

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.host.inner import CompileBody


class DeviceSession(Session):
    """A model ready to run on a device, from any number of threads at once.

    Inputs may lie on the device already: arrays with `__dlpack__` or `__cuda_array_interface__` are read where they are.
    Results are numpy arrays, or with `on_device=True` DeviceArrays, which other libraries take without a copy.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int | None = None,
        limits: Limits | None = None,
        cache: ObjectCache | None = None,
        opened: Opened | None = None,
        modules: Modules | None = None,
        microseconds: Callable[[BoundKernel], float] | None = None,
        watch: Callable[[Any], None] | None = None,
        compile_body: CompileBody | None = None,
        second: Callable[[], Session] | None = None,
    ) -> None:
        """Open the device, build or find the modules of a plan and make it runnable.

        Args:
            plan: What to run; its target must be of this machine.
            threads: Blocks per launch at most; by default as many as fit at once, and 4 on an emulated device.
            limits: The bound on memory, checked before it is used.
            cache: Where compiled modules are kept.
            opened: The device, where the caller has opened it.
            modules: Its modules with the plan's kernels, where the caller has built them.
            microseconds: The estimate of one average tile that schedules are made with.
            watch: Is shown every region that is planned for new shapes.
            compile_body: Compiles the graphs inside host steps when they run; without it the evaluator runs them.
            second: Makes the session for runs that the plan assumes there are not; without it they are refused.

        Raises:
            ExecutionError: this machine cannot run the plan's target.
            CompileError: a module cannot be built.
        """
        if opened is None:
            check_target(plan.target)
        self.plan = plan
        self.limits = limits or Limits()
        blocks = None if threads is None else check_workers(threads)
        self.opened = opened or open_target(plan.target, blocks)
        self.threads = blocks or self.opened.device.multiprocessors
        weights, modules = Weights(plan), modules or Modules(plan, self.opened, cache)
        modules.prepare()
        planner = DevicePlanner(
            plan,
            self.opened,
            modules,
            weights,
            DeviceWeights(weights, self.opened),
            blocks,
            self.limits,
            microseconds or estimate(plan),
            _patience(self.opened),
            watch,
        )
        self._prepare_runs()
        self._device_steps = DeviceSteps(plan, planner, self._forget, compile_body)
        self._steps = self._device_steps
        self._second = Second(second, plan.source_sha256)
        self._direct, self._fast = False, None
        self._register()

    @property
    def transfers(self) -> Transfers:
        """What the run that ended last copied between host and device."""
        return self._device_steps.transfers

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, *, on_device: bool = False) -> dict[str, Any]:
        """Run once and return the outputs by name, all of them or those asked for, as numpy arrays or `on_device`.

        Raises:
            InputError: the feeds do not fit the model's inputs, or an output name is unknown.
            ResourceError: these shapes would need more memory than the limit, or than the device has.
            ExecutionError: a kernel or a host step failed, for example on an index out of range.
        """
        wanted = self._names if outputs is None else outputs
        return dict(zip(wanted, self.run_list(feeds, wanted, on_device=on_device), strict=True))

    def run_list(self, feeds: Feeds, outputs: Sequence[str] | None = None, *, on_device: bool = False) -> list[Any]:
        """The same as a list, in the order asked for; a name may be asked for twice."""
        wanted = self._listed if outputs is None else outputs
        self._check_outputs(wanted)
        values = self._checked(feeds)
        try:
            return self._device_steps.run(values, wanted, on_device)
        except AssumptionError as e:
            second = self._second.get(e)
            return second.run_list(values, wanted, on_device=on_device)  # type: ignore[call-arg]  # a DeviceSession, too

    def _checked(self, feeds: Feeds) -> dict[str, Any]:
        if type(feeds) is dict and len(feeds) == len(self._kinds) and all(map(self._fits, feeds, feeds.values())):
            return dict(feeds)
        given = named_feeds(self.inputs, feeds)
        return {v.name: self._as_value(v, given[v.name]) for v in self.inputs}

    def _as_value(self, value: Value, given: Any) -> Any:
        if isinstance(value.type, TensorType) and (array := adopted(self.opened, given, value.name)) is not None:
            _check(value, value.type, array)
            return array
        return as_value(value, given.numpy() if isinstance(given, DeviceArray) else given)


def _check(value: Value, kind: TensorType, array: DeviceArray) -> None:
    """InputError where a device array has another dtype or rank than the input."""
    if array.dtype != kind.dtype.numpy or (kind.shape is not None and array.ndim != len(kind.shape)):
        raise InputError(
            f"input {value.name!r} is {array.dtype}{list(array.shape)}, expected {describe_type(kind)}",
            input=value.name,
        )


def _patience(opened: Opened) -> float | None:
    """Seconds after which a launch may be ended. The emulator finds blocks that wait forever by itself."""
    asked = Knobs.read().watchdog
    if asked is None:
        return None if opened.is_emulated else FLOOR_SECONDS
    return asked or None
