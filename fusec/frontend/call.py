"""One ONNX node as a row of the table sees it: its attributes, its inputs, and ways to emit native nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from fusec.errors import ModelError
from fusec.frontend.attributes import attribute_values
from fusec.frontend.builder import Bound, Builder, NotNative
from fusec.frontend.known import Known, can_be_one, is_at_least, is_equal
from fusec.frontend.messages import clean, show_types
from fusec.frontend.symbols import is_fresh
from fusec.ir.dim import Extent, product, symbols_of
from fusec.ir.graph import Attr, Value
from fusec.ir.requirement import Requirement
from fusec.ir.types import DType, TensorType, Type

Result = Bound | Sequence[Bound | None]
Row = Callable[["Call"], Result]
"""Turns a node into native nodes and returns what its outputs stand for, or raises NotNative with the reason."""

ROWS: dict[tuple[str, str], Row] = {}
KNOWN_ROWS: dict[tuple[str, str], Callable[[Call], Sequence[Known | None] | None]] = {}


def row(*op_types: str, domain: str = "") -> Callable[[Row], Row]:
    """Register a row for ops of a domain."""

    def add(function: Row) -> Row:
        for op_type in op_types:
            ROWS[domain, op_type] = function
        return function

    return add


@dataclass(frozen=True)
class Call:
    """A node with its inputs resolved. `versions` maps domains to opsets; `inputs` holds None for an absent one."""

    builder: Builder
    proto: onnx.NodeProto
    versions: Mapping[str, int]
    inputs: tuple[Bound | None, ...]
    origin: tuple[str, ...]

    @property
    def op_type(self) -> str:
        """The ONNX op."""
        return str(self.proto.op_type)

    @property
    def version(self) -> int:
        """The opset of the node's domain."""
        return self.versions.get(domain_of(self.proto), 1)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The attributes that are there, as Python values (tensors as arrays)."""
        found = self.__dict__.get("_attrs")
        if found is None:
            found = self.__dict__["_attrs"] = attribute_values(self.proto)
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attrs.get(name, default)

    def has(self, i: int) -> bool:
        """Whether input `i` is there."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def wants(self, i: int) -> bool:
        """Whether output `i` is asked for."""
        return i < len(self.proto.output) and self.proto.output[i] != ""

    def x(self, i: int = 0) -> Value:
        """Input `i` as a value. ModelError where it is absent, NotNative where kernels cannot read it."""
        value = self.maybe(i)
        if value is None:
            raise self.error(f"input {i} is missing")
        return value

    def maybe(self, i: int) -> Value | None:
        """Input `i` as a value that kernels can read, None where it is absent."""
        if not self.has(i):
            return None
        value = self.builder.data(self.inputs[i], self.origin)  # type: ignore[arg-type]
        if not is_native(value.type):
            raise NotNative(f"kernels cannot take {value.type}")
        return value

    def type(self, i: int = 0) -> TensorType:
        """The tensor type of input `i` without making it a value."""
        bound = self.inputs[i] if self.has(i) else None
        if isinstance(bound, Known):
            return TensorType(bound.dtype, bound.shape)
        if bound is None or not isinstance(bound.type, TensorType) or bound.type.shape is None:
            raise NotNative(f"the rank of input {i} is not known")
        return bound.type

    def known(self, i: int) -> Known | None:
        """The contents of input `i`, None where it is absent or not known."""
        return self.builder.known(self.inputs[i]) if self.has(i) else None  # type: ignore[arg-type]

    def extents(self, i: int) -> tuple[Extent, ...]:
        """The contents of input `i`, which an attribute is made of. NotNative where they are data."""
        known = self.known(i)
        if known is None:
            raise NotNative(f"the content of input {i} ({clean(self.proto.input[i])}) is known only at run time")
        return known.values

    def ints(self, i: int) -> tuple[int, ...]:
        """The contents of input `i`, which have to be numbers."""
        values = self.extents(i)
        if not all(isinstance(v, int) for v in values):
            raise NotNative(f"the content of input {i} ({clean(self.proto.input[i])}) depends on the inputs' sizes")
        return tuple(int(v) for v in values if isinstance(v, int))

    def static(self, i: int) -> npt.NDArray[Any] | None:
        """The constant behind input `i`, None where it is computed or absent."""
        bound = self.inputs[i] if self.has(i) else None
        if isinstance(bound, Known):
            return bound.array if bound.is_static else None
        return self.builder.array(bound)

    def axis(self, axis: int, rank: int) -> int:
        """An axis as a number >= 0. ModelError where there is no such axis."""
        if not -rank <= axis < max(rank, 1) and not (rank == 0 and axis in (0, -1)):
            raise self.error(f"axis {axis} of a tensor of rank {rank}")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes as sorted numbers >= 0."""
        return tuple(sorted({self.axis(int(a), rank) for a in axes}))

    def emit(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """A native node."""
        return self.builder.emit(op, inputs, self.origin, **attrs)

    def elementwise(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """A native elementwise node over operands whose shapes broadcast, or will do so in every run that is not refused."""
        present = fitted(self, [v for v in inputs if v is not None])
        check_broadcast(self, [v.shape for v in present])
        fits = iter(present)
        return self.emit(op, *(None if v is None else next(fits) for v in inputs), **attrs)

    def sized(self, x: Value, axis: int, size: Extent, may_broadcast: bool = False) -> Value:
        """`x`, whose axis has `size` elements in every run: one where it has not is refused when its sizes are known.

        With `may_broadcast` they broadcast where one of them is 1, and such a run needs another plan.

        The elements are read from the difference of the two sizes on. That is nothing but a place outside unless it is 0.
        """
        n = x.shape[axis]
        self.require_equal(size, n, may_broadcast)
        starts = tuple(size - n if i == axis else 0 for i in range(len(x.shape)))
        sizes = tuple(size if i == axis else d for i, d in enumerate(x.shape))
        return self.emit("slice", x, starts=starts, sizes=sizes, steps=(1,) * len(sizes))

    def paired(self, a: Value, i: int, b: Value, j: int) -> tuple[Value, Value]:
        """`a` and `b` with one size along axis `i` and axis `j`, which they have in every run; see `sized`."""
        m, n = a.shape[i], b.shape[j]
        if is_equal(m, n) is not None:
            return a, b
        return (self.sized(a, i, n), b) if isinstance(n, int) else (a, self.sized(b, j, m))

    def matmul(self, a: Value, b: Value) -> Value:
        """A matrix product; where its sizes fit only in some runs, the others are refused."""
        return self._matmul(a, b, {})

    def integer_matmul(self, a: Value, b: Value) -> Value:
        """The same of i8, u8 and i16, of which the two sides may differ, in i32."""
        return self._matmul(a, b, {"to": DType.I32})

    def _matmul(self, a: Value, b: Value, attrs: Mapping[str, Attr]) -> Value:
        a, b = self.paired(a, len(a.shape) - 1, b, len(b.shape) - 2)
        a, b = fitted(self, [a, b], keep=2)
        broadcast(self, [a.shape[:-2], b.shape[:-2]])
        return self.emit("matmul", a, b, **attrs)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Parts joined along an axis, their other sizes equal."""
        if len(parts) == 1:
            return parts[0]
        alike = list(parts)
        for i in range(len(parts[0].shape)):
            if i == axis or any(len(p.shape) != len(parts[0].shape) for p in parts):
                continue
            size = next((p.shape[i] for p in alike if isinstance(p.shape[i], int)), alike[0].shape[i])
            alike = [self.sized(p, i, size) if is_equal(p.shape[i], size) is None else p for p in alike]
        return self.emit("concat", *alike, axis=axis)

    def scalar(self, value: float, dtype: DType) -> Value:
        """A rank 0 constant."""
        return self.builder.constant(np.asarray(value, dtype=dtype.numpy))

    def cast(self, x: Value, dtype: DType) -> Value:
        """`x` as `dtype`, nothing where it is that already."""
        return x if x.dtype is dtype else self.emit("cast", x, to=dtype)

    def reshape(self, x: Value, shape: Sequence[Extent]) -> Value:
        """`x` in another shape. ModelError where the element counts differ for certain; runs where they do are refused."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        before, after = product(x.shape), product(shape)
        if is_equal(before, after) is False:
            raise self.error(f"cannot reshape {x.type} to {list(shape)}")
        self.require_equal(before, after)
        return self.emit("reshape", x, shape=shape)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """`x` with its axes in another order."""
        return x if tuple(perm) == tuple(range(len(perm))) else self.emit("transpose", x, perm=tuple(perm))

    def expand(self, x: Value, shape: Sequence[Extent]) -> Value:
        """`x` broadcast to exactly `shape`."""
        return x if tuple(shape) == x.shape else self.emit("expand", x, shape=tuple(shape))

    def require(self, size: Extent, least: int, text: str) -> None:
        """A size is at least `least` in every run. `text` names attributes and ends where the size belongs.

        ModelError where it never is; where that depends on the inputs' sizes it is checked when these are known.
        """
        self._require(is_at_least(size, least), Requirement(size, least, what=text))

    def require_equal(self, a: Extent, b: Extent, may_broadcast: bool = False) -> None:
        """Two sizes are the same in every run, or may broadcast in one that this plan is not for; see `require`."""
        text = f"the sizes {a} and {b} must be the same, and differ by"
        self._require(is_equal(a, b), Requirement(a - b, 0, True, text, excuses=(a, b) if may_broadcast else ()))

    def assumes(self, *sizes: Extent) -> bool:
        """Whether something may be assumed of sizes: runs in which it is wrong have another plan."""
        return self.builder.assumes and not any(map(is_fresh, sizes))

    def position(self, x: Extent) -> bool:
        """Whether a position counts from the start, in runs that this plan is for. NotNative where only a run can tell."""
        is_positive = is_at_least(x, 0)
        if is_positive is None:
            if not self.assumes(x):
                raise NotNative(f"whether the position {x} counts from the end is known only at run time")
            text = "a position must count from the start, and is"
            self._require(None, Requirement(x, 0, what=text, excuses=(1,)))
        return is_positive is not False

    def _require(self, holds: bool | None, r: Requirement) -> None:
        if holds is False:
            raise self.error(f"{r.what} {r.size}")
        if holds is None:
            what = f"{clean(self.op_type)} {clean(self.origin[0])!r}: {r.what}"
            self.builder.requirements.append(replace(r, what=what, origin=self.origin))

    def error(self, text: str) -> ModelError:
        """A ModelError that names this node and its input types."""
        name = clean(self.origin[0])
        types = show_types([v if isinstance(v, Value) else None for v in self.inputs])
        return ModelError(
            f"{clean(self.op_type)} {name!r}: {text}",
            hint=f"its inputs are {types}" if self.inputs else None,
            node=name,
            op=clean(self.op_type),
        )


def is_native(t: Type) -> bool:
    """Whether kernels can compute on values of this type."""
    return isinstance(t, TensorType) and t.shape is not None and t.dtype.is_native


def domain_of(proto: onnx.NodeProto) -> str:
    """The domain; `ai.onnx` and the empty one are the same."""
    return "" if proto.domain == "ai.onnx" else str(proto.domain)


def broadcast(call: Call, shapes: Sequence[Sequence[Extent]]) -> tuple[Extent, ...]:
    """The shape that `shapes` broadcast to. NotNative where that depends on sizes, ModelError where it never fits."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Extent] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            if out[i] == 1:
                out[i] = d
            elif d not in (1, out[i]):
                if isinstance(d, int) and isinstance(out[i], int):
                    listed = " and ".join(str(list(s)) for s in shapes)
                    raise call.error(f"shapes {listed} do not broadcast")
                raise NotNative(f"whether {out[i]} and {d} are the same size is known only at run time")
    return tuple(out)


