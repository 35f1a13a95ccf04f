"""Keep a whole network in the layout of its convolutions: their transposes move to where they cost least, most vanish.

Each value between transposes may lie in memory as the graph says or with its channels last. A transpose is paid for where
a value and a reader of it differ, once per value. What costs least together is a minimum cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fusec.ir.dim import Extent
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import TensorType
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.passes.graph.permutations import (
    REDUCTIONS,
    Carried,
    Perm,
    carry,
    inverse,
    is_free,
    permuted,
    reduced_from,
    result_of,
    to_last,
    turn_of,
    weigh,
)
from fusec.passes.graph.sweep import Sweep, sweep
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Names, Replacement, rebuild

FREE = 1
"""Cost of a transpose that moves no bytes: it is in the way of fusion."""
CONVOLUTIONS = frozenset(["conv"])
"""Ops that want their channels last."""


@graph_pass("channels-last")
def channels_last(graph: Graph, _: PassContext) -> Graph:
    """Move transposes around convolutions through the nodes between them, so that as few bytes as possible are moved.

    before: t = transpose[perm=(0, 3, 1, 2)](c); r = relu(t); u = transpose[perm=(0, 2, 3, 1)](r); d = conv(u, w)
    after:  r = relu(c); d = conv(r, w)
    """
    if not any(n.op in CONVOLUTIONS for n in graph.nodes):
        return graph
    graph = sweep(graph, {"layer_norm": (_written_out,)})
    spread = _Spread(graph)
    if not spread.perms:
        return graph
    chosen = _choose(graph, spread)
    return _Rewriter(graph, spread, chosen).run() if chosen else graph


def _written_out(s: Sweep, n: Node) -> Value | None:
    """A norm over each channel's pixels, which are its last dimensions only while the channels are in front."""
    rank = len(n.output.shape)
    if len(n.operands) != 1 or n.attr("axis") != 2 or rank < 4:
        return None
    (x,) = n.operands
    axes = tuple(range(2, rank))
    centred = s.emit("sub", x, s.emit("reduce_mean", x, axes=axes, keepdims=True))
    variance = s.emit("reduce_mean", s.emit("mul", centred, centred), axes=axes, keepdims=True)
    root = s.emit("sqrt", s.emit("add", variance, s.scalar(n.attr("epsilon"), x.dtype)))
    return s.emit("mul", centred, s.emit("reciprocal", root))


