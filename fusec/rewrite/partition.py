"""The partition of a graph into groups while fusion works on it: an acyclic quotient graph with a topological order.

Contracting a -> b is legal where no other path leads from a to b. The order answers that locally: such a path can only
use groups that stand between the two, so two searches, forward from a and backward from b, stay in that window, and the
one that ends first also says how to move the window's groups (the idea of Pearce and Kelly's dynamic topological order).
Neighbours are not stored: what a group reads is short, and who reads a value is one set per value, so a contraction costs
as much as the two groups are long, whatever the degree of their neighbours.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.told import needed_symbols, tellers
from fusec.ir.types import DType, TensorType

SHORT_SEARCH, LONG_SEARCH = 64, 2_000
"""Steps of the two searches before the labels are asked, and before an edge counts as illegal without a proof: keeps hubs
(masks, shape arithmetic) from costing n * n."""


Room = tuple[str, set[int]]
"""Groups between two that are to be joined, and the side on which these must stand: "behind" or "before" the result."""


@dataclass(slots=True)
class Members:
    """A group in the making: the values that it reads from outside, what its nodes make, and which of these others need.

    `live` may still name values that nobody needs any more; no other value is needed, for readers only become fewer.
    `version` counts its changes.
    """

    nodes: tuple[int, ...]
    reads: tuple[Value, ...]
    made: frozenset[str]
    live: tuple[Value, ...]
    version: int = 0


@dataclass
class Partition:
    """Groups by number. A node's `home` is the group that stores what it makes; copies of a node may be in others too."""

    graph: Graph
    members: dict[int, Members] = field(default_factory=dict)
    home: list[int] = field(default_factory=list)
    readers: dict[str, dict[int, None]] = field(default_factory=dict)
    maker: dict[str, int] = field(default_factory=dict)
    copied: set[int] = field(default_factory=set)
    _told: dict[int, tuple[Value, ...]] = field(default_factory=dict)
    _needs: dict[int, tuple[Value, ...]] = field(default_factory=dict)
    _labels: list[tuple[int, int]] = field(default_factory=list)
    _order: list[int | None] = field(default_factory=list)
    _place: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        self.home = list(range(len(nodes)))
        self._order = list(range(len(nodes)))
        self._place = {i: i for i in range(len(nodes))}
        self.maker = {v.name: i for i, n in enumerate(nodes) for v in n.outputs}
        self._add_symbols()
        for i, n in enumerate(nodes):
            reads = tuple({v.name: v for v in (*n.operands, *self._needs.get(i, ()))}.values())
            self.members[i] = Members((i,), reads, frozenset([v.name for v in n.outputs]), n.outputs)
            for v in reads:
                self.readers.setdefault(v.name, {})[i] = None
        self._labels = _tree_labels(self.graph)

    def _add_symbols(self) -> None:
        """Let a dimension that only a host step tells be a value that goes from there to whoever mentions it."""
        told = tellers(self.graph)
        if not told:
            return
        position = {id(n): i for i, n in enumerate(self.graph.nodes)}
        at = {s: (position[id(n)], Value(f"\0{s}", TensorType(DType.I64, ()))) for s, n in told.items()}
        for teller, v in at.values():
            self._told[teller] = (*self._told.get(teller, ()), v)
            self.maker[v.name] = teller
        for i, n in enumerate(self.graph.nodes):
            needed = tuple(at[s][1] for s in sorted(needed_symbols(n) & told.keys()) if at[s][0] < i)
            if needed:
                self._needs[i] = needed

    def producer(self, value: Value) -> int | None:
        """The group that stores a value; None for inputs and weights."""
        at = self.maker.get(value.name)
        return None if at is None else self.home[at]

    def producers(self, group: int) -> tuple[int, ...]:
        """The groups that a group reads from, in the order of their places."""
        found = {p for v in self.members[group].reads if (p := self.producer(v)) is not None}
        return tuple(sorted(found, key=self._place.__getitem__))

    def consumers(self, group: int) -> Iterator[int]:
        """The groups that read what a group stores; may repeat."""
        for v in self.members[group].live:
            yield from self.readers.get(v.name, ())
        if self._told:
            for v in (v for i in self.members[group].nodes for v in self._told.get(i, ())):
                yield from self.readers.get(v.name, ())

    def flow(self, a: int, b: int) -> tuple[Value, ...]:
        """The values that go from one group to the other."""
        return tuple(v for v in self.members[b].reads if self.producer(v) == a)

    def nodes(self, group: int) -> tuple[Node, ...]:
        """The nodes of a group, in topological order."""
        return tuple(self.graph.nodes[i] for i in self.members[group].nodes)

    def outputs(self, group: int, without: int | None = None) -> tuple[Value, ...]:
        """The values that leave a group: read by groups other than `without`, or outputs of the graph."""
        return tuple([v for v in self.members[group].live if self.is_needed(v, without)])

    def is_needed(self, value: Value, without: int | None = None) -> bool:
        """Whether a group other than `without`, or the caller of the graph, reads a value."""
        readers = self.readers.get(value.name, {})
        return len(readers) > (without in readers) or value.name in self.graph.output_names

    def union(self, a: int, b: int) -> tuple[int, ...]:
        """The nodes of both, sorted."""
        return tuple(sorted({*self.members[a].nodes, *self.members[b].nodes}))

    def find_room(self, a: int, b: int) -> Room | None:
        """How a producer and its consumer can be joined; None where another path leads from one to the other."""
        found = self._search(a, b, SHORT_SEARCH)
        if found is None and not self._surely_joined(a, b):
            found = self._search(a, b, LONG_SEARCH)
        return None if found is None or found[0] == "path" else found

    def contract(self, a: int, b: int, room: Room) -> None:
        """Make one group, numbered b, of a producer and its consumer, in the room that was found for it."""
        self._make_adjacent(a, b, room)
        for i in self.members[a].nodes:
            if self.home[i] == a:
                self.home[i] = b
        live = (*self.members[a].live, *self.members[b].live)
        self._take_in(a, b, live)
        self._drop(a)
        self.members[b].live = tuple(sorted(self.outputs(b), key=lambda v: self.maker[v.name]))

    def copy_into(self, a: int, b: int) -> None:
        """Give a consumer its own copy of a producer's nodes; the producer vanishes when nobody reads it any more."""
        self.copied.update(self.members[a].nodes)
        self._take_in(a, b, self.members[b].live)
        self._drop_unread(a, heir=b)

    def emit(self) -> list[int]:
        """The groups in lexicographic topological order, by the position of their last node."""
        waits = {g: len(self.producers(g)) for g in self.members}
        ready = [(m.nodes[-1], g) for g, m in self.members.items() if not waits[g]]
        heapq.heapify(ready)
        out: list[int] = []
        while ready:
            _, g = heapq.heappop(ready)
            out.append(g)
            for c in dict.fromkeys(self.consumers(g)):
                waits[c] -= 1
                if not waits[c]:
                    heapq.heappush(ready, (self.members[c].nodes[-1], c))
        return out

    def _take_in(self, a: int, b: int, live: tuple[Value, ...]) -> None:
        """Make b the group of the nodes of both."""
        one, two = self.members[a], self.members[b]
        made = one.made | two.made
        reads = {v.name: v for v in (*one.reads, *two.reads) if v.name not in made}
        for v in two.reads:
            if v.name not in reads:
                del self.readers[v.name][b]
        for name in reads:
            self.readers.setdefault(name, {})[b] = None
        self.members[b] = Members(self.union(a, b), tuple(reads.values()), made, live, two.version + 1)

    def _drop(self, group: int) -> None:
        for v in self.members.pop(group).reads:
            self.readers[v.name].pop(group, None)
        self._order[self._place.pop(group)] = None

    def _drop_unread(self, group: int, heir: int) -> None:
        """Drop a group of which nobody needs a stored value any more, and then its producers where the same holds."""
        todo = [group]
        while todo:
            g = todo.pop()
            if g not in self.members or self.outputs(g):
                continue
            before = self.producers(g)
            for i in self.members[g].nodes:
                if self.home[i] == g:
                    self.home[i] = heir
            self._drop(g)
            todo.extend(before)

    def _make_adjacent(self, a: int, b: int, room: Room) -> None:
        """Reorder the window between a and b so that b can take a in."""
        low, high = self._place[a], self._place[b]
        side, moved = room
        if not moved:
            if side == "before":  # nothing between the two is needed by b, so it moves to a's place; else it stays
                self._order[low], self._order[high] = b, a
                self._place[b], self._place[a] = low, high
            return
        window = [g for g in self._order[low : high + 1] if g is not None and g not in (a, b)]
        chosen = [g for g in window if g in moved]
        rest = [g for g in window if g not in moved]
        new: list[int | None] = [*rest, b, *chosen] if side == "behind" else [*chosen, b, *rest]
        new += [None] * (high - low - len(new)) + [a]
        self._order[low : high + 1] = new
        for i, g in enumerate(new):
            if g is not None:
                self._place[g] = low + i

    def _surely_joined(self, a: int, b: int) -> bool:
        """Whether a path of the graph's depth-first tree leads from a to another producer of b. Nodes that were copied
        say nothing, for their readers may not need them any more."""
        starts = [self._labels[i] for i in self.members[a].nodes if self.home[i] == a and i not in self.copied]
        ends = [
            self._labels[i][0] for p in self.producers(b) if p != a for i in self.members[p].nodes if self.home[i] == p
        ]
        return any(first <= end <= last for first, last in starts for end in ends)

    def _search(self, a: int, b: int, steps: int) -> Room | None:
        """Which groups of the window must stand behind the joined group ("behind"), or before it ("before"), whichever is
        found first; ("path", ...) where they join the two; None where the steps did not suffice to tell."""
        place = self._place
        low, high = place[a], place[b]
        ahead, back = set[int](), set[int]()
        forward: list[Iterator[int]] = [self.consumers(a)]
        backward: list[Iterator[int]] = [iter(self.producers(b))]
        for _ in range(steps):
            if not forward:
                return "behind", ahead
            g = next(forward[-1], None)
            if g is None:
                forward.pop()
            elif g == b:
                if len(forward) > 1:
                    return "path", ahead
            elif g not in ahead and low < place[g] < high:
                if g in back:
                    return "path", ahead
                ahead.add(g)
                forward.append(self.consumers(g))
            if not backward:
                return "before", back
            g = next(backward[-1], None)
            if g is None:
                backward.pop()
            elif g == a:
                if len(backward) > 1:
                    return "path", ahead
            elif g not in back and low < place[g] < high:
                if g in ahead:
                    return "path", ahead
                back.add(g)
                backward.append(iter(self.producers(g)))
        return None


def _tree_labels(graph: Graph) -> list[tuple[int, int]]:
    """Intervals of a depth-first forest: whose interval lies in another's is reached from there; others may be, too."""
    count = len(graph.nodes)
    position = {v.name: i for i, n in enumerate(graph.nodes) for v in n.outputs}
    after: list[list[int]] = [[] for _ in range(count)]
    for i, n in enumerate(graph.nodes):
        for v in n.operands:
            if v.name in position:
                after[position[v.name]].append(i)
    first, last, clock = [-1] * count, [-1] * count, 0
    for root in range(count):
        stack = [root] if first[root] < 0 else []
        while stack:
            i = stack[-1]
            if first[i] < 0:
                first[i] = clock
                clock += 1
            while after[i] and first[after[i][-1]] >= 0:
                after[i].pop()
            if after[i]:
                stack.append(after[i].pop())
            else:
                last[i] = clock - 1
                stack.pop()
    return list(zip(first, last, strict=True))
