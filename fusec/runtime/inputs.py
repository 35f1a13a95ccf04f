"""What a caller feeds, checked against what the model declares: every fault is an InputError that says which and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import InputError, nearest
from fusec.ir.dim import Dim, Extent, evaluate, linear
from fusec.ir.graph import Value
from fusec.ir.requirement import Requirement, check_known
from fusec.ir.types import DType, OptionalType, TensorType, Type

Feeds = Mapping[str, Any] | Sequence[Any]


def named_feeds(inputs: Sequence[Value], feeds: object) -> dict[str, Any]:
    """Feeds by name. InputError where inputs are missing (all are listed) or names are unknown."""
    names = [v.name for v in inputs]
    if isinstance(feeds, Mapping):
        given: dict[str, Any] = dict(feeds)
    elif isinstance(feeds, Sequence) and not isinstance(feeds, str | bytes):
        if len(feeds) > len(names):
            raise InputError(f"{len(feeds)} inputs given, the model has {len(names)}", hint=_all(inputs))
        given = dict(zip(names, feeds, strict=False))
    else:
        raise InputError(
            f"feeds must be a mapping from input names to arrays, or a list of arrays, got {type(feeds).__name__}",
            hint=f"for example {{{names[0]!r}: array}}" if names else None,
        )
    unknown = [n for n in given if n not in names]
    if unknown:
        first = str(unknown[0])
        raise InputError(f"unknown input {first!r}", hint=nearest(first, names), input=first)
    missing = [v for v in inputs if v.name not in given and not isinstance(v.type, OptionalType)]
    if missing:
        listed = ", ".join(f"{v.name!r} ({describe_type(v.type)})" for v in missing)
        raise InputError(f"missing input{'s' if len(missing) > 1 else ''} {listed}", input=missing[0].name)
    return {n: given.get(n) for n in names}


def as_value(value: Value, given: object) -> Any:
    """A feed as the runtime wants it: tensors C-contiguous, aligned, native and of the declared dtype and rank."""
    kind = value.type
    if not isinstance(kind, TensorType):
        return given  # sequences, optionals and maps are read by host steps alone, which check them
    if given is None:
        raise InputError(f"input {value.name!r} is None, expected {describe_type(kind)}", input=value.name)
    array = _as_array(value.name, kind, given)
    if kind.shape is not None and array.ndim != len(kind.shape):
        raise InputError(
            f"input {value.name!r} has {array.ndim} dimensions {list(array.shape)}, expected {describe_type(kind)}",
            hint=_rank_hint(kind.shape, array.shape),
            input=value.name,
        )
    return array


def _as_array(name: str, kind: TensorType, given: object) -> npt.NDArray[Any]:
    wanted = kind.dtype.numpy
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise InputError(f"input {name!r} is a masked array", hint="fill the masked elements: a.filled(0)", input=name)
    # Python's own numbers carry no dtype that was meant, so they take the declared one where no value changes.
    loose = isinstance(given, bool | int | float | complex | list | tuple | np.generic)
    try:
        array = np.asarray(given)
    except (ValueError, TypeError) as e:
        raise InputError(f"input {name!r} is no array: {e}", hint=f"expected {describe_type(kind)}", input=name) from e
    if kind.dtype is DType.STRING:
        if array.dtype.kind not in "OUST":
            raise _wrong_dtype(name, kind, array)
        return np.ascontiguousarray(array, dtype=object).reshape(array.shape)
    if array.dtype.kind in "OUSTMmV" and array.dtype != wanted:
        raise _wrong_dtype(name, kind, array)
    if array.dtype.newbyteorder("=") != wanted:
        if not loose:
            raise _wrong_dtype(name, kind, array)
        array = _converted(name, kind, array)
    plain = np.require(array, wanted, ["C", "A"])
    return plain if type(plain) is np.ndarray else np.asarray(plain)


def _converted(name: str, kind: TensorType, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Python numbers in the declared dtype. InputError where that would change a value more than rounding does."""
    wanted = kind.dtype.numpy
    if array.size == 0:
        return array.astype(wanted)
    order = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}
    to = 2 if kind.dtype.is_float else order.get(wanted.kind, 2)
    if order.get(array.dtype.kind, 4) > to or (to > 0 and array.dtype.kind == "b" and kind.dtype is not DType.BOOL):
        raise _wrong_dtype(name, kind, array)
    with np.errstate(all="ignore"):
        out = array.astype(wanted)
    if to == 1 and not np.array_equal(out, array):
        raise InputError(f"input {name!r} has numbers outside the range of {wanted}", input=name)
    return out