@dataclass
class _Spread:
    """How far the permutations of a graph's transposes reach.

    `perms`: values that may lie permuted. `carriers`: nodes that then work on permuted values. `made` and `read`: the
    transposes that make a value from its permuted form, or that form from it.
    """

    graph: Graph
    perms: dict[str, Perm] = field(default_factory=dict)
    carriers: dict[str, Carried] = field(default_factory=dict)
    made: dict[str, Node] = field(default_factory=dict)
    read: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = self.graph.values
        self._seed()
        self._reach()
        self._settle()

    def constant(self, v: Value) -> bool:
        """Whether a value is a constant of the model, which costs nothing to permute."""
        return v.name in self.graph.weights

    def _seed(self) -> None:
        """Transposes next to convolutions."""
        native = self._native()
        for n in self.graph.nodes:
            perm = turn_of(n)
            if perm is None or len(perm) < 3 or self.constant(n.operands[0]):
                continue
            (x,), out = n.operands, n.output
            readers = self.graph.consumers.get(out.name, ())
            if perm == to_last(len(perm)) and any(r.op in CONVOLUTIONS for r in readers):
                self.perms.setdefault(x.name, perm)
            if inverse(perm) == to_last(len(perm)) and x.name in native:
                self.perms.setdefault(out.name, inverse(perm))

    def _native(self) -> set[str]:
        """Values with their channels last already: results of convolutions, with the pointwise work behind them."""
        out = set[str]()
        for n in self.graph.nodes:
            follows = ops.get(n.op).kind is Kind.ELEMENTWISE and any(v.name in out for v in n.operands)
            if n.op in CONVOLUTIONS or follows:
                out.update(v.name for v in n.outputs)
        return out

    def _reach(self) -> None:
        """Carry the permutations through every node that can, in both directions."""
        todo = list(self.perms)
        while todo:
            name = todo.pop()
            perm = self.perms[name]
            for v, p in (*self._before(name, perm), *self._behind(name, perm)):
                known = isinstance(v.type, TensorType) and v.type.shape is not None and len(p) == len(v.shape)
                if known and v.name not in self.perms and not self.constant(v) and p != tuple(range(len(p))):
                    self.perms[v.name] = p
                    todo.append(v.name)

    def _before(self, name: str, perm: Perm) -> Iterator[tuple[Value, Perm]]:
        n = self.graph.producer.get(name)
        needs = None if n is None else carry(n, perm)
        if n is not None and needs is not None:
            yield from ((v, p) for v, p in zip(n.inputs, needs.inputs) if v is not None and p is not None)

    def _behind(self, name: str, perm: Perm) -> Iterator[tuple[Value, Perm]]:
        for n in self.graph.consumers.get(name, ()):
            at = next(i for i, v in enumerate(n.inputs) if v is not None and v.name == name)
            out = result_of(n, at, perm)
            if out is not None:
                yield n.output, out

    def _settle(self) -> None:
        """Nodes whose permuted form fits the permutations of all that they read; and the transposes in between."""
        for n in self.graph.nodes:
            perm = self.perms.get(n.outputs[0].name)
            if (own := turn_of(n)) is not None:
                (x,) = n.operands
                if perm is not None and inverse(own) == perm:
                    self.made[n.output.name] = n
                elif self.perms.get(x.name) == own:
                    self.read[n.output.name] = n
                continue
            needs = self._needs(n, perm)
            if needs is not None and all(self._fits(v, p) for v, p in zip(n.inputs, needs.inputs)):
                self.carriers[n.output.name] = needs

    def _needs(self, n: Node, perm: Perm | None) -> Carried | None:
        """What a node needs to give its result permuted; `perm` None: to give it as it is, of something permuted."""
        if n.op in REDUCTIONS and (own := self.perms.get(n.operands[0].name)) is not None:
            made = result_of(n, 0, own)
            goal = tuple(range(len(n.output.shape))) if perm is None else perm
            return reduced_from(n, own) if made == goal else None
        return None if perm is None else carry(n, perm)

    def _fits(self, v: Value | None, perm: Perm | None) -> bool:
        if v is None or perm is None or self.constant(v):
            return True
        if len(v.shape) < len(perm):
            return v.name not in self.perms
        return self.perms.get(v.name) == perm


def _choose(graph: Graph, s: _Spread) -> set[str]:
    """The values that are to lie permuted, apart from those that do already."""
    import networkx as nx

    net: nx.DiGraph[tuple[str, ...]] = nx.DiGraph()
    last, first = ("last",), ("first",)
    net.add_nodes_from((last, first))
    free = {v for v in s.perms if v in s.carriers}

    def place(v: str) -> tuple[str, ...]:
        return (v,) if v in free else last if v in s.made else first

    def pay(a: tuple[str, ...], b: tuple[str, ...], cost: int | None) -> None:
        """`cost` where a is permuted and b is not; None for never."""
        if a in (b, first) or b == last:
            return
        if cost is None:
            net.add_edge(a, b)
        else:
            net.add_edge(a, b, capacity=cost + net.get_edge_data(a, b, {"capacity": 0})["capacity"])

    for name, perm in s.perms.items():
        v = s.values[name]
        cost = FREE if is_free(v.shape, perm) else weigh(v)
        here = place(name)
        wants = [w for n in graph.consumers.get(name, ()) if (w := _wants(s, free, n)) is not None]
        wants += [first] if name in graph.output_names else []
        if not wants:
            continue
        back, forth = (name, "back"), (name, "forth")
        pay(here, back, cost)
        pay(forth, here, cost)
        for w in wants:
            pay(back, w, None)
            pay(w, forth, None)
    for name in free:
        n = graph.producer[name]
        for x, p in zip(n.inputs, s.carriers[name].inputs):
            if x is not None and p is not None and x.name not in s.perms and not s.constant(x):
                pay((name,), first, _cost_of_lower_rank(x, p))
    _, (permuted_side, _) = nx.minimum_cut(net, last, first)
    return {v for v in free if (v,) in permuted_side}


