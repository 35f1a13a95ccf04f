"""Running a plan step by step: values by name, symbols as they become known, regions through their bindings."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ExecutionError, InputError
from fusec.ir.dim import Extent, evaluate, symbols_of
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType, TensorType, Type, symbols_in
from fusec.plan.plan import HostStep, Plan, RegionStep
from fusec.runtime.binding import Planner, RegionBinding
from fusec.runtime.inputs import Symbols, describe_type
from fusec.runtime.weights import Weights

if TYPE_CHECKING:
    from fusec.host.bodies import Body
    from fusec.host.inner import CompileBody
    from fusec.host.run import HostRunner

Array = npt.NDArray[Any]

BINDINGS = 64
BINDING_BYTES = 512 << 20
"""How many bindings a session keeps of each region, and how much memory the frames of all may have; the newest stays."""
KNOWN_SHAPES = 256
"""For how many combinations of input shapes the symbols are kept."""
READY = 0x101
"""The numpy flags of an array that kernels can read as it is: C-contiguous and aligned."""


@dataclass(frozen=True, eq=False)
class _Region:
    """A region step, its place, and the symbols that it must know, in order."""

    index: int
    step: RegionStep
    symbols: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Host:
    """A host step, ready to be called, and what it reads and makes; constants are found once."""

    node: Node
    call: HostRunner
    constants: tuple[Any, ...]
    """The inputs that are constants at their places, None elsewhere."""
    varying: tuple[tuple[int, str], ...]
    shaped: tuple[Value, ...]
    """The outputs whose shapes are declared."""


class Place:
    """Where values are while a plan runs: in the memory of this process."""

    def run(self, binding: RegionBinding, arrays: Sequence[Any]) -> Sequence[Any]:
        """A region's outputs."""
        return binding.run(arrays)

    def tensor(self, value: Any, name: str) -> Any:
        """A value for a region: contiguous and aligned, as kernels read it."""
        if not isinstance(value, np.ndarray):
            raise ExecutionError(f"a region reads {name!r}, which is {type(value).__name__} and not a tensor")
        return value if value.flags.num & READY == READY else np.require(value, requirements=["C", "A"])

    def on_host(self, value: Any) -> Any:
        """A value for a host step."""
        return value

    def result(self, value: Any, is_weight: bool, others: Sequence[Any]) -> Any:
        """A value for the caller, in memory that neither weights nor `others` (feeds, other results) have."""
        if isinstance(value, np.ndarray):
            shared = is_weight or any(np.may_share_memory(value, a) for a in others if isinstance(a, np.ndarray))
            if shared or not value.flags.c_contiguous or not value.flags.writeable:
                return value.copy(order="C")
        return value


