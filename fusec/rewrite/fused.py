"""FusedGraph: a graph whose nodes are partitioned into groups, each of which becomes one kernel or one host step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import TensorType
from fusec.ops import op as ops
from fusec.ops.op import Kind

WEIGHT_OF_KINDS = (
    Kind.VIEW,
    Kind.ELEMENTWISE,
    Kind.GATHER,
    Kind.REDUCTION,
    Kind.CONTRACTION,
    Kind.SCATTER,
    Kind.RECURRENT,
    Kind.OPAQUE,
)
"""Kinds from the one that adapts to any loops to the one that dictates its own."""


@cache
def kind_of(op: str) -> Kind:
    """The kind of an op: asked so often that the way through the catalogue would show."""
    return ops.get(op).kind


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something may be done, and why (not). Never a bare bool.

    `duplicate` is for rules of fusion: where the producer has other readers, the consumer may compute its own copy.
    """

    ok: bool
    why: str
    duplicate: bool = False

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class Decision:
    """What one fusion pass said about one edge, for `fusec explain`."""

    rule: str
    producer: str
    consumer: str
    value: str
    verdict: Verdict


@dataclass(frozen=True)
class Group:
    """Nodes that run as one kernel, in topological order.

    `anchor` is the node that fixes the loops (a contraction, a reduction, else the last node). A group has one output
    value, except that values which others read too may be stored on the way: `outputs` lists all that leave the group.
    """

    nodes: tuple[Node, ...]
    anchor: Node
    outputs: tuple[Value, ...]

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """What the group reads from outside (weights included), each once, in first use order."""
        return tuple({v.name: v for n in self.nodes for v in n.operands if v.name not in self.made}.values())

    @cached_property
    def made(self) -> frozenset[str]:
        """The names of all values that its nodes make, stored or not."""
        return frozenset(v.name for n in self.nodes for v in n.outputs)

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of its nodes."""
        return frozenset(kind_of(n.op) for n in self.nodes)

    @cached_property
    def kind(self) -> Kind:
        """The kind of its most demanding node."""
        return max(self.kinds, key=WEIGHT_OF_KINDS.index)

    @cached_property
    def anchors(self) -> int:
        """Contractions, and reductions that do not share their rows with an earlier one."""
        from fusec.rewrite.legality import row_space

        if self.kinds.isdisjoint((Kind.CONTRACTION, Kind.REDUCTION)):
            return 0
        rows = {row_space(n) for n in self.nodes if kind_of(n.op) is Kind.REDUCTION}
        return len(rows) + sum(kind_of(n.op) is Kind.CONTRACTION for n in self.nodes)

    @cached_property
    def misfit(self) -> str:
        """Why the group can never share a kernel: a host step, or a value that kernels do not compute on. Else empty."""
        if self.kind is Kind.OPAQUE:
            return f"{self.label} is a host step"
        if self.kind is Kind.RECURRENT:
            return f"{self.label} runs step by step, in kernels of its own"
        for v in (v for n in self.nodes for v in (*n.operands, *n.outputs)):
            if not isinstance(v.type, TensorType) or v.type.shape is None or not v.type.dtype.is_native:
                return f"{v.name}: {v.type} is not what kernels compute on"
        return ""

    @cached_property
    def work(self) -> float:
        """Operations per element that its nodes make, all of them counted."""
        return sum(ops.get(n.op).flops_per_element for n in self.nodes)

    def storing(self, outputs: Iterable[Value]) -> Group:
        """The same nodes with other values leaving the group."""
        out = Group(self.nodes, self.anchor, tuple(outputs))
        out.__dict__.update({k: v for k, v in self.__dict__.items() if k != "outputs"})
        return out

    @cached_property
    def label(self) -> str:
        """The ops in order, for people: `matmul+add+relu`."""
        return "+".join(n.op for n in self.nodes)


@dataclass(frozen=True)
class FusedGraph:
    """The optimised graph, its groups in topological order, and why it looks as it does.

    Every node is in at least one group. Cheap nodes may be in several; of those at most one lists their value in
    `outputs`, so every value that crosses groups is stored exactly once.
    """

    graph: Graph
    groups: tuple[Group, ...]
    decisions: tuple[Decision, ...] = field(default=(), compare=False)

    @cached_property
    def stored_by(self) -> dict[str, Group]:
        """Value name -> the group that stores it."""
        return {v.name: g for g in self.groups for v in g.outputs}

    def __str__(self) -> str:
        from fusec.rewrite.text import print_fused

        return print_fused(self)


def make_group(nodes: Iterable[Node], outputs: Iterable[Value]) -> Group:
    """A group with its anchor chosen: the first contraction, else the first reduction, else the last node."""
    nodes = tuple(nodes)
    kinds = [kind_of(n.op) for n in nodes]
    for kind in (Kind.CONTRACTION, Kind.REDUCTION):
        if kind in kinds:
            return Group(nodes, nodes[kinds.index(kind)], tuple(outputs))
    return Group(nodes, nodes[-1], tuple(outputs))


def join_groups(producer: Group, consumer: Group, nodes: Iterable[Node]) -> Group:
    """The group of the nodes of both, stored values aside. What is known of the two is not computed again."""
    nodes, kinds = tuple(nodes), producer.kinds | consumer.kinds
    plain = kinds.isdisjoint((Kind.CONTRACTION, Kind.REDUCTION))
    out = Group(nodes, nodes[-1], ()) if plain else make_group(nodes, ())
    made = producer.made | consumer.made
    reads = {v.name: v for g in (producer, consumer) for v in g.inputs if v.name not in made}
    out.__dict__.update(made=made, inputs=tuple(reads.values()), kinds=kinds)
    if len(out.nodes) == len(producer.nodes) + len(consumer.nodes):
        out.__dict__["work"] = producer.work + consumer.work
    if not producer.misfit and not consumer.misfit:
        out.__dict__["misfit"] = ""
    return out


def unfused(graph: Graph) -> FusedGraph:
    """Every node its own group: the baseline of every comparison and the champion that the tuner falls back to."""
    return FusedGraph(graph, tuple(make_group((n,), leaving(graph, n)) for n in graph.nodes))


def leaving(graph: Graph, node: Node) -> tuple[Value, ...]:
    """The outputs of a node that anybody reads; all of them where nobody does."""
    used = tuple(v for v in node.outputs if v.name in graph.consumers or v.name in graph.output_names)
    return used or node.outputs
