"""Session: a plan that is ready to run. What happens per call in the common case is one function, `_fast_path`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusec.errors import AssumptionError, ExecutionError, InputError, nearest
from fusec.ir.graph import Value
from fusec.ir.types import DType, TensorType
from fusec.kernels.kernel import BoundKernel, Kernel
from fusec.knobs import Limits
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.binding import IDLE_BYTES, IDLE_FRAMES, Planner, RegionBinding
from fusec.runtime.code import KernelCode, check_target, driver_for, forget_lock
from fusec.runtime.frame import CallCode, Frame, place
from fusec.runtime.inputs import Feeds, as_value, named_feeds
from fusec.runtime.steps import READY, Steps, shape_of
from fusec.runtime.team import SUPPORTED, process_team
from fusec.runtime.weights import Weights
from fusec.runtime.workers import check_workers, default_workers

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.host.inner import CompileBody
    from fusec.runtime.device.steps import Transfers

Array = npt.NDArray[Any]

FAST_SHAPES = 256
"""How many combinations of input shapes the fast path knows at most."""

_Fresh = tuple[str, tuple[int, ...], np.dtype[Any], int]
_Bound = tuple[RegionBinding, list[Frame], int, tuple[_Fresh, ...]]
"""What the fast path needs of a binding: itself, its idle frames and how many to keep, and per output its name, shape,
dtype and IO word.
"""


class Session:
    """A model ready to run, from any number of threads at once.

    `inputs` and `outputs` are the model's, with names and types. Every result is a fresh array that belongs to the caller.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int | None = None,
        limits: Limits | None = None,
        cache: ObjectCache | None = None,
        code: Callable[[Kernel], CallCode] | None = None,
        microseconds: Callable[[BoundKernel], float] | None = None,
        watch: Callable[[RegionBinding], None] | None = None,
        compile_body: CompileBody | None = None,
        second: Callable[[], Session] | None = None,
    ) -> None:
        """Build or find the machine code of a plan and make it runnable.

        Args:
            plan: What to run; its target must be of this machine.
            threads: Workers per run; by default one per usable core (see `runtime.workers`).
            limits: The bound on memory, checked before it is used.
            cache: Where compiled kernels are kept.
            code: Machine code per kernel, where the caller has it already.
            microseconds: The estimate of one average tile that schedules are made with.
            watch: Is shown every region that is planned for new shapes.
            compile_body: Compiles the graphs inside host steps when they run; without it the evaluator runs them.
            second: Makes the session for runs that the plan assumes there are not, as where sizes broadcast that it takes to be
                equal; without it they are refused.

        Raises:
            ExecutionError: this machine cannot run the plan's target.
            CompileError: a kernel cannot be built.
        """
        check_target(plan.target)
        self.plan = plan
        self.limits = limits or Limits()
        asked = default_workers() if threads is None else check_workers(threads)
        self.threads = asked if SUPPORTED else 1
        self._planner = Planner(
            plan,
            code or KernelCode(plan, cache),
            Weights(plan),
            driver_for(plan.target, cache),
            process_team(),
            self.threads,
            self.limits,
            microseconds or estimate(plan),
            watch,
        )
        self._prepare_runs()
        self._steps = Steps(plan, self._planner, self._forget, compile_body)
        self._second = Second(second, plan.source_sha256)
        self._direct = _is_direct(plan)
        self._fast = _fast_path(plan, self._shapes, self._planner.driver.run) if self._direct else None
        self._register()

    def _prepare_runs(self) -> None:
        """What checking feeds and results needs to know of the plan."""
        self._names = tuple(v.name for v in self.plan.outputs)
        self._listed = list(self._names)
        self._kinds: dict[object, tuple[np.dtype[Any], int] | None] = {v.name: _plain_kind(v) for v in self.plan.inputs}
        self._shapes: dict[tuple[Any, ...], _Bound] = {}

    def _register(self) -> None:
        """From now on a fork of the process is noticed."""
        _sessions.add(self)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What must be fed."""
        return self.plan.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What a run returns."""
        return self.plan.outputs

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once and return the outputs by name, all of them or those asked for.

        `feeds` maps input names to arrays, or lists arrays in the order of `inputs`. Arrays must have the declared dtype;
        Python numbers and lists are converted. Whatever their strides, alignment or byte order, the answer is the same.

        Raises:
            InputError: the feeds do not fit the model's inputs, or an output name is unknown.
            ResourceError: these shapes would need more memory than the limit.
            ExecutionError: a kernel or a host step failed, for example on an index out of range.
        """
        if outputs is None:
            if self._fast is not None and (found := self._fast(feeds)) is not None:
                return found
            outputs = self._names
        return dict(zip(outputs, self._run(feeds, outputs), strict=True))

    def run_list(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Any]:
        """The same as a list, in the order asked for; a name may be asked for twice."""
        wanted = self._listed if outputs is None else outputs
        if self._fast is not None and (wanted is self._listed or wanted == self._listed):
            found = self._fast(feeds)
            if found is not None:
                return list(found.values())
        return self._run(feeds, wanted)

    def binding_of(self, feeds: Feeds, step: int = 0) -> RegionBinding:
        """The plan of a region for the shapes of these feeds: its schedules, frames and memory, to be looked at.

        InputError where the feeds do not determine the region's symbols, as where a host step does.
        """
        return self._steps.binding(step, self._steps.symbols(self._checked(feeds)).values)

    @property
    def steps(self) -> Steps:
        """The steps of the plan, for those who measure them one by one."""
        return self._steps

    @property
    def transfers(self) -> Transfers | None:
        """What the run that ended last copied between host and device; None where both are one."""
        return None

    @property
    def is_direct(self) -> bool:
        """Whether a run is one call of machine code, so that no step can be seen from outside it."""
        return self._direct

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write the plan to a file that `fusec.load` reads; its SHA-256. An existing file is replaced only with `force`.

        Raises:
            UsageError: the file exists or its folder does not.
            ResourceError: the disk refuses.
        """
        from fusec.plan.file import save

        return save(self.plan, path, force=force)

    def __call__(self, *arrays: Any) -> Any:
        """Run on positional inputs; the output itself where there is one, else a list."""
        out = self.run_list(arrays)
        return out[0] if len(out) == 1 else out

    def __repr__(self) -> str:
        ins, outs = (", ".join(map(str, vs)) for vs in (self.inputs, self.outputs))
        return f"Session({self.plan.name!r}: {ins} -> {outs}; {self.plan.target}, {self.threads} threads)"

    def _run(self, feeds: Feeds, wanted: Sequence[str]) -> list[Any]:
        self._check_outputs(wanted)
        values = self._checked(feeds)
        try:
            if self._direct:
                self._learn(values)
                if self._fast is not None and (found := self._fast(values)) is not None:
                    return _distinct([found[n] for n in wanted])
            return self._steps.run(values, wanted)
        except AssumptionError as e:
            return self._second.get(e).run_list(values, wanted)

    def _checked(self, feeds: Feeds) -> dict[str, Any]:
        if type(feeds) is dict and len(feeds) == len(self._kinds) and all(map(self._fits, feeds, feeds.values())):
            return dict(feeds)
        given = named_feeds(self.inputs, feeds)
        return {v.name: as_value(v, given[v.name]) for v in self.inputs}

    def _fits(self, name: object, array: object) -> bool:
        """Whether a feed can be read as it is: then it need not be looked at more closely."""
        kind = self._kinds.get(name)
        if kind is None or type(array) is not np.ndarray or array.flags.num & READY != READY:
            return False
        return array.dtype is kind[0] and array.ndim == kind[1]

    def _check_outputs(self, wanted: Sequence[str]) -> None:
        if isinstance(wanted, str):
            raise InputError(f"outputs must be a list of names, got {wanted!r}", hint=f"write [{wanted!r}]")
        for name in wanted:
            if name not in self._names:
                raise InputError(f"unknown output {name!r}", hint=nearest(str(name), self._names))

    def _learn(self, values: Mapping[str, Any]) -> None:
        """Bind these shapes, so that the fast path knows them from now on."""
        shapes = tuple(values[v.name].shape for v in self.inputs)
        key = shapes[0] if len(shapes) == 1 else shapes
        if key in self._shapes:
            return
        symbols = self._steps.symbols(values).values
        binding = self._steps.binding(0, symbols)
        binding.check([values[n] for n in binding.inputs])
        fresh = []
        for value in self.outputs:
            position = binding.outputs.index(self.plan.root(value.name))
            made, kind = binding.fresh[position]
            shape = shape_of(value.shape, symbols)
            if min(shape, default=0) < 0 or prod(shape) != prod(made) or value.dtype.numpy != kind:
                raise ExecutionError(f"output {value.name!r} is declared {value.type}, and {kind}{list(made)} is made")
            fresh.append((value.name, shape, kind, len(binding.inputs) + position))
        keep = max(1, min(IDLE_FRAMES, IDLE_BYTES // max(1, binding.bytes)))
        if len(self._shapes) >= FAST_SHAPES:
            self._shapes.clear()
        self._shapes[key] = binding, binding.idle, keep, tuple(fresh)

    def _forget(self, binding: RegionBinding) -> None:
        """A binding has left the cache: the fast path must not keep it alive."""
        for key in [k for k, b in list(self._shapes.items()) if b[0] is binding]:
            self._shapes.pop(key, None)


class Second:
    """The session for runs that the first plan assumes there are not: made once, when one comes."""

    def __init__(self, make: Callable[[], Session] | None, sha256: str) -> None:
        self._make, self._sha256 = make, sha256
        self._made: Session | None = None
        self.lock = threading.Lock()

    def get(self, reason: AssumptionError) -> Session:
        """The session, or the reason as an error where nobody can make it, or the model is another one by now."""
        if self._make is None:
            raise reason
        with self.lock:
            if self._made is None:
                self._made = self._make()
        if self._made.plan.source_sha256 != self._sha256:
            raise reason
        return self._made


def _plain_kind(value: Value) -> tuple[np.dtype[Any], int] | None:
    """The dtype and rank of a tensor of numbers; None for all else."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype is DType.STRING:
        return None
    return kind.dtype.numpy, len(kind.shape)


def _is_direct(plan: Plan) -> bool:
    """Whether a run is one region that reads the inputs and makes the outputs, each in memory of its own."""
    if len(plan.steps) != 1 or not isinstance(plan.steps[0], RegionStep):
        return False
    roots = [plan.root(v.name) for v in plan.outputs]
    tensors = all(isinstance(v.type, TensorType) and v.type.shape is not None for v in (*plan.inputs, *plan.outputs))
    made = {plan.root(v) for v in plan.steps[0].outputs} - {v.name for v in plan.inputs}
    reads = {plan.root(v) for v in plan.steps[0].inputs} <= {v.name for v in plan.inputs}
    written = {
        plan.root(value)
        for call in plan.steps[0].calls
        for operand, value in call.operands
        if call.program.operand[operand].role in ("output", "inout")
    }
    return tensors and reads and bool(plan.inputs) and len(set(roots)) == len(roots) and set(roots) == made & written


def _fast_path(
    plan: Plan, table: dict[tuple[Any, ...], _Bound], run: Callable[[int], int]
) -> Callable[[Feeds], dict[str, Any] | None]:
    """The function that runs a direct plan on arrays that need no care, of shapes in `table`; None for all others.

    Every name that it uses is a local, and nothing is looked up twice: it costs about as much as the foreign call itself.
    """
    ndarray, empty, get = np.ndarray, np.empty, table.get
    wanted = tuple((v.name, v.dtype.numpy) for v in plan.inputs)
    count, position = len(wanted), {v.name: i for i, v in enumerate(plan.inputs)}
    step = plan.steps[0]
    calls = step.calls if isinstance(step, RegionStep) else ()
    read = {plan.root(value) for c in calls for _, value in c.operands}
    inputs = dict.fromkeys(plan.root(v) for v in (step.inputs if isinstance(step, RegionStep) else ()))
    order = tuple((i, position[n]) for i, n in enumerate(n for n in inputs if n in read))

    def one(feeds: Feeds) -> dict[str, Any] | None:
        if type(feeds) is not dict or len(feeds) != 1 or name not in feeds:
            return None
        array = feeds[name]
        if type(array) is not ndarray or array.dtype is not dtype or array.flags.num & READY != READY:
            return None
        found = get(array.shape)
        if found is None:
            return None
        binding, idle, keep, ((result, shape, kind, _),) = found
        made = empty(shape, kind)
        try:
            frame = idle.pop()
        except IndexError:
            frame = binding.take()
        io = frame.io
        io[0] = place(array)
        io[1] = place(made)
        try:
            code = run(frame.address)
            if code:
                binding.settle(frame, code)
        except BaseException:
            frame.cancel()
            raise
        if len(idle) < keep:
            idle.append(frame)
        return {result: made}

    def many(feeds: Feeds) -> dict[str, Any] | None:
        if type(feeds) is not dict or len(feeds) != count:
            return None
        arrays = []
        for name, dtype in wanted:
            array = feeds.get(name)
            if type(array) is not ndarray or array.dtype is not dtype or array.flags.num & READY != READY:
                return None
            arrays.append(array)
        found = get(tuple([a.shape for a in arrays]) if count > 1 else arrays[0].shape)
        if found is None:
            return None
        binding, idle, keep, specs = found
        try:
            frame = idle.pop()
        except IndexError:
            frame = binding.take()
        io, made = frame.io, {}
        for i, k in order:
            io[i] = place(arrays[k])
        for result, shape, kind, i in specs:
            made[result] = array = empty(shape, kind)
            io[i] = place(array)
        try:
            code = run(frame.address)
            if code:
                binding.settle(frame, code)
        except BaseException:
            frame.cancel()
            raise
        if len(idle) < keep:
            idle.append(frame)
        return made

    if count == len(plan.outputs) == len(order) == 1:
        ((name, dtype),) = wanted
        return one
    return many


def _distinct(arrays: list[Any]) -> list[Any]:
    """The arrays, with a copy for each that is there twice."""
    seen: set[int] = set()
    out = []
    for array in arrays:
        out.append(array.copy() if id(array) in seen else array)
        seen.add(id(array))
    return out


def estimate(plan: Plan) -> Callable[[BoundKernel], float]:
    """Microseconds of an average tile on the plan's target. Whoever loads a plan only to look at it needs no estimate."""
    from fusec.tiling.cost import tile_microseconds

    return lambda kernel: tile_microseconds(kernel, plan.target)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    forget_lock()
    for session in list(_sessions):
        session._steps.forget_frames()
        session._second.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
