"""The fusion engine. Rules say which edges may close and why; the engine keeps every group legal.

Legality is the same for all rules: groups never wait for each other in a circle, a group has one anchor unless the rule is
made for more, operands and nodes stay within a budget, what others still read is stored in full by the group's own tile,
and a template accepts the members. So a rule cannot break a graph, whatever it says:

    @fusion_pass("fuse-relu")
    def fuse_relu(edge: Edge) -> Verdict:
        \"\"\"Close an edge into a lone relu.\"\"\"
        if edge.consumer.label != "relu":
            return Verdict(False, "the consumer is no relu")
        return Verdict(True, "saves a store and a load")
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fusec.ir.graph import Graph, Value
from fusec.ops.op import Kind
from fusec.rewrite import registry
from fusec.rewrite.edge import Edge
from fusec.rewrite.fused import Decision, FusedGraph, Group, Verdict, join_groups, leaving, make_group, unfused
from fusec.rewrite.graph_pass import PassContext, check_name, first_line
from fusec.rewrite.legality import MAX_NODES, check_group
from fusec.rewrite.partition import Partition
from fusec.target import Target

__all__ = [
    "Accepts",
    "Edge",
    "FusionPass",
    "Verdict",
    "accept_all",
    "fuse",
    "fusion_pass",
    "get_fusion_pass",
    "unfused",
]

Rule = Callable[[Edge], Verdict]
Accepts = Callable[[Group, Target], Verdict]
"""Asks the templates whether they have a kernel for a group on a target."""
ANY_KIND = frozenset(Kind)

MAX_COPIED = 8
"""Nodes of a producer that may be computed again in each consumer."""


@dataclass(frozen=True, slots=True)
class FusionPass:
    """A rule with its name. `anchors` is how many anchors a group that it closes may have (2 for chains of GEMMs).

    `producers` and `consumers` are the kinds of groups whose edges it looks at; it is not asked about others.
    """

    name: str
    rule: Rule
    doc: str
    anchors: int = 1
    producers: frozenset[Kind] = ANY_KIND
    consumers: frozenset[Kind] = ANY_KIND

    def __post_init__(self) -> None:
        check_name(self.name)

    def ignores(self, producer: Group, consumer: Group) -> str:
        """Why it has nothing to say about an edge between these; empty where it has."""
        for end, group, kinds in (("producer", producer, self.producers), ("consumer", consumer, self.consumers)):
            if group.kind not in kinds:
                wanted = " or ".join(sorted(k.value for k in kinds))
                return f"the {end} is {group.kind.value}, not {wanted}"
        return ""

    def __call__(self, edge: Edge) -> Verdict:
        """Ask the rule."""
        return self.rule(edge)


def fusion_pass(
    name: str, anchors: int = 1, producers: Iterable[Kind] = ANY_KIND, consumers: Iterable[Kind] = ANY_KIND
) -> Callable[[Rule], FusionPass]:
    """Declare a rule as the fusion pass `name` (kebab-case). The first line of its docstring is its help text.

    A rule that says what kinds of producers and consumers it looks at is not asked about other edges, which saves time.
    """

    def declare(rule: Rule) -> FusionPass:
        made = FusionPass(name, rule, first_line(rule.__doc__), anchors, frozenset(producers), frozenset(consumers))
        return registry.register(made, rule.__module__)

    return declare


def get_fusion_pass(name: str) -> FusionPass:
    """The fusion pass of that name, loaded from its plug-in if need be. UsageError where there is none."""
    from fusec.errors import UsageError

    found = registry.get(name)
    if not isinstance(found, FusionPass):
        raise UsageError(f"{name!r} is a graph pass, not a fusion pass")
    return found


def accept_all(_group: Group, _target: Target) -> Verdict:
    """A stand-in for the templates that takes every group: for tests of rules alone."""
    return Verdict(True, "not asked")


def fuse(graph: Graph, rules: Sequence[FusionPass], context: PassContext, accepts: Accepts = accept_all) -> FusedGraph:
    """Close edges until no rule finds another one. Rules run in order, each until it has nothing left to do.

    Edges are tried in the order of their consumers, then of their producers, and a closed edge gives the others another
    chance: an edge refused for "another reader" may close once that reader has joined.
    """
    return _Fuser(graph, tuple(rules), context, accepts).run()


@dataclass
class _Fuser:
    graph: Graph
    rules: tuple[FusionPass, ...]
    context: PassContext
    accepts: Accepts
    partition: Partition = field(init=False)
    todo: list[dict[int, None]] = field(init=False)
    groups: dict[int, tuple[int, Group]] = field(default_factory=dict)
    refused: dict[tuple[int, int], dict[str, Verdict]] = field(default_factory=dict)
    closed: dict[tuple[str, int], Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.partition = Partition(self.graph)
        self.todo = [dict.fromkeys(self.partition.members) for _ in self.rules]

    def run(self) -> FusedGraph:
        while any(self.todo):
            for at, rule in enumerate(self.rules):
                with self.context.trace.stage(rule.name) as counts:
                    counts["closed"] = self._sweep(at, rule)
        groups = tuple(self._final(g) for g in self.partition.emit())
        return FusedGraph(self.graph, groups, tuple(self._explain()))

    def _sweep(self, at: int, rule: FusionPass) -> int:
        """Try every edge into a group that changed since this rule saw it."""
        closed, members = 0, self.partition.members
        while self.todo[at]:
            wave = [(members[g].nodes[-1], g) for g in self.todo[at] if g in members]
            self.todo[at].clear()
            heapq.heapify(wave)
            while wave:
                _, b = heapq.heappop(wave)
                self.todo[at].pop(b, None)
                while b in members and any(self._try(rule, a, b) for a in self.partition.producers(b)):
                    closed += 1
        return closed

    def _try(self, rule: FusionPass, a: int, b: int) -> bool:
        producer, consumer = self._group(a), self._group(b)
        misfit = producer.misfit or consumer.misfit or rule.ignores(producer, consumer) or self._excess(a, b)
        if misfit:
            verdict = Verdict(False, misfit)
        else:
            edge = Edge(self.partition, (a, b), producer, consumer)
            verdict = rule(edge)
            if verdict:
                verdict = self._join(rule, edge, verdict)
        if not verdict:
            self.refused.setdefault((a, b), {})[rule.name] = verdict
        return verdict.ok

    def _excess(self, a: int, b: int) -> str:
        """Asked before any rule, for a full group is tried again whenever a neighbour changes."""
        sizes = [len(self.partition.members[g].nodes) for g in (a, b)]
        if sum(sizes) <= MAX_NODES or (count := len(self.partition.union(a, b))) <= MAX_NODES:
            return ""
        return f"the group would have {count} nodes, more than {MAX_NODES}"

    def _join(self, rule: FusionPass, edge: Edge, verdict: Verdict) -> Verdict:
        """Close an edge as a rule asks, if it is legal."""
        p, (a, b) = self.partition, edge.ids
        needed = p.outputs(a, without=b)
        copy = verdict.duplicate and bool(needed)
        if copy and len(edge.producer.nodes) > MAX_COPIED:
            return Verdict(False, f"{len(edge.producer.nodes)} nodes are too many to compute twice")
        nodes = p.union(a, b)
        room = ("behind", set[int]()) if copy else p.find_room(a, b)
        if room is None:
            return Verdict(False, f"{verdict.why}, but another group lies between the two")
        outputs = p.outputs(b) if copy else (*needed, *p.outputs(b))
        joined = join_groups(edge.producer, edge.consumer, [self.graph.nodes[i] for i in nodes])
        merged = joined.storing(outputs)
        legal = check_group(merged, edge.producer, edge.consumer, rule.anchors)
        if legal:
            legal = self.accepts(merged, self.context.target)
        if not legal:
            return Verdict(False, f"{verdict.why}, but {legal.why}")
        values = edge.values
        if copy:
            self._touch(p.consumers(a))
            p.copy_into(a, b)
        else:
            p.contract(a, b, room)
        self.groups[b] = p.members[b].version, joined
        self._close(rule, verdict, values, edge.producer, edge.consumer)
        self._touch((b, *p.consumers(b)))
        return verdict

    def _close(
        self, rule: FusionPass, verdict: Verdict, values: tuple[Value, ...], producer: Group, consumer: Group
    ) -> None:
        labels = producer.label, consumer.label
        names = {v.name for v in values}
        for n in consumer.nodes:
            for v in n.operands:
                if v.name in names:
                    at = self.partition.maker[n.outputs[0].name]
                    self.closed[v.name, at] = Decision(rule.name, *labels, v.name, verdict)

    def _touch(self, groups: Iterable[int]) -> None:
        """Let every rule look again at the edges into some groups."""
        for g in groups:
            for todo in self.todo:
                todo[g] = None

    def _group(self, g: int) -> Group:
        version = self.partition.members[g].version
        known = self.groups.get(g)
        if known is None or known[0] != version:
            known = version, make_group(self.partition.nodes(g), ())
            self.groups[g] = known
        return known[1]

    def _final(self, g: int) -> Group:
        nodes = self.partition.nodes(g)
        return make_group(nodes, self.partition.outputs(g) or leaving(self.graph, nodes[-1]))

    def _explain(self) -> list[Decision]:
        """The last word on every edge: which rule closed it, or what each rule said against it."""
        out: list[Decision] = []
        p = self.partition
        copies: dict[int, list[int]] = {}
        for g, m in p.members.items():
            for i in m.nodes:
                copies.setdefault(i, []).append(g)
        for i, n in enumerate(self.graph.nodes):
            for v in {v.name: v for v in n.operands if v.name in p.maker}.values():
                if (v.name, i) in self.closed:
                    out.append(self.closed[v.name, i])
                    continue
                for g in copies.get(i, ()):
                    home = p.producer(v)
                    if home is None or home == g or home not in p.members or p.maker[v.name] in p.members[g].nodes:
                        continue
                    verdicts = self.refused.get((home, g), {})
                    labels = self._group(home).label, self._group(g).label
                    out += [
                        Decision(r.name, *labels, v.name, verdicts[r.name]) for r in self.rules if r.name in verdicts
                    ]
        return out
