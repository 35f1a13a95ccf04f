"""Apply many replacements to a graph in one rebuild, in linear time: what a rewriting pass ends with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fusec.errors import BugError
from fusec.ir.graph import Graph, Node, Value, Weight


@dataclass(frozen=True, slots=True)
class Replacement:
    """Take nodes out of a graph and put others in.

    Readers of a value in `forward` read the value it maps to instead (chains of forwards are followed). A new node may
    make a value under its old name, or under a new one that `Names` gave. Values of removed nodes that are neither made
    again nor forwarded must have no reader left.
    """

    removes: tuple[Node, ...] = ()
    nodes: tuple[Node, ...] = ()
    forward: Mapping[str, Value] = field(default_factory=dict)
    weights: tuple[Weight, ...] = ()


class Names:
    """Gives out value names that a graph does not use yet, the same ones every time."""

    def __init__(self, graph: Graph) -> None:
        self._taken = set(graph.values)
        self._next: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint` itself if it is free, else `hint.1`, `hint.2`, ..."""
        name, n = hint, self._next.get(hint, 0)
        while name in self._taken:
            n += 1
            name = f"{hint}.{n}"
        self._next[hint] = n
        self._taken.add(name)
        return name


def rebuild(graph: Graph, replacements: Iterable[Replacement]) -> Graph:
    """The graph with all replacements made, in a topological order that stays as close to the old one as it can.

    The same graph object where there is nothing to do. Outputs keep their names: where an output is forwarded to a value
    that a node makes, that value takes over the name; where it is forwarded to an input, a weight or another output, an
    `identity` node makes it. Each node is removed by at most one replacement (BugError otherwise).
    """
    todo = list(replacements)
    if not todo:
        return graph
    removed, place = _placements(graph, todo)
    nodes = list(place.get(-1, ()))
    for i, n in enumerate(graph.nodes):
        if i not in removed:
            nodes.append(n)
        nodes.extend(place.get(i, ()))
    weights = dict(graph.weights) | {w.value.name: w for r in todo for w in r.weights}
    forward = {k: v for r in todo for k, v in r.forward.items()}
    nodes = [_reading(n, forward) for n in nodes] if forward else nodes
    nodes, outputs = _keep_outputs(graph, nodes, forward)
    return replace(graph, outputs=outputs, nodes=tuple(_sorted(nodes)), weights=weights)


def follow(value: Value, forward: Mapping[str, Value]) -> Value:
    """Where a chain of forwards ends. BugError for a circle."""
    steps = 0
    while value.name in forward:
        value = forward[value.name]
        steps += 1
        if steps > len(forward):
            raise BugError(f"values are forwarded in a circle through {value.name!r}")
    return value


def _placements(graph: Graph, todo: list[Replacement]) -> tuple[set[int], dict[int, list[Node]]]:
    """Positions of removed nodes, and the new nodes by the position that they follow; -1 is before all."""
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    made = {v.name: i for i, n in enumerate(graph.nodes) for v in n.outputs}
    removed: set[int] = set()
    place: dict[int, list[Node]] = {}
    for r in todo:
        at = -1
        for n in r.removes:
            i = position.get(id(n), made.get(n.outputs[0].name, -1))
            if i < 0:
                raise BugError(f"a replacement removes a node that the graph has not: {n.op} -> {n.outputs[0].name}")
            if i in removed:
                raise BugError(f"two replacements remove the node that makes {n.outputs[0].name!r}")
            removed.add(i)
            at = max(at, i)
        if not r.removes:  # pure additions go right behind the last node that they read
            at = max((made.get(v.name, -1) for n in r.nodes for v in n.operands), default=-1)
        place.setdefault(at, []).extend(r.nodes)
    return removed, place


def _reading(node: Node, forward: Mapping[str, Value]) -> Node:
    if not any(v is not None and v.name in forward for v in node.inputs):
        return node
    return node.with_inputs(None if v is None else follow(v, forward) for v in node.inputs)


def _keep_outputs(
    graph: Graph, nodes: list[Node], forward: Mapping[str, Value]
) -> tuple[list[Node], tuple[Value, ...]]:
    """Give every output its name back."""
    makers = {v.name for n in nodes for v in n.outputs}
    outputs: list[Value] = []
    renamed: dict[str, Value] = {}
    extra: list[Node] = []
    for out in graph.outputs:
        target = follow(out, forward)
        if target.name == out.name or out.name in makers:
            outputs.append(target if target.name == out.name else out)
            continue
        kept = Value(out.name, target.type)
        outputs.append(kept)
        if target.name in makers and target.name not in graph.output_names and target.name not in renamed:
            makers.add(out.name)
            renamed[target.name] = kept
        else:
            makers.add(out.name)
            extra.append(Node.make("identity", [renamed.get(target.name, target)], [kept]))
    if renamed:
        nodes = [_renamed(n, renamed) for n in nodes]
    return nodes + extra, tuple(outputs)


def _renamed(node: Node, renamed: Mapping[str, Value]) -> Node:
    touched = any(v.name in renamed for v in (*node.operands, *node.outputs))
    if not touched:
        return node
    return replace(
        node,
        inputs=tuple(v if v is None else renamed.get(v.name, v) for v in node.inputs),
        outputs=tuple(renamed.get(v.name, v) for v in node.outputs),
    )


def _sorted(nodes: list[Node]) -> Iterator[Node]:
    """Each node after what it reads: a depth-first walk in list order, so a list that is in order stays as it is."""
    producer = {v.name: i for i, n in enumerate(nodes) for v in n.outputs}
    state = bytearray(len(nodes))  # 0 unseen, 1 waits for its producers, 2 emitted
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            i = stack[-1]
            if state[i] == 2:
                stack.pop()
                continue
            wait = [p for v in nodes[i].operands if (p := producer.get(v.name)) is not None and state[p] != 2]
            if not wait:
                state[i] = 2
                stack.pop()
                yield nodes[i]
            elif state[i] == 1:
                raise BugError(f"the replacements close a circle through {nodes[i].outputs[0].name!r}")
            else:
                state[i] = 1
                stack.extend(reversed(wait))