class Steps:
    """The steps of a plan. Any number of threads may run them at once; a lock is held only while a region is planned."""

    def __init__(
        self,
        plan: Plan,
        planner: Planner,
        on_drop: Callable[[RegionBinding], None],
        compile_body: CompileBody | None = None,
    ) -> None:
        self.plan = plan
        self.planner = planner
        self.weights: Weights = planner.weights
        self._steps = [self._prepare(i, s, compile_body) for i, s in enumerate(plan.steps)]
        self._drop_after = [[n for n in names if n not in self.weights] for names in _last_uses(plan)]
        self._read = _read_values(plan)
        self._bindings: OrderedDict[tuple[int, tuple[int, ...]], RegionBinding] = OrderedDict()
        self._symbols: dict[tuple[Any, ...], Symbols] = {}
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self.finished: Callable[[int, RegionBinding | None, int, int], None] | None = None
        """Called after each step with its number, its binding (None for a host step) and when it began and ended, in ns."""

    def run(self, feeds: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
        """Run on checked feeds; the wanted values, each in memory of its own."""
        return self.run_in(Place(), feeds, wanted)

    def run_in(self, place: Place, feeds: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
        """The same with values where `place` says."""
        env = dict(feeds)
        symbols = self.symbols(feeds)
        for i, step in enumerate(self._steps):
            binding, start = None, time.perf_counter_ns()
            if isinstance(step, _Region):
                binding = self.binding(step.index, symbols.values)
                made = place.run(binding, [place.tensor(self._value(env, symbols, n), n) for n in binding.inputs])
                env.update(zip(binding.outputs, made, strict=True))
            else:
                self._run_host(step, env, symbols, place)
            if self.finished is not None:
                self.finished(i, binding, start, time.perf_counter_ns())
            for name in self._drop_after[i]:
                env.pop(name, None)
        return self._results(env, symbols, feeds, wanted, place)

    @property
    def most_bytes(self) -> int:
        """How much memory the frames of all bindings may have."""
        return BINDING_BYTES

    def symbols(self, feeds: Mapping[str, Any]) -> Symbols:
        """The symbols that the shapes of the inputs determine. InputError where they contradict, or miss a requirement."""
        shapes = tuple([getattr(feeds[v.name], "shape", None) for v in self.plan.inputs])
        found = self._symbols.get(shapes)
        if found is None:
            found = Symbols(waiting=self.plan.requirements)
            found.match_all((v.name, v.type, feeds[v.name]) for v in self.plan.inputs if feeds[v.name] is not None)
            found.check()
            if len(self._symbols) >= KNOWN_SHAPES:
                self._symbols.clear()
            self._symbols[shapes] = found
        return found.copy()

    def binding(self, index: int, symbols: Mapping[str, int]) -> RegionBinding:
        """The region of a step for these symbols, from the cache or planned now."""
        region = self._steps[index]
        if not isinstance(region, _Region):
            raise ExecutionError(f"step {index} is no region")
        try:
            key = index, tuple([symbols[s] for s in region.symbols])
        except KeyError as e:
            raise InputError(
                f"the dimension {e.args[0]!r} is not determined by the shapes of the inputs",
                hint="give it a number when compiling (--dim or dims=)",
            ) from None
        found = self._bindings.get(key)
        if found is not None:
            found.used = True
            return found
        with self._lock:
            found = self._bindings.get(key)
            if found is None:
                with self.plan.blamed():
                    found = self.planner.bind(region.step, symbols, _occasion(self.plan.name, region.symbols, key[1]))
                self._bindings[key] = found
                self._trim()
            return found

    @property
    def bodies(self) -> list[Body]:
        """The graphs inside host steps that are compiled when they run, and what became of them."""
        return [b for s in self._steps if isinstance(s, _Host) for b in s.call.bodies]

    def forget_frames(self) -> None:
        """In the child of a fork: frames may be torn, and the lock held by a thread that is not here."""
        self._lock = threading.Lock()
        for binding in list(self._bindings.values()):
            binding.idle.clear()
        for step in self._steps:
            if isinstance(step, _Host):
                step.call.forget_locks()

    def _prepare(self, index: int, step: HostStep | RegionStep, compile_body: CompileBody | None) -> _Region | _Host:
        if isinstance(step, RegionStep):
            return _Region(index, step, region_symbols(self.plan, step))
        from fusec.host.run import HostRunner

        constants: dict[int, Any] = {}
        varying: list[tuple[int, str]] = []
        for i, v in enumerate(step.node.inputs):
            if v is None:
                continue
            fixed = isinstance(v.type, TensorType) and v.type.is_static
            if fixed and (v.name in self.weights or self.plan.root(v.name) in self.weights):
                constants[i] = self._value({}, Symbols(), v.name)
            else:
                varying.append((i, v.name))
        places = tuple(constants.get(i) for i in range(len(step.node.inputs)))
        shaped = tuple(v for v in step.node.outputs if isinstance(v.type, TensorType) and v.type.shape is not None)
        return _Host(step.node, HostRunner(step.node, compile_body, tuple(constants)), places, tuple(varying), shaped)

    def _trim(self) -> None:
        """Drop bindings that were not used since the last look, oldest first, until count and bytes are within bounds."""
        newest = next(reversed(self._bindings))
        most = BINDINGS * sum(isinstance(s, _Region) for s in self._steps)
        total = sum(b.bytes for b in self._bindings.values())
        for second_round in (False, True):
            for key in list(self._bindings):
                if len(self._bindings) <= most and total <= self.most_bytes:
                    return
                binding = self._bindings[key]
                if key == newest or (binding.used and not second_round):
                    binding.used = False
                    continue
                del self._bindings[key]
                total -= binding.bytes
                self._on_drop(binding)

    def _run_host(self, step: _Host, env: dict[str, Any], symbols: Symbols, place: Place) -> None:
        inputs = list(step.constants)
        for i, name in step.varying:
            inputs[i] = place.on_host(self._value(env, symbols, name))
        made = step.call(inputs)
        for value, result in zip(step.node.outputs, made, strict=True):
            if isinstance(result, np.ndarray) and not result.size:
                result = _of_known_sizes(result, value.type, symbols)
            if result is not None or value.name in self._read:  # optional outputs that nobody asked for are not made
                env[value.name] = _checked(step.node, value.name, value.type, result)
        if not step.shaped:
            return
        named = [(v.name, v.type, env.get(v.name)) for v in step.shaped]
        outputs = [(name, kind, array) for name, kind, array in named if isinstance(array, np.ndarray)]
        try:
            symbols.match_all(outputs, "output")
        except InputError as e:
            raise ExecutionError(
                f"{_origin(step.node)}: {e.message}",
                hint=e.hint,
                node=_origin(step.node),
                op=str(step.node.attr("op_type", step.node.op)),
            ) from e
        symbols.check()

    def _value(self, env: Mapping[str, Any], symbols: Symbols, name: str) -> Any:
        """A value by name: made by a step, a weight, or the reshape of one of these."""
        if name in env:
            return env[name]
        if name in self.weights:
            return self.weights.logical(name)
        root = self.plan.root(name)
        if root == name:
            raise ExecutionError(f"value {name!r} was not made by any step")
        kind = self.plan.values.get(name)
        whole = self._value(env, symbols, root)
        if not isinstance(kind, TensorType) or kind.shape is None:
            return whole
        return whole.reshape([evaluate(x, symbols.values) for x in kind.shape])

    def _results(
        self, env: Mapping[str, Any], symbols: Symbols, feeds: Mapping[str, Any], wanted: Sequence[str], place: Place
    ) -> list[Any]:
        out: list[Any] = []
        others = [a for a in feeds.values() if hasattr(a, "shape")]
        for name in wanted:
            value = place.result(self._value(env, symbols, name), self.plan.root(name) in self.weights, others)
            others.append(value)
            out.append(value)
        return out


def region_symbols(plan: Plan, step: RegionStep) -> tuple[str, ...]:
    """The symbols that a region must know before it can be planned, sorted."""
    found: set[str] = set()
    for call in step.calls:
        roles = {o.name: o.role for o in call.program.operands}
        found.update(*(symbols_of(x) for _, x in call.params))
        for operand, value in call.operands:
            kind: Type | None = plan.values.get(plan.root(value))
            if roles[operand] not in ("weight", "scalar", "local") and kind is not None:
                found |= symbols_in(kind)
    return tuple(sorted(found))


def _read_values(plan: Plan) -> frozenset[str]:
    """The values that some step or the caller reads, and those whose bytes they are."""
    names = {v.name for v in plan.outputs}
    for step in plan.steps:
        names |= set(step.inputs) if isinstance(step, RegionStep) else {v.name for v in step.node.operands}
    return frozenset(names | {plan.root(n) for n in names})


def _last_uses(plan: Plan) -> list[list[str]]:
    """For each step the root values that nobody reads after it."""
    last: dict[str, int] = {}
    for i, step in enumerate(plan.steps):
        if isinstance(step, RegionStep):
            names = [*step.inputs, *step.outputs]
        else:
            names = [v.name for v in (*step.node.operands, *step.node.outputs)]
        last.update((plan.root(n), i) for n in names)
    kept = {plan.root(v.name) for v in plan.outputs}
    out: list[list[str]] = [[] for _ in plan.steps]
    for name, i in last.items():
        if name not in kept:
            out[i].append(name)
    return out


def _checked(node: Node, name: str, kind: Type, result: object) -> object:
    """What a host step made, against its declared type: rank and dtype must be right."""
    if not isinstance(kind, TensorType):
        return result
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        wrong = "nothing" if result is None else type(result).__name__
    elif (kind.shape is None or result.ndim == len(kind.shape)) and (
        kind.dtype is DType.STRING or result.dtype == kind.dtype.numpy
    ):
        return result
    else:
        wrong = f"{result.dtype}{list(result.shape)}"
    raise ExecutionError(
        f"{_origin(node)}: output {name!r} is {wrong}, expected {describe_type(kind)}",
        node=_origin(node),
        op=str(node.attr("op_type", node.op)),
    )


def _of_known_sizes(empty: Array, kind: Type, symbols: Symbols) -> Array:
    """What a loop without turns made of nothing, with the sizes that are known of it; the loop itself knows no symbols."""
    if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) != empty.ndim:
        return empty
    known = [symbols_of(d) <= symbols.values.keys() for d in kind.shape]
    sizes = [evaluate(d, symbols.values) if k else n for d, n, k in zip(kind.shape, empty.shape, known, strict=True)]
    return np.empty(sizes, empty.dtype) if min(sizes) == 0 else empty


def _origin(node: Node) -> str:
    return node.origin[0] if node.origin else str(node.attr("op_type", node.op))


def _occasion(model: str, names: tuple[str, ...], numbers: tuple[int, ...]) -> str:
    bound = ", ".join(f"{n}={x}" for n, x in zip(names, numbers, strict=True))
    return f"running {model or 'the model'}" + (f" with {bound}" if bound else "")


def shape_of(shape: Sequence[Extent], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """A shape in numbers."""
    return tuple([evaluate(d, symbols) for d in shape])
