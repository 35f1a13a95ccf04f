"""The record that declares an op, once, with every fact that any stage needs; and the catalogue of all ops."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, UsageError, nearest
from fusec.ir.dim import Extent, product
from fusec.ir.expr import Expr
from fusec.ir.types import TensorType, Type

Attrs = Mapping[str, Any]
Infer = Callable[[Sequence[Type | None], Attrs], tuple[Type, ...]]
Reference = Callable[[Sequence["npt.NDArray[Any] | None"], Attrs], "tuple[npt.NDArray[Any], ...]"]
Scalar = Callable[[Sequence[Expr | None], Attrs], Expr]


class Kind(enum.Enum):
    """All that the legality of fusion may read of an op."""

    __hash__ = object.__hash__  # members are single objects; Enum's own is slow, and fusion asks all the time

    ELEMENTWISE = "elementwise"
    """Each output element from the broadcast input elements at the same index."""
    VIEW = "view"
    """Each output element is one input element elsewhere, or a fill: reshape, transpose, slice, concat, pad, iota."""
    REDUCTION = "reduction"
    """Folds over some axes of one main input, whatever happens around the folds: sums, softmax, norms, argmax."""
    CONTRACTION = "contraction"
    """A sum of products over an axis of two inputs."""
    GATHER = "gather"
    """Elements chosen by an index that is read from memory."""
    SCATTER = "scatter"
    """Elements written to places that are read from memory, one after the other."""
    RECURRENT = "recurrent"
    """Steps in order, each reading the state that the one before left."""
    OPAQUE = "opaque"
    """Runs as a host step between regions."""


@dataclass(frozen=True, slots=True)
class Op:
    """An op of the IR.

    `infer` maps input types (None for an absent input) and attributes to output types and raises ModelError where they do
    not fit. `reference` computes it with numpy in the precision of its inputs and is the judge in tests. `scalar` (every
    elementwise op has one) builds one output element from the input elements, None where the node leaves an optional input
    out (trailing ones may be missing altogether); the broadcast is not its business. Other kinds are lowered in
    fusec/lower by name.
    """

    name: str
    kind: Kind
    infer: Infer
    reference: Reference
    scalar: Scalar | None = None
    flops_per_element: float = 1.0

    def __post_init__(self) -> None:
        if (self.kind is Kind.ELEMENTWISE) != (self.scalar is not None):
            raise BugError(f"op {self.name}: a scalar body belongs to elementwise ops, and only to them")


_CATALOGUE: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add an op to the catalogue. UsageError where its name is taken: two meanings of one name are never allowed."""
    if op.name in _CATALOGUE:
        raise UsageError(f"op {op.name!r} is declared twice", hint="choose another name")
    _CATALOGUE[op.name] = op
    return op


def get(name: str) -> Op:
    """The op of that name: fusec's, a package's or a user's function. UsageError with the nearest name if there is none."""
    # fills the catalogue on first use; importing fusec stays light
    from fusec.ops import catalogue

    if name not in _CATALOGUE:
        if catalogue.PLUG_INS.find(name) is None:
            from fusec.ops.custom import find_op

            if (found := find_op(name)) is not None:
                return found
            raise UsageError(f"unknown op {name!r}", hint=nearest(name, known()))
        catalogue.load_plug_in(name)
    return _CATALOGUE[name]


def known() -> tuple[str, ...]:
    """The names of all ops, those of installed packages included, sorted."""
    from fusec.ops import catalogue

    return tuple(sorted(_CATALOGUE.keys() | catalogue.PLUG_INS.points().keys()))


def declared() -> tuple[str, ...]:
    """The names registered so far, in order; plug-ins that nobody asked for are absent."""
    return tuple(_CATALOGUE)


def count_elements(t: TensorType) -> Extent:
    """The number of elements of a tensor type."""
    return product(t.dims)


def as_tuple(x: np.ndarray[Any, Any]) -> tuple[npt.NDArray[Any], ...]:
    """The result of a reference with one output."""
    return (np.asarray(x),)
