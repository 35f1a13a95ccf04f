"""If, Loop and Scan with compiled bodies. A call gives the outputs, or raises NotCompiled: then the evaluator runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from fusec.host.bodies import Body
from fusec.host.inner import Control
from fusec.host.loops import run_loop, run_scan, scanning
from fusec.host.unroll import Roles

WRONG = (ValueError, TypeError, LookupError)
"""What a damaged node, or values that do not fit it, raise here."""


class Compiled(Protocol):
    """A host step whose bodies are plans."""

    bodies: tuple[Body, ...]

    def __call__(self, inputs: Sequence[object]) -> list[Any]: ...  # noqa: D102


def compiled_control(control: Control) -> Compiled | None:
    """A host step with compiled bodies; None for one that has no bodies."""
    kind = KINDS.get(control.proto.op_type)
    if kind is None or control.proto.domain not in ("", "ai.onnx"):
        return None
    try:
        return kind(control)
    except WRONG:
        return None  # something is missing: the evaluator says what


class Branches:
    """An If."""

    def __init__(self, control: Control) -> None:
        self.bodies: tuple[Body, ...] = tuple(Body(control, name) for name in ("else_branch", "then_branch"))

    def __call__(self, inputs: Sequence[object]) -> list[Any]:
        """The outputs of the branch that the condition takes."""
        condition, body = inputs[0], self.bodies[0]
        if not isinstance(condition, np.ndarray | np.generic) or condition.size != 1:
            raise body.refuse("the condition is not one truth value")
        return _own(self.bodies[bool(condition.item())].bind(inputs)(), inputs)


class CompiledLoop:
    """A Loop."""

    def __init__(self, control: Control) -> None:
        self._inputs = len(control.proto.input)
        self._scanned = _scanned(control, self._inputs - 1)
        self.bodies: tuple[Body, ...] = (Body(control, "body", Roles(self._inputs - 2, is_loop=True)),)

    def __call__(self, inputs: Sequence[object]) -> list[Any]:
        """The final carried values, then what was scanned."""
        (body,) = self.bodies
        trips, condition, *carried = inputs[: self._inputs]
        try:
            turn = body.bind(inputs)
            return _own(run_loop(turn, trips, condition, carried, self._scanned, turn.find_leap), inputs)
        except WRONG as e:  # the evaluator says it in its own words
            raise body.refuse(str(e)) from e


class CompiledScan:
    """A Scan, of opset 8 as well."""

    def __init__(self, control: Control) -> None:
        self._inputs = len(control.proto.input)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in control.proto.attribute}
        self._scan = scanning(attributes, dict(control.node.attr("opsets")).get("", 1))
        states = self._scan.states(self._inputs)
        self._scanned = _scanned(control, states)
        self.bodies: tuple[Body, ...] = (Body(control, "body", Roles(states, is_loop=False)),)

    def __call__(self, inputs: Sequence[object]) -> list[Any]:
        """The final states, then what was scanned."""
        (body,) = self.bodies
        try:
            turn = body.bind(inputs)
            return _own(run_scan(turn, inputs[: self._inputs], self._scan, self._scanned, turn.find_leap), inputs)
        except WRONG as e:  # the evaluator says it in its own words
            raise body.refuse(str(e)) from e


KINDS: dict[str, Callable[[Control], Compiled]] = {"If": Branches, "Loop": CompiledLoop, "Scan": CompiledScan}


def _scanned(control: Control, first: int) -> list[onnx.TypeProto]:
    return [o.type for o in control.graph("body").output[first:]]


def _own(values: Sequence[Any], inputs: Sequence[object]) -> list[Any]:
    """The values, each in memory that belongs to the caller."""
    taken = {id(v) for v in inputs}
    out = []
    for v in values:
        if isinstance(v, np.ndarray) and (id(v) in taken or v.base is not None or not v.flags.writeable):
            v = v.copy()
        taken.add(id(v))
        out.append(v)
    return out