def _wrong_dtype(name: str, kind: TensorType, array: npt.NDArray[Any]) -> InputError:
    got = "strings" if array.dtype.kind in "UST" else str(array.dtype)
    hint = f"convert it: array.astype({str(kind.dtype.numpy)!r})" if array.dtype.kind in "biufc" else None
    return InputError(
        f"input {name!r} has dtype {got}{list(array.shape)}, expected {describe_type(kind)}", hint=hint, input=name
    )


@dataclass
class Symbols:
    """Numbers for dimension symbols, and which tensor each came from, so that a contradiction can name both.

    `waiting` are the requirements that were not checked yet, for want of numbers.
    """

    values: dict[str, int] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    waiting: tuple[Requirement, ...] = ()

    def copy(self) -> Symbols:
        """The same, to be added to."""
        return Symbols(dict(self.values), dict(self.origin), self.waiting)

    def check(self) -> None:
        """InputError where the numbers do not meet a requirement that waited for them."""
        if self.waiting:
            self.waiting = check_known(self.waiting, self.values)

    def match_all(self, tensors: Iterable[tuple[str, Type, Any]], what: str = "input") -> None:
        """Bind symbols by comparing declared types with the shapes of real arrays, in whatever order they resolve."""
        open_dims = [
            (name, kind, array.shape, axis, dim)
            for name, kind, array in tensors
            if isinstance(kind, TensorType) and kind.shape is not None
            for axis, dim in enumerate(kind.shape)
        ]
        while open_dims:
            left = [d for d in open_dims if not self._match(what, *d)]
            if len(left) == len(open_dims):
                return  # not determined by these shapes; whoever needs the symbol will say so
            open_dims = left

    def _match(self, what: str, name: str, kind: TensorType, shape: tuple[int, ...], axis: int, dim: Extent) -> bool:
        """Compare one dimension, binding a symbol where just one is open. False where more are."""
        actual = shape[axis]
        unbound = [s for s in dim.symbols if s not in self.values] if isinstance(dim, Dim) else []
        if len(unbound) > 1:
            return False
        if unbound:
            solved = _solve(dim, unbound[0], actual, self.values)
            if solved is None:
                return False
            if solved < 0:
                raise self._mismatch(what, name, kind, shape, axis, dim, f"which no {unbound[0]} >= 0 gives")
            self.values[unbound[0]] = solved
            self.origin[unbound[0]] = f"{what} {name!r}"
            return True
        expected = evaluate(dim, self.values)
        if expected != actual:
            known = [f"{s} is {self.values[s]} by {self.origin[s]}" for s in sorted(getattr(dim, "symbols", ()))]
            why = f"but {', '.join(known)}" if known else f"expected {expected}"
            raise self._mismatch(what, name, kind, shape, axis, dim, why)
        return True

    def _mismatch(
        self, what: str, name: str, kind: TensorType, shape: tuple[int, ...], axis: int, dim: Extent, why: str
    ) -> InputError:
        place = f"dimension {axis} ({dim})" if isinstance(dim, Dim) else f"dimension {axis}"
        return InputError(
            f"{what} {name!r}: {place} is {shape[axis]}, {why}",
            hint=f"got shape {list(shape)}, expected {describe_type(kind)}",
            input=name,
        )


def _solve(dim: Extent, symbol: str, actual: int, values: Mapping[str, int]) -> int | None:
    """The number for the only open symbol; -1 where there is none, None where `dim` is not affine in it."""
    split = _affine(dim, symbol)
    if split is None:
        return None
    rest, slope = evaluate(split[0], values), evaluate(split[1], values)
    if slope == 0:
        return None
    return (actual - rest) // slope if (actual - rest) % slope == 0 and (actual - rest) // slope >= 0 else -1


@lru_cache(maxsize=1024)
def _affine(dim: Extent, symbol: str) -> tuple[Extent, Extent] | None:
    """(rest, slope) of a dimension that is affine in a symbol. What a host step makes is matched in every run."""
    split = linear(dim, [symbol])
    return None if split is None else (split[0], split[1].get(symbol, 0))


def describe_type(kind: Type) -> str:
    """A type in numpy's words: `float32[N, 3, 64, 64]`."""
    if not isinstance(kind, TensorType):
        return str(kind)
    dtype = "strings" if kind.dtype is DType.STRING else str(kind.dtype.numpy)
    return f"{dtype}[{', '.join(map(str, kind.shape))}]" if kind.shape is not None else f"{dtype}[*]"


def _rank_hint(expected: tuple[Extent, ...], got: tuple[int, ...]) -> str | None:
    if len(got) == len(expected) - 1:
        return "is the batch dimension missing? array[None] adds one"
    return None


def _all(inputs: Sequence[Value]) -> str:
    return "they are " + ", ".join(f"{v.name!r} ({describe_type(v.type)})" for v in inputs) if inputs else "it has none"
