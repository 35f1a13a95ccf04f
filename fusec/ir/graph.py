"""The graph: frozen nodes and values over one networkx DiGraph. A pass makes a new graph; nothing is changed in place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt

from fusec.ir.dim import Extent
from fusec.ir.requirement import Requirement
from fusec.ir.types import DType, TensorType, Type

Attr = None | bool | int | float | str | bytes | DType | Extent | TensorType | tuple["Attr", ...]
"""What an attribute may hold: plain data that prints, compares and hashes."""


@dataclass(frozen=True, slots=True)
class Value:
    """What flows on an edge: a name, unique in its graph, and a type. It knows no producer, so nodes can be rewritten alone."""

    name: str
    type: Type

    @property
    def tensor(self) -> TensorType:
        """The type, where it is a tensor with dtype and shape. TypeError otherwise."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"{self.name}: {self.type} is not a tensor")
        return self.type

    @property
    def shape(self) -> tuple[Extent, ...]:
        """The tensor's shape."""
        return self.tensor.dims

    @property
    def dtype(self) -> DType:
        """The tensor's dtype."""
        return self.tensor.dtype

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Node:
    """One application of an op.

    `inputs` may hold None for an optional input that is absent. `attrs` is sorted by name. `origin` names the ONNX nodes
    that this node stands for, as the user wrote them; it is for messages and profiles and takes no part in equality.
    """

    op: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    origin: tuple[str, ...] = field(default=(), compare=False)
    operands: tuple[Value, ...] = field(init=False, repr=False, compare=False)
    """The inputs that are there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", tuple([v for v in self.inputs if v is not None]))

    @staticmethod
    def make(
        op: str,
        inputs: Iterable[Value | None],
        outputs: Iterable[Value],
        origin: tuple[str, ...] = (),
        **attrs: Attr,
    ) -> Node:
        """A node with its attributes as keywords."""
        return Node(op, tuple(inputs), tuple(outputs), tuple(sorted(attrs.items())), origin)

    @property
    def output(self) -> Value:
        """The only output."""
        (out,) = self.outputs
        return out

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; the default where it is absent."""
        return next((v for k, v in self.attrs if k == name), default)

    def with_inputs(self, inputs: Iterable[Value | None]) -> Node:
        """The same node reading other values."""
        return replace(self, inputs=tuple(inputs))


@dataclass(frozen=True, eq=False, slots=True)
class Weight:
    """A constant tensor and how it came about.

    `recipe` is an expression over the model's initialisers, as data: `init("fc1.weight")`, or what constant folding made
    of it, `transpose[perm=(1, 0)](init("fc1.weight"))`. `array` may be a read-only memory map; nobody writes to it.
    """

    value: Value
    array: npt.NDArray[Any]
    recipe: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a model file says about itself: text for people, which nothing here acts on. `custom` are its own entries."""

    producer: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole program: inputs, outputs, nodes in a topological order, weights by name, and what it needs of its sizes.

    Always holds (checked by `ir.verify`): every value has one producer (an input, a weight or a node), is produced before
    it is used, and types are what the ops' type rules say.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()
    source_sha256: str = field(default="", compare=False)
    """The hash of the model file that it was read from, where it was read from one."""
    metadata: Metadata = field(default=Metadata(), compare=False)

    @cached_property
    def producer(self) -> dict[str, Node]:
        """Value name -> the node that makes it; inputs and weights are absent."""
        return {v.name: n for n in self.nodes for v in n.outputs}

    @cached_property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """Value name -> the nodes that read it, in order, each once."""
        out: dict[str, list[Node]] = {}
        for n in self.nodes:
            for name in dict.fromkeys(v.name for v in n.operands):
                out.setdefault(name, []).append(n)
        return {k: tuple(v) for k, v in out.items()}

    @cached_property
    def values(self) -> dict[str, Value]:
        """Every value of the graph by name."""
        out = {v.name: v for v in self.inputs} | {w.value.name: w.value for w in self.weights.values()}
        return out | {v.name: v for n in self.nodes for v in n.outputs}

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The names of the outputs."""
        return frozenset(v.name for v in self.outputs)

    @cached_property
    def dag(self) -> nx.DiGraph[int]:
        """Node positions as a frozen DiGraph: an edge where one node reads what another makes."""
        position = {v.name: i for i, n in enumerate(self.nodes) for v in n.outputs}
        dag: nx.DiGraph[int] = nx.DiGraph()
        dag.add_nodes_from(range(len(self.nodes)))
        dag.add_edges_from(
            (position[v.name], i) for i, n in enumerate(self.nodes) for v in n.operands if v.name in position
        )
        nx.freeze(dag)
        return dag

    def array(self, value: Value | None) -> npt.NDArray[Any] | None:
        """The constant behind a value, or None where it is computed."""
        weight = self.weights.get(value.name) if value is not None else None
        return None if weight is None else weight.array

    def with_nodes(self, nodes: Iterable[Node], weights: Mapping[str, Weight] | None = None) -> Graph:
        """The same inputs and outputs over other nodes (and weights)."""
        return replace(self, nodes=tuple(nodes), weights=self.weights if weights is None else dict(weights))

    def __str__(self) -> str:
        from fusec.ir.text import print_graph

        return print_graph(self)


def weight(name: str, array: npt.NDArray[Any], recipe: str | None = None) -> Weight:
    """A weight from an array; the recipe defaults to the initialiser of that name."""
    array = np.asarray(array)
    value = Value(name, TensorType(DType.of(array.dtype), tuple(int(d) for d in array.shape)))
    return Weight(value, array, recipe if recipe is not None else f"init({json.dumps(name)})")
