"""A region whose symbols are numbers: calls with their kernels chosen, and the buffers that they meet in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

from fusec.errors import BugError, InputError, ResourceError
from fusec.ir.dim import Extent, evaluate
from fusec.ir.interval import LARGEST
from fusec.ir.types import DType, TensorType, Type
from fusec.kernels.kernel import BoundKernel, Call, Kernel

ALIGNMENT = 64
"""Every buffer starts on a cache line of its own, so its bytes are rounded up to one."""


STEP_COLUMNS = 64
"""Columns of a tile of a step at most."""
PIECES = 4
"""Parts in which a recurrent layer gets its input: with more of them, the weights of the product are read more often."""
ROUND, FEWEST_ROWS = 12, 24
"""Rows of a part are a multiple of the one and no fewer than the other: whole register tiles, worth the trip."""


class Region(Protocol):
    """What a region step of a plan says: calls in program order, the values they get and those that must survive."""

    @property
    def calls(self) -> tuple[Call, ...]:
        """Kernels in program order."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Values that exist before the region, weights left out."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Values that somebody reads after the region."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """The bytes of one root value.

    `role` is "input" (exists before the region), "output" (made by it, read after it), "temp" (lives in the arena) or
    "weight" (constant). `bytes` is rounded up to a cache line; 0 for a tensor without elements and for weights, whose
    stored size is a matter of their layout.
    """

    name: str
    role: str
    dtype: DType | None
    shape: tuple[int, ...]
    bytes: int

    @property
    def used(self) -> int:
        """Bytes of its elements, without the padding; 0 for weights."""
        return prod(self.shape) * self.dtype.itemsize if self.bytes and self.dtype is not None else 0


@dataclass(frozen=True, eq=False)
class BoundCall:
    """A call, the kernel of its menu that fits (`choice` is its position there), and the buffer behind each operand."""

    call: Call
    choice: int
    kernel: BoundKernel
    buffers: dict[str, str]

    @property
    def label(self) -> str:
        """The call's name for people."""
        return self.call.label


@dataclass(frozen=True, eq=False)
class BoundRegion:
    """Calls in program order and their buffers by root name. Equal kernels with equal parameters are one BoundKernel."""

    calls: tuple[BoundCall, ...]
    buffers: dict[str, Buffer]

    @cached_property
    def temps(self) -> tuple[Buffer, ...]:
        """The buffers that need a place in the arena, in order of appearance."""
        return tuple(b for b in self.buffers.values() if b.role == "temp")

    @cached_property
    def mutable(self) -> frozenset[str]:
        """Names of the buffers with bytes that some call writes: the only ones that order tasks."""
        written = {
            call.buffers[o.name]
            for call in self.calls
            for o in call.call.program.operands
            if o.role in ("output", "inout")
        }
        return frozenset(n for n in written if self.buffers[n].bytes)


def bind_calls(
    region: Region,
    kernels: Mapping[str, tuple[Kernel, ...]],
    symbols: Mapping[str, int],
    values: Mapping[str, Type],
    root: Callable[[str], str],
) -> BoundRegion:
    """Choose a kernel for every call and size every buffer. BugError names the call where something does not fit."""
    known: dict[tuple[int, tuple[tuple[str, int], ...], bool], BoundKernel] = {}
    stepped = _read_in_steps(region, root)
    calls = []
    for call in region.calls:
        params = tuple((n, _number(x, symbols, f"parameter {n} of {_named(call)}")) for n, x in call.params)
        choice, kernel = _choose(call, kernels, dict(params))
        feeds = bool(stepped) and not stepped.isdisjoint(_written(call, root))
        key = id(kernel), params, feeds
        if key not in known:
            known[key] = kernel.bind(dict(params), _limits(kernel, dict(params), feeds))
        bound = known[key]
        roles = {o.name: o.role for o in call.program.operands}
        buffers = {o: root(value) for o, value in call.operands if roles[o] not in ("scalar", "local")}
        calls.append(BoundCall(call, choice, bound, buffers))
    return BoundRegion(tuple(calls), _buffers(region, calls, symbols, values, root))


def _has_steps(call: Call) -> bool:
    return any(a.sequential for a in call.program.axes)


def _read_in_steps(region: Region, root: Callable[[str], str]) -> frozenset[str]:
    """The values that calls with steps read, one part after the other."""
    calls = [c for c in region.calls if _has_steps(c)]
    return frozenset(root(v) for c in calls for o, v in c.operands if c.program.operand[o].role == "input")


