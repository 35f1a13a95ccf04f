"""One walk over a graph that tries rewriting rules on every node and applies all of them in a single rebuild.

A rule looks backwards from its node. Nodes are visited in topological order and every rule sees its inputs as rewritten
so far, so a chain of any length collapses in one walk, and a pass costs time in proportion to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ModelError, UnsupportedError
from fusec.ir.graph import Attr, Graph, Node, Value, Weight
from fusec.ir.types import DType, TensorType
from fusec.ops import op as ops
from fusec.passes.graph.eliminate_dead import without_dead
from fusec.rewrite.rebuild import Names, Replacement, follow, rebuild

Array = npt.NDArray[Any]
Rule = Callable[["Sweep", Node], "Value | None"]
"""Gives the value that the node's output may be replaced by (made with `Sweep.emit`, or there already), or None."""
MOST_REWRITES = 16
"""Rewrites of one node in one walk; rules that undo each other stop here, not never."""


def sweep(graph: Graph, rules: Mapping[str, Iterable[Rule]]) -> Graph:
    """The graph with the rules (by the op of the node they look at) applied wherever they fit, and what died removed."""
    if not any(n.op in rules for n in graph.nodes):
        return graph
    return Sweep(graph, {op: tuple(rs) for op, rs in rules.items()}).run()


class Sweep:
    """The walk: what rules ask for the makers and constants behind values, and emit new nodes to."""

    def __init__(self, graph: Graph, rules: Mapping[str, tuple[Rule, ...]]) -> None:
        self.graph = graph
        self._rules = rules
        self._names = Names(graph)
        self._forward: dict[str, Value] = {}
        self._maker: dict[str, Node] = {}
        self._weights: dict[str, Weight] = dict(graph.weights)
        self._scalars: dict[tuple[str, DType], Value] = {}
        self._replacements: list[Replacement] = []
        self._pending: list[Node] = []
        self._made: list[Weight] = []
        self._origin: tuple[str, ...] = ()

    def run(self) -> Graph:
        """Visit every node, then rebuild once."""
        for n in self.graph.nodes:
            self._visit(n)
        if not self._replacements:
            return self.graph
        return without_dead(rebuild(self.graph, self._replacements))

    # what rules ask

    def maker(self, v: Value | None, *wanted: str) -> Node | None:
        """The node that makes a value now, where its op is one of those wanted (any, if none is named)."""
        n = self._maker.get(v.name) if v is not None else None
        return n if n is not None and (not wanted or n.op in wanted) else None

    def array(self, v: Value | None) -> Array | None:
        """The constant behind a value."""
        w = self._weights.get(v.name) if v is not None else None
        return None if w is None else w.array

    def constant(self, v: Value | None) -> float | int | bool | None:
        """The one number that all elements of a constant are; None where it is not constant or has several."""
        a = self.array(v)
        if a is None or a.size == 0 or a.size > 1 << 16 or not DType.of(a.dtype).is_native:
            return None
        first = a.flat[0]
        same = a.size == 1 or (a.view(np.uint8).reshape(a.size, -1) == first.reshape(1).view(np.uint8)).all()
        if not same:
            return None
        return float(first) if DType.of(a.dtype).is_float else first.item()

    def readers(self, v: Value) -> int:
        """How many nodes read a value, with one more if it is an output of the graph; 1 for a value made in this walk."""
        if v.name not in self.graph.values:
            return 1
        return len(self.graph.consumers.get(v.name, ())) + (v.name in self.graph.output_names)

    # what rules make

    def emit(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """A new node, whose output type is inferred; it is dropped again if the rule gives up."""
        types = ops.get(op).infer([None if v is None else v.type for v in inputs], attrs)
        out = Value(self._names.fresh(op), types[0])
        node = Node(op, tuple(inputs), (out,), tuple(sorted(attrs.items())), self._origin)
        self._pending.append(node)
        self._maker[out.name] = node
        return out

    def scalar(self, number: float | int | bool, dtype: DType) -> Value:
        """A constant of rank 0."""
        key = (repr(number), dtype)
        if key not in self._scalars:
            array = np.asarray(number).astype(dtype.numpy)
            value = Value(self._names.fresh("literal"), TensorType(dtype, ()))
            w = Weight(value, array, f"literal[dtype={dtype}, value={number!r}]()")
            self._scalars[key] = value
            self._weights[value.name] = w
            self._made.append(w)
        return self._scalars[key]

    def absorb(self, *nodes: Node) -> None:
        """Say that what is emitted from now on also stands for these nodes."""
        extra = (name for n in nodes for name in n.origin)
        self._origin = tuple(dict.fromkeys((*self._origin, *extra)))

    # the walk

    def _visit(self, original: Node) -> None:
        node = original
        if any(v.name in self._forward for v in original.operands):
            node = original.with_inputs(None if v is None else follow(v, self._forward) for v in original.inputs)
        done: list[Node] = []
        for _ in range(MOST_REWRITES):
            self._maker.update((v.name, node) for v in node.outputs)  # rules read their own node like any other
            made = self._try_rules(node)
            if made is None:
                break
            value, nodes = made
            if value != node.output:
                self._record(original, [*done, *nodes], {original.output.name: value})
                return
            done += nodes[:-1]
            node = nodes[-1]
        if done or (node.op, node.attrs) != (original.op, original.attrs) or self._rewired(original, node):
            self._record(original, [*done, node], {})

    def _rewired(self, original: Node, node: Node) -> bool:
        return node.inputs != tuple(None if v is None else follow(v, self._forward) for v in original.inputs)

    def _record(self, original: Node, nodes: list[Node], forward: dict[str, Value]) -> None:
        self._forward.update(forward)
        self._replacements.append(Replacement((original,), tuple(nodes), forward, tuple(self._made)))
        self._made = []

    def _try_rules(self, node: Node) -> tuple[Value, list[Node]] | None:
        if len(node.outputs) != 1:
            return None
        for rule in self._rules.get(node.op, ()):
            self._pending, self._origin = [], node.origin
            try:
                value = rule(self, node)
            except (ModelError, UnsupportedError):  # what the rule wanted to emit does not fit these types
                value = None
            if value is not None and value.type == node.output.type and value.name != node.output.name:
                return self._named(value, node)
            for n in self._pending:
                del self._maker[n.output.name]
        return None

    def _named(self, value: Value, node: Node) -> tuple[Value, list[Node]]:
        """Let the last new node make the value under its old name."""
        nodes = self._pending
        if not nodes or nodes[-1].output != value:
            if any(value == n.output for n in nodes):
                raise BugError(f"the rule for {node.op} emits nodes behind its result")
            return value, nodes
        nodes[-1] = replace(nodes[-1], outputs=(node.output,))
        del self._maker[value.name]
        self._maker[node.output.name] = nodes[-1]
        return node.output, nodes