def _cost_of_lower_rank(v: Value, perm: Perm) -> int:
    shape = (1,) * (len(perm) - len(v.shape)) + v.shape
    return 0 if is_free(shape, perm) else weigh(v)


def _wants(s: _Spread, free: set[str], n: Node) -> tuple[str, ...] | None:
    """How a node reads what may lie permuted; None where it takes both."""
    out = n.outputs[0].name
    if turn_of(n) is not None:
        return ("last",) if out in s.read else None
    if out in free:
        return (out,)
    return None if out in s.carriers else ("first",)


class _Rewriter:
    """Makes the graph in which the chosen values lie permuted."""

    def __init__(self, graph: Graph, s: _Spread, chosen: set[str]) -> None:
        self.graph, self.s, self.chosen = graph, s, chosen
        self.names = Names(graph)
        self.stored: dict[str, Value] = {}
        """Values that lie permuted -> that form."""
        self.forms: dict[tuple[str, Perm], Value] = {}
        self.nodes: list[Node] = []
        self.removed: list[Node] = []
        self.forward: dict[str, Value] = {}

    def run(self) -> Graph:
        """One replacement for everything."""
        for n in self.graph.nodes:
            self.visit(n)
        for v in self.graph.outputs:
            self.plain(v)
        return rebuild(self.graph, [Replacement(tuple(self.removed), tuple(self.nodes), self.forward)])

    def visit(self, n: Node) -> None:
        """Take a node over, permuted or as it is."""
        out = n.outputs[0]
        if out.name in self.s.made:
            self.removed.append(n)
            self.plain(n.operands[0])
            self.stored[out.name] = n.operands[0]
        elif out.name in self.s.read:
            self.removed.append(n)
            self.forward[out.name] = self.form(n.operands[0], self.s.perms[n.operands[0].name], n)
        elif out.name in self.chosen:
            self.removed.append(n)
            perm = self.s.perms[out.name]
            made = Value(self.names.fresh(out.name), TensorType(out.dtype, permuted(out.shape, perm)))
            self.carried(n, made)
            self.stored[out.name] = made
        elif out.name in self.s.carriers and out.name not in self.s.perms and self.reads_stored(n):
            self.removed.append(n)
            self.carried(n, out)
        else:
            for v in n.operands:
                self.plain(v)

    def reads_stored(self, n: Node) -> bool:
        """Whether a node reads something that lies permuted only."""
        return any(v.name in self.stored for v in n.operands)

    def carried(self, n: Node, out: Value) -> None:
        """The node on permuted operands."""
        needs = self.s.carriers[n.output.name]
        inputs = [v if v is None or p is None else self.form(v, p, n) for v, p in zip(n.inputs, needs.inputs)]
        self.nodes.append(Node(n.op, tuple(inputs), (out,), needs.attrs, n.origin))

    def form(self, v: Value, perm: Perm, reader: Node) -> Value:
        """A value permuted: as it is stored, or by a transpose, of ones in front where it has too few dimensions."""
        if v.name in self.stored and self.s.perms[v.name] == perm:
            return self.stored[v.name]
        key = v.name, perm
        if key not in self.forms:
            source = v
            if len(v.shape) < len(perm):
                shape = (1,) * (len(perm) - len(v.shape)) + v.shape
                source = self.view(Node.make("reshape", (v,), (), reader.origin, shape=shape), shape)
            turned = Node.make("transpose", (source,), (), reader.origin, perm=perm)
            self.forms[key] = self.view(turned, permuted(source.shape, perm))
        return self.forms[key]

    def plain(self, v: Value) -> None:
        """Make sure that a value is there as the graph says."""
        if v.name not in self.stored or (v.name, ()) in self.forms:
            return
        self.forms[v.name, ()] = v
        perm = inverse(self.s.perms[v.name])
        origin = self.graph.producer[v.name].origin
        self.nodes.append(Node.make("transpose", (self.stored[v.name],), (v,), origin, perm=perm))

    def view(self, n: Node, shape: tuple[Extent, ...]) -> Value:
        """The result of a view that has none yet."""
        (x,) = n.operands
        out = Value(self.names.fresh(x.name), TensorType(x.dtype, shape))
        self.nodes.append(replace(n, outputs=(out,)))
        return out