def _written(call: Call, root: Callable[[str], str]) -> set[str]:
    return {root(v) for o, v in call.operands if call.program.operand[o].role == "output"}


def _limits(kernel: Kernel, params: dict[str, int], feeds: bool) -> dict[str, int]:
    """Smaller tiles around recurrent layers: steps that workers can share, and an input whose first part is soon there.

    They depend on sizes alone, never on the number of workers.
    """
    axes = kernel.program.axes
    if kernel.keeps:
        return {}  # its tiles are what workers have room for
    if any(a.sequential for a in axes):
        return {} if axes[-1].sequential else {axes[-1].name: STEP_COLUMNS}
    if not feeds or not axes:
        return {}
    extent = evaluate(axes[0].extent, params)
    return {axes[0].name: max(FEWEST_ROWS, -(-extent // (PIECES * ROUND)) * ROUND)}


def _named(call: Call) -> str:
    """A call for people, with the model's nodes that it stands for."""
    return f"{call.label} ({', '.join(map(repr, call.origin[:3]))})" if call.origin else call.label


def _choose(call: Call, kernels: Mapping[str, tuple[Kernel, ...]], params: dict[str, int]) -> tuple[int, Kernel]:
    for i, kernel in enumerate(kernels.get(call.program.name, ())):
        if kernel.tiling.guard is None or kernel.tiling.guard.admits(params):
            return i, kernel
    raise BugError(f"no kernel of program {call.program.name!r} fits {call.label} with {params}", node=call.label)


def _buffers(
    region: Region,
    calls: list[BoundCall],
    symbols: Mapping[str, int],
    values: Mapping[str, Type],
    root: Callable[[str], str],
) -> dict[str, Buffer]:
    given, kept = {root(v) for v in region.inputs}, {root(v) for v in region.outputs}
    uses = [
        (call, o, call.buffers[o.name]) for call in calls for o in call.call.program.operands if o.name in call.buffers
    ]
    written = {name for _, o, name in uses if o.role in ("output", "inout")}
    out: dict[str, Buffer] = {}
    for call, operand, name in uses:
        role = "input" if name in given else "weight" if name not in written else "output" if name in kept else "temp"
        if name not in out:
            out[name] = _buffer(name, role, values.get(name), symbols)
        try:
            shape = call.kernel.shape(operand.name)
        except ZeroDivisionError as e:
            raise BugError(f"{call.label}: the shape of {operand.name} divides by zero", node=call.label) from e
        size = prod(shape) * operand.dtype.itemsize
        if role != "weight" and (size != out[name].used or operand.dtype is not out[name].dtype):
            raise BugError(
                f"operand {operand.name} of {call.label} has {size} bytes ({operand.dtype}{list(shape)}), but its value "
                f"{name} has {out[name].used} ({values.get(name)})",
                node=call.label,
            )
    return out


def _buffer(name: str, role: str, kind: Type | None, symbols: Mapping[str, int]) -> Buffer:
    if role == "weight":
        return Buffer(name, role, kind.dtype if isinstance(kind, TensorType) else None, (), 0)
    if not isinstance(kind, TensorType) or kind.shape is None:
        raise BugError(f"value {name} of a region has type {kind}, not a tensor of known rank")
    shape = tuple(_number(d, symbols, f"a dimension of {name}") for d in kind.shape)
    size = prod(shape) * kind.dtype.itemsize
    return Buffer(name, role, kind.dtype, shape, -(-size // ALIGNMENT) * ALIGNMENT)


def _number(x: Extent, symbols: Mapping[str, int], what: str) -> int:
    try:
        value = evaluate(x, symbols)
    except KeyError as e:
        raise BugError(f"{what} is {x}, but symbol {e.args[0]!r} has no value") from e
    except ZeroDivisionError as e:
        raise BugError(f"{what} is {x}, a division by zero with {dict(symbols)}") from e
    if value >= LARGEST:
        raise ResourceError(f"{what} would be {value}")
    if value < 0 and symbols:
        raise InputError(
            f"{what} would be {value}: {x} with {dict(symbols)}",
            hint="an input is smaller than what the model cuts off, or than a window reaches",
        )
    if value < 0:
        raise BugError(f"{what} is {value}", hint=f"{x} with {dict(symbols)}" if symbols else None)
    return value
