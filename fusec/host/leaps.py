"""Several turns of a loop in one run of a plan."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.host.inner import Array, Inner, RunBody, input_of
from fusec.host.sizes import Key
from fusec.host.subgraph import Output
from fusec.host.unroll import Roles, Unrolled, count_turns, unroll

KEPT = 8
LEAP_BYTES = 4 << 20
"""For how many shapes plans are kept, and of how many bytes of weights, which such a plan holds once more: reading more of
them takes longer than what is around a turn.
"""

RunPlan = Callable[[RunBody, dict[str, Any], Sequence[str], int], list[Any]]
"""A plan, its feeds, the outputs that are wanted, and of how many turns they are -> the outputs."""


class Leaps:
    """The plans of several turns of one body."""

    def __init__(self, inner: Inner, roles: Roles) -> None:
        self.lock = threading.Lock()
        self.plans: OrderedDict[Key, tuple[Unrolled, RunBody] | None] = OrderedDict()
        self._inner, self._roles = inner, roles
        outputs = inner.parts.outputs
        goes_on = not roles.is_loop or (bool(outputs) and _is_true(outputs[0], inner.formals[1]))
        self._turns = count_turns(inner.parts) if goes_on else 0

    def find(self, given: Sequence[Any], outputs: Sequence[Any], inputs: Sequence[Any], run: RunPlan) -> Leap | None:
        """Turns like one that was given and made these; None where they must run one by one."""
        inner, roles = self._inner, self._roles
        made = outputs[roles.first_made :]
        states = zip(given[roles.first : roles.first + roles.states], made, strict=False)
        if not self._turns or any(a.shape != b.shape or a.dtype != b.dtype for a, b in states):
            return None
        if inner.weight_bytes(inputs) > LEAP_BYTES:
            return None
        rows, varying = made[roles.states :], {n: inputs[i] for n, i in inner.varying.items()}
        key = tuple((v.dtype.num, v.shape) for v in (*given, *rows, *varying.values()))
        with self.lock:
            if key not in self.plans:
                if len(self.plans) >= KEPT:
                    self.plans.popitem(last=False)
                values = dict(zip(inner.formals, given, strict=True)) | varying
                self.plans[key] = self._compiled(values, [r.shape for r in rows], inner.constants(inputs))
            found = self.plans[key]
        return None if found is None else Leap(inner, roles, inputs, *found, run)

    def _compiled(
        self, values: dict[str, Array], rows: Sequence[Sequence[int]], constants: dict[str, Array]
    ) -> tuple[Unrolled, RunBody] | None:
        inner, roles = self._inner, self._roles
        made = unroll(inner.parts, inner.formals, roles, rows, inner.opsets)
        slices = inner.formals[roles.first + roles.states :]
        for name, v in (values | constants).items():
            if name in made.inputs:
                shape = (made.turns, *v.shape) if name in slices else v.shape
                made.model.graph.input.append(input_of(name, v, shape))
        made.model.graph.name = inner.name
        try:
            return made, inner.compile(made.model, constants)
        except FusecError:
            return None  # turn by turn then


class Leap:
    """Several turns in one run of a host step."""

    def __init__(
        self, inner: Inner, roles: Roles, inputs: Sequence[Any], made: Unrolled, plan: RunBody, run: RunPlan
    ) -> None:
        self.turns = made.turns
        self._made, self._plan, self._run = made, plan, run
        self._number = inner.formals[0] if roles.is_loop and inner.formals[0] in made.inputs else ""
        self._states = inner.formals[roles.first : roles.first + roles.states]
        self._slices = inner.formals[roles.first + roles.states :]
        self._outer = {n: inputs[i] for n, i in inner.outer.items()}
        self._feeds = {n: v for n, v in self._outer.items() if n in made.inputs and n not in inner.fixed}

    def __call__(self, done: int, states: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        """The states and the rows after this many turns."""
        wanted, inputs = self._made.outputs, self._made.inputs
        values = dict(zip(self._states, states, strict=True))
        feeds = self._feeds | {n: v for n, v in values.items() if n in inputs}
        feeds |= {n: np.ascontiguousarray(v) for n, v in zip(self._slices, slices, strict=True) if n in inputs}
        if self._number:
            feeds[self._number] = np.array(done, np.int64)
        values |= dict(zip(wanted, self._run(self._plan, feeds, wanted, self.turns), strict=True))
        known = self._outer | values
        after = [known[s.name] if s.constant is None else s.constant for s in self._made.states]
        return after, [values[n] for n in self._made.rows]


def _is_true(condition: Output, formal: str) -> bool:
    """Whether a loop's condition, once true, always is."""
    return condition.name == formal or (condition.constant is not None and bool(condition.constant.all()))
