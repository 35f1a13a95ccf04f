"""FusedGraph: a graph whose nodes are partitioned into groups, each of which becomes one kernel or one host step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fusec.ir.graph import Graph, Node, Value


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something may be done, and why (not). Never a bare bool."""

    ok: bool
    why: str

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
        made = {v.name for n in self.nodes for v in n.outputs}
        return tuple({v.name: v for n in self.nodes for v in n.operands if v.name not in made}.values())

    @cached_property
    def label(self) -> str:
        """The ops in order, for people: `matmul+add+relu`."""
        return "+".join(n.op for n in self.nodes)


@dataclass(frozen=True)
class FusedGraph:
    """The optimised graph, its partition in topological order, and why it looks as it does."""

    graph: Graph
    groups: tuple[Group, ...]
    decisions: tuple[Decision, ...] = ()
