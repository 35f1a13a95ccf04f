"""Graphs inside host steps as plans of their own: compiled when they first run, for the shapes that they then find."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from fusec.errors import ExecutionError, FusecError, InputError
from fusec.host.inner import Array, Control, Inner, NotCompiled, RunBody, input_of
from fusec.host.leaps import Leap, Leaps
from fusec.host.sizes import Key, Size, Sizes, kinds_of
from fusec.host.subgraph import constant_sizes, count_nodes
from fusec.host.unroll import Roles

KEPT = 8
PLAN_BYTES = 256 << 20
"""For how many shapes of its inputs a body keeps a plan, and how many bytes of weights these may hold; one is always kept."""
MOST_COMPILES = 32
"""How often one body is compiled at most; a new shape after that is the evaluator's."""
FEW_NODES = 8
FEW_ELEMENTS = 64
"""Branches of fewer nodes, or without any larger tensor, are not worth the time that compiling them takes. Bodies of loops
always are: they run often.
"""


class Body:
    """One graph of a host step with its plans, found by the dtypes and shapes of what it reads from outside."""

    def __init__(self, control: Control, attribute: str, roles: Roles | None = None) -> None:
        self.inner = inner = Inner(control, attribute)
        self.name = inner.name
        self.why = ""
        """Why the evaluator ran it; empty where it never did."""
        self.failed = False
        """Whether that was because it could not be compiled."""
        self.compiles = 0
        self.turns = 0
        """How often it ran as a plan."""
        self.lock = threading.Lock()
        self.leaps = None if roles is None else Leaps(inner, roles)
        formals = inner.formals
        self.formal_places = tuple(i for i, n in enumerate(formals) if n in inner.parts.read)
        self.names = (*(formals[i] for i in self.formal_places), *inner.varying)
        self.wanted = inner.parts.made
        made, handed = ({n: i for i, n in enumerate(names)} for names in (self.wanted, formals))
        self.sources = [
            (o.constant, made.get(o.name), handed.get(o.name), inner.outer.get(o.name)) for o in inner.parts.outputs
        ]
        """Of each output the constant that it is, or its place among what is made, handed in, or captured."""
        self._has_many = count_nodes(control.graph(attribute)) >= FEW_NODES
        self._is_repeated = roles is not None
        self._is_told = False
        self._plans: OrderedDict[Key, RunBody | None] = OrderedDict()
        self._general: dict[tuple[tuple[int, int], ...], _General] = {}

    def forget_locks(self) -> None:
        """In the child of a fork: a lock may be held by a thread that is not here."""
        self.lock = threading.Lock()
        if self.leaps is not None:
            self.leaps.lock = threading.Lock()

    def bind(self, inputs: Sequence[object]) -> BoundBody:
        """The body for one run of the host step. NotCompiled where the evaluator is to run that."""
        if not self._has_many and not self._is_repeated:
            raise self.refuse("too few nodes to be worth compiling")
        return BoundBody(self, inputs)

    def refuse(self, why: str) -> NotCompiled:
        """Note why the evaluator is to run the host step."""
        self.why = why
        return NotCompiled()

    def warn(self) -> None:
        """Say, once, that the evaluator runs what should have been compiled."""
        if self.failed and not self._is_told:
            self._is_told = True
            warnings.warn(
                f"{self.name} runs on the reference implementation, slowly; it cannot be compiled: {self.why}",
                RuntimeWarning,
                stacklevel=2,
            )

    def plan(self, key: Key, before: Key | None, inputs: Sequence[object], values: Sequence[Array]) -> RunBody:
        """The plan for these dtypes and shapes. NotCompiled where the evaluator is to run the host step.

        `before` is what they were in the last turn of a loop: sizes that change there are symbols at once.
        """
        with self.lock:
            run = self._plans.get(key)
            if run is not None:
                self._plans.move_to_end(key)
            elif key not in self._plans:
                run = self._new_plan(key, before, inputs, values)
        if run is None:
            raise NotCompiled
        return run

    def _new_plan(
        self, key: Key, before: Key | None, inputs: Sequence[object], values: Sequence[Array]
    ) -> RunBody | None:
        """The plan for all shapes where it is made already or due, else one for these shapes, which is kept."""
        general = self._general.setdefault(kinds_of(key), _General(Sizes()))
        if general.run is not None and general.sizes.fit(key):
            return general.run
        changes = before is not None and kinds_of(before) == kinds_of(key)
        if before is not None and changes:
            general.sizes.see(before)
        general.sizes.see(key)
        kept = max(1, min(KEPT, PLAN_BYTES // max(1, self.inner.weight_bytes(inputs))))
        is_due = (changes or self.compiles >= kept) and not general.failed
        if is_due and (run := self._compiled(inputs, values, general.sizes.pattern())) is not None:
            general.run = run
            return run
        general.failed |= is_due
        run = None if changes else self._compiled(inputs, values, [v.shape for v in values])
        if len(self._plans) >= kept:
            self._plans.popitem(last=False)
        self._plans[key] = run
        return run

    def _is_worth(self, inputs: Sequence[object], values: Sequence[Array]) -> bool:
        sizes = [v.size for v in (*values, *self.inner.constants(inputs).values())]
        return self._is_repeated or max((*sizes, *constant_sizes(self.inner.parts.graph)), default=0) > FEW_ELEMENTS

    def _compiled(
        self, inputs: Sequence[object], values: Sequence[Array], shapes: Sequence[Sequence[Size]]
    ) -> RunBody | None:
        """The graph compiled for these shapes, names being symbols; None where it is not worth it or cannot be."""
        if self.compiles >= MOST_COMPILES:
            self.why = f"it was compiled for {MOST_COMPILES} shapes before"
            return None
        constants = self.inner.constants(inputs)
        if len(constants) < len(self.inner.fixed) or not self._is_worth(inputs, values):
            self.why = "it is too small to be worth compiling"
            return None
        self.compiles += 1
        graph = onnx.GraphProto()
        graph.CopyFrom(self.inner.parts.graph)
        graph.name = self.name
        given = dict(zip(self.names, zip(values, shapes, strict=True), strict=True))
        for name, (value, shape) in (given | {n: (v, v.shape) for n, v in constants.items()}).items():
            graph.input.append(input_of(name, value, shape))
        try:
            return self.inner.compile(onnx.helper.make_model(graph, opset_imports=self.inner.opsets), constants)
        except FusecError as e:
            self.why, self.failed = str(e), True
            return None


class BoundBody:
    """A body in one run of its host step: what it captures is the same in every turn."""

    def __init__(self, body: Body, inputs: Sequence[object]) -> None:
        self._body = body
        self._inputs = inputs
        self._outer = [_tensor(body, inputs[i]) for i in body.inner.varying.values()]
        self._outer_key = [(v.dtype.num, v.shape) for v in self._outer]
        self._key: Key | None = None
        self._run: RunBody | None = None

    def __call__(self, formals: Sequence[Any] = ()) -> list[Any]:
        """The outputs in order. NotCompiled where the evaluator is to run the host step, ExecutionError where it fails."""
        body = self._body
        made: list[Any] = []
        if body.wanted:
            values = [_tensor(body, formals[i]) for i in body.formal_places]
            key = (*[(v.dtype.num, v.shape) for v in values], *self._outer_key)
            values += self._outer
            if key != self._key or self._run is None:
                self._run = body.plan(key, self._key, self._inputs, values)
                self._key = key
            made = self.run(self._run, dict(zip(body.names, values, strict=True)), body.wanted)
        return [
            constant
            if constant is not None
            else made[made_at]
            if made_at is not None
            else formals[formal]
            if formal is not None
            else self._inputs[outer]  # type: ignore[index]  # a name is made, handed in or captured
            for constant, made_at, formal, outer in body.sources
        ]

    def find_leap(self, given: Sequence[Any], outputs: Sequence[Any]) -> Leap | None:
        """Several turns in one go, like the one that was given and made these; None where they must run one by one."""
        leaps = self._body.leaps
        return None if leaps is None else leaps.find(given, outputs, self._inputs, self.run)

    def run(self, plan: RunBody, feeds: dict[str, Any], wanted: Sequence[str], turns: int = 1) -> list[Any]:
        """What a plan makes. NotCompiled where the evaluator is to run the host step, ExecutionError where it fails."""
        body = self._body
        try:
            made = plan(feeds, wanted)
        except InputError as e:  # shapes that are not as the model declares: the evaluator does not mind, or says so
            raise body.refuse(str(e)) from e
        except ExecutionError as e:
            raise ExecutionError(f"{body.name}: {e.message}", hint=e.hint, node=e.node or body.name, op=e.op) from e
        body.turns += turns
        return made


@dataclass(eq=False)
class _General:
    """The plan for all shapes of inputs of the same dtypes and ranks."""

    sizes: Sizes
    run: RunBody | None = None
    failed: bool = False


def _tensor(body: Body, value: object) -> Array:
    """A value that a plan can read."""
    array = np.asarray(value) if isinstance(value, np.generic) else value
    if not isinstance(array, np.ndarray) or array.dtype.kind in "OUST":
        raise body.refuse("it reads what is no tensor of numbers")
    return array
