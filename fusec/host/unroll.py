"""Several turns of a loop as one model, so that a plan runs them in one go: what a turn costs around its kernels is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from fusec.host.subgraph import Output, Parts, has_graphs

MOST_TURNS = 16
MOST_NODES = 256
"""How many turns are unrolled, and how many nodes these may have together; at least a quarter as many turns, or none."""
DOMAIN = "fusec.body"


@dataclass(frozen=True)
class Roles:
    """What the inputs and outputs of a body are. A Loop's begin with the number of the turn and whether to go on."""

    states: int
    is_loop: bool

    @property
    def first(self) -> int:
        """The place of the first state among the inputs."""
        return 2 if self.is_loop else 0

    @property
    def first_made(self) -> int:
        """The place of the first state among the outputs."""
        return 1 if self.is_loop else 0


@dataclass(eq=False)
class Unrolled:
    """A model of some turns. Its inputs have the names of the body's, scanned ones a dimension for the turns in front.

    `states` says of each state what it is afterwards, by a name of the model, or of an input of the body, or as a constant;
    `rows` names outputs.
    """

    model: onnx.ModelProto
    turns: int
    inputs: frozenset[str]
    states: list[Output]
    rows: list[str]
    outputs: list[str] = field(default_factory=list)


def count_turns(parts: Parts) -> int:
    """How many turns of a body are worth being one model; 0 where they are not."""
    graph = parts.graph
    if not parts.made or graph.sparse_initializer or any(map(has_graphs, graph.node)):
        return 0
    turns = min(MOST_TURNS, MOST_NODES // max(1, len(graph.node)))
    return turns if turns >= MOST_TURNS // 4 else 0


def unroll(
    parts: Parts, formals: Sequence[str], roles: Roles, shapes: Sequence[Sequence[int]], opsets: Sequence[Any]
) -> Unrolled:
    """The model of `count_turns` turns, without its inputs; `shapes` are those of the rows that one turn makes."""
    builder = _Builder(parts, formals, roles, count_turns(parts))
    nodes, states, rows = builder.all_turns(shapes)
    graph = onnx.GraphProto(name="turns")
    graph.initializer.extend([*parts.graph.initializer, *builder.constants.values()])
    graph.node.extend(nodes)
    made = {o for n in nodes for o in n.output}
    outputs = list(dict.fromkeys([*(s.name for s in states if s.name in made), *rows]))
    graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs)
    model = onnx.helper.make_model(
        graph, functions=[builder.function(opsets)], opset_imports=[*opsets, onnx.helper.make_opsetid(DOMAIN, 1)]
    )
    inputs = {i for n in nodes for i in n.input} - made - {t.name for t in graph.initializer}
    return Unrolled(model, builder.turns, frozenset(inputs), states, rows, outputs)


class _Builder:
    """The nodes: each turn is a call of one function, whose body the frontend puts in its place."""

    def __init__(self, parts: Parts, formals: Sequence[str], roles: Roles, turns: int) -> None:
        self.parts, self.formals, self.roles, self.turns = parts, formals, roles, turns
        self.constants: dict[str, onnx.TensorProto] = {}
        local = {o for n in parts.graph.node for o in n.output}
        self.arguments = sorted(parts.read - local)
        taken = {*formals, *self.arguments, *(o.name for o in parts.outputs), *local}
        self.prefix = "turn"
        while any(name.startswith(self.prefix) for name in taken):
            self.prefix += "_"

    def function(self, opsets: Sequence[Any]) -> onnx.FunctionProto:
        """One turn."""
        g = self.parts.graph
        return onnx.helper.make_function(DOMAIN, "Turn", self.arguments, self.parts.made, list(g.node), list(opsets))

    def all_turns(self, shapes: Sequence[Sequence[int]]) -> tuple[list[onnx.NodeProto], list[Output], list[str]]:
        """The nodes, what the states are afterwards, and the names of the stacked rows."""
        first, made = self.roles.first, self.roles.first_made
        nodes: list[onnx.NodeProto] = []
        states = [Output(n) for n in self.formals[first : first + self.roles.states]]
        rows: list[list[str]] = [[] for _ in shapes]
        for k in range(self.turns):
            env = self._handed_in(k, states, nodes)
            call = [self._name(env[n]) if n in env else n for n in self.arguments]
            own = {n: f"{self.prefix}{k}/{n}" for n in self.parts.made}
            nodes.append(onnx.helper.make_node("Turn", call, list(own.values()), domain=DOMAIN, name=f"turn {k}"))
            outputs = [self._after(o, own, env) for o in self.parts.outputs[made:]]
            states = outputs[: len(states)]
            for row, o, shape in zip(rows, outputs[len(states) :], shapes, strict=True):
                row.append(f"{self.prefix}{k}/row{len(row)}/{self._name(o)}")
                shaped = self._constant(np.array([1, *shape], np.int64))
                nodes.append(onnx.helper.make_node("Reshape", [self._name(o), shaped], [row[-1]]))
        names = [f"{self.prefix}s/{j}" for j in range(len(rows))]
        nodes += [onnx.helper.make_node("Concat", row, [n], axis=0) for row, n in zip(rows, names, strict=True)]
        return nodes, states, names

    def _handed_in(self, k: int, states: Sequence[Output], nodes: list[onnx.NodeProto]) -> dict[str, Output]:
        """What the body's inputs are in a turn."""
        first = self.roles.first
        env = dict(zip(self.formals[first:], states, strict=False))
        if self.roles.is_loop:
            number, truth = self.formals[:2]
            env |= {number: Output(f"{self.prefix}{k}/number"), truth: Output(truth, np.array(True))}
            if number in self.parts.read or any(o.name == number for o in self.parts.outputs):
                nodes.append(onnx.helper.make_node("Add", [number, self._constant(np.array(k))], [env[number].name]))
        for name in self.formals[first + len(states) :]:
            env[name] = Output(f"{self.prefix}{k}/slice/{name}")
            nodes.append(onnx.helper.make_node("Gather", [name, self._constant(np.array(k))], [env[name].name], axis=0))
        return env

    @staticmethod
    def _after(o: Output, own: dict[str, str], env: dict[str, Output]) -> Output:
        return o if o.constant is not None else Output(own[o.name]) if o.name in own else env.get(o.name, o)

    def _name(self, o: Output) -> str:
        return o.name if o.constant is None else self._constant(o.constant)

    def _constant(self, array: npt.NDArray[Any]) -> str:
        name = f"{self.prefix}c/{array.dtype}/{'x'.join(map(str, array.shape))}/{array.tobytes().hex()}"
        self.constants.setdefault(name, onnx.numpy_helper.from_array(array, name))
        return name