READ_ANYWHERE = frozenset(["gather", "slice", "transpose", "pad", "concat", "expand"])
"""Ops whose results are read at any place as easily as at their own."""


def fitted(call: Call, values: Sequence[Value], keep: int = 0) -> list[Value]:
    """Operands whose sizes are written differently but meet in a broadcast, seen in the sizes of one of them; see `matched`.

    The last `keep` axes do not broadcast.
    """
    out = {v.name: v for v in values}
    for back in range(keep + 1, max((len(v.shape) for v in values), default=0) + 1):
        met = [v for v in values if len(v.shape) >= back and v.shape[-back] != 1]
        if len({v.shape[-back] for v in met}) < 2:
            continue
        chosen = next((v for v in met if isinstance(v.shape[-back], int)), None)
        chosen = chosen or next((v for v in met if not _is_read_anywhere(call, v)), met[0])
        for v in met:
            out[v.name] = matched(call, out[v.name], len(v.shape) - back, chosen.shape[-back])
    return [out[v.name] for v in values]


def matched(call: Call, x: Value, axis: int, size: Extent) -> Value:
    """`x`, of which an axis meets `size` in a broadcast, with that size where the two are taken to be the same.

    Sizes of the same symbols come from ways of one image through a network, as in `2 * floordiv(H, 2)` and `H`: no model
    means one of them to be 1 and broadcast. Those of different symbols are nearly always equal too, as a mask's and that of
    what it hides. For runs in which one of them is 1 a session has a second plan, where `Builder.assumes` is False and keeps
    them apart; so are sizes that only host steps tell, too late for another plan.
    """
    n = x.shape[axis]
    if 1 in (n, size) or is_equal(n, size) is not None:
        return x
    may_broadcast = symbols_of(n) != symbols_of(size) and (can_be_one(n) or can_be_one(size))
    if may_broadcast and not call.assumes(n, size):
        return x
    return call.sized(x, axis, size, may_broadcast)


def _is_read_anywhere(call: Call, v: Value) -> bool:
    maker = call.builder.makers.get(v.name)
    return maker is not None and maker.op in READ_ANYWHERE


def check_equal(a: Extent, b: Extent) -> None:
    """NotNative where only a run can tell whether two sizes are the same; integers are left to the type rules."""
    if a != b and not (isinstance(a, int) and isinstance(b, int)):
        raise NotNative(f"whether {a} and {b} are the same size is known only at run time")


def check_broadcast(call: Call, shapes: Sequence[Sequence[Extent]]) -> None:
    """Refuse shapes that do not, or do not provably, broadcast."""
    broadcast(call, shapes)
