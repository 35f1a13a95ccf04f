"""An LSTM that is written out step by step becomes one node over all steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fusec.ir.graph import Attr, Graph, Node, Value, Weight
from fusec.ir.types import DType, TensorType
from fusec.ops import op as ops
from fusec.passes.graph.eliminate_dead import without_dead
from fusec.passes.graph.lstm_cell import Cell, Cells, Part, Sum
from fusec.rewrite.graph_pass import PassContext, graph_pass
from fusec.rewrite.rebuild import Names, Replacement, rebuild

FEWEST_STEPS = 3
"""Steps that are worth a node of their own."""
MOST_PIECES = 16
"""Inputs of steps that are put side by side where they are no parts of one tensor."""


@graph_pass("roll-lstm")
def roll_lstm(graph: Graph, _: PassContext) -> Graph:
    """Make steps of an LSTM that share their weights, each using the state of the one before, one `lstm` node.

    The products of all inputs become one, and thousands of small kernels a few.

    before: a = add(matmul(x0, w), matmul(h0, u)); ... c1 = add(mul(f, c0), mul(i, g)); h1 = mul(o, tanh(c1)); ... h9 = ...
    after:  y, h, c = lstm[...](add(matmul(x, ww), bb), uu, h0, c0); h1 = slice[...](y); ...
    """
    if not {"tanh", "sigmoid", "matmul"} <= {n.op for n in graph.nodes}:
        return graph
    cells = list(Cells(graph).find())
    chains = [c for c in _chains(cells) if len(c.cells) >= FEWEST_STEPS]
    if not chains:
        return graph
    rolled = _Rolling(graph)
    found = [r for c in chains if (r := rolled.roll(c)) is not None]
    return without_dead(rebuild(graph, found)) if found else graph


@dataclass
class Chain:
    """Cells in order; the values that are their inputs, and the matrices, one per gate, of inputs and of states."""

    cells: list[Cell]
    inputs: list[Value] = field(default_factory=list)
    first: Value | None = None
    w: tuple[Part, ...] = ()
    u: tuple[Part, ...] = ()


def _chains(cells: Sequence[Cell]) -> list[Chain]:
    """The longest runs of cells that differ in their inputs and states alone."""
    by_c = {c.c.output.name: c for c in cells}
    out: list[Chain] = []
    of: dict[int, Chain] = {}
    for b in cells:
        a = by_c.get(b.before.name) if b.before is not None else None
        if a is None or a.h.output.name not in b.sources or len(b.sources) != 2:
            continue
        u = b.matrices(a.h.output.name)
        (x,) = b.sources - {a.h.output.name}
        w = b.matrices(x)
        if None in u or None in w:
            continue
        chain = of.get(id(a))
        if chain is None:
            chain = _start(a, w, u)
        if chain is None or chain.cells[-1] is not a or chain.w != w or chain.u != u or not _same_bias(a, b):
            continue
        if len(chain.cells) == 1:
            out.append(chain)
        chain.cells.append(b)
        chain.inputs.append(b.values[x])
        of[id(b)] = chain
    return out


def _start(cell: Cell, w: tuple[Part | None, ...], u: tuple[Part | None, ...]) -> Chain | None:
    """A chain that begins with a cell: of an input and an initial state, or of an input alone where both states are 0."""
    matrices = {s: cell.matrices(s) for s in cell.sources}
    inputs = [s for s, m in matrices.items() if _fits(m, w)]
    states = [s for s, m in matrices.items() if m == u]
    if len(inputs) != 1 or len(matrices) != 1 + len(states) or len(states) > 1:
        return None
    first = cell.values[states[0]] if states else None
    if None in matrices[inputs[0]] and (first is not None or cell.before is not None):
        return None
    fixed = tuple(p for p in w if p is not None), tuple(p for p in u if p is not None)
    return Chain([cell], [cell.values[inputs[0]]], first, *fixed)


def _fits(found: tuple[Part | None, ...], wanted: tuple[Part | None, ...]) -> bool:
    """Equal, but for the gate that multiplies a cell of zeros and may be left out."""
    return all(a == b or (a is None and q == 2) for q, (a, b) in enumerate(zip(found, wanted, strict=True)))


def _same_bias(a: Cell, b: Cell) -> bool:
    return all(x is None or y is None or x.biases == y.biases for x, y in zip(a.gates, b.gates, strict=True))


class _Rolling:
    """Chains become nodes, one after the other: the inputs of a chain may be the states of an earlier one."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.names, self.maker = graph, Names(graph), graph.producer
        self.places: dict[str, tuple[Value, int]] = {}
        """State of a rolled chain -> all its states, and the step."""
        self.nodes: list[Node] = []
        self.weights: list[Weight] = []
        self.dtype = DType.F32

    def roll(self, chain: Chain) -> Replacement | None:
        cells, last = chain.cells, chain.cells[-1]
        batch, hidden = last.h.output.shape
        inner = chain.inputs[0].shape[-1]
        inside = {n.output.name for c in cells for n in (c.tanh, c.kept) if n is not None}
        leaves = [c.c for c in cells[:-1] if self.is_read_elsewhere(c.c, inside)]
        if leaves or not isinstance(hidden, int) or not isinstance(inner, int):
            return None
        if any(v.shape != (batch, inner) for v in chain.inputs):
            return None
        self.nodes, self.weights, self.dtype = [], [], last.h.output.dtype
        steps = len(cells)
        x = self.stack(chain.inputs)
        if x is None:
            return None
        rows = self.emit("reshape", x, shape=(steps * batch, inner))
        w = self.joined([self.cut(p, inner, hidden) for p in chain.w], 1)
        total = self.emit("matmul", rows, w)
        if any(g is not None and g.biases for g in last.gates):
            total = self.emit("add", total, self.joined([self.bias(g, hidden) for g in last.gates if g is not None], 0))
        projected = self.emit("reshape", total, shape=(steps, batch, 4 * hidden))
        parts = [self.emit("reshape", self.cut(p, hidden, hidden), shape=(1, hidden, hidden)) for p in chain.u]
        y, _, c = self.lstm(projected, self.joined(parts, 0), chain)
        made = list(self.nodes)
        for t, cell in enumerate(cells):
            self.places[cell.h.output.name] = y, t
            made += self.state(y, t, cell.h)
        return Replacement((*(c.h for c in cells), last.c), tuple(made), {last.c.output.name: c}, tuple(self.weights))

    def is_read_elsewhere(self, n: Node, inside: set[str]) -> bool:
        name = n.output.name
        return name in self.graph.output_names or any(
            r.outputs[0].name not in inside for r in self.graph.consumers.get(name, ())
        )

    def lstm(self, x: Value, r: Value, chain: Chain) -> list[Value]:
        plain = (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("tanh", 0.0, 0.0))
        inputs = (x, r, chain.first, chain.cells[0].before, None, None)
        attrs: dict[str, Attr] = {"activations": plain, "clip": 0.0, "input_forget": False, "part": 0, "reverse": False}
        origin = tuple(dict.fromkeys(o for c in chain.cells for n in (c.c, c.h) for o in n.origin))
        types = ops.get("lstm").infer([None if v is None else v.type for v in inputs], attrs)
        outs = [Value(self.names.fresh("lstm"), t) for t in types]
        self.nodes.append(Node("lstm", inputs, tuple(outs), tuple(sorted(attrs.items())), origin))
        return outs

    def state(self, y: Value, t: int, h: Node) -> list[Node]:
        """The state of a step under its old name."""
        batch, hidden = h.output.shape
        attrs: dict[str, Attr] = {"starts": (t, 0, 0), "sizes": (1, batch, hidden), "steps": (1, 1, 1)}
        (kind,) = ops.get("slice").infer([y.type], attrs)
        part = Value(self.names.fresh(f"{h.output.name}.step"), kind)
        return [
            Node("slice", (y,), (part,), tuple(sorted(attrs.items())), h.origin),
            Node("reshape", (part,), (h.output,), (("shape", (batch, hidden)),), h.origin),
        ]

    def stack(self, values: Sequence[Value]) -> Value | None:
        """All inputs as one tensor [steps, batch, inner]: a part of one where they are its rows, else side by side."""
        batch, inner = values[0].shape
        found = [self.place(v) for v in values]
        whole, axis, start = found[0] or (None, 0, 0)
        if whole is not None and all(p == (whole, axis, start + t) for t, p in enumerate(found)):
            sizes = [*whole.shape]
            sizes[axis] = len(values)
            if tuple(sizes) != whole.shape:
                starts = tuple(start if d == axis else 0 for d in range(3))
                whole = self.emit("slice", whole, starts=starts, sizes=tuple(sizes), steps=(1, 1, 1))
            return whole if axis == 0 else self.emit("transpose", whole, perm=(1, 0, 2))
        if len(values) > MOST_PIECES:
            return None
        return self.joined([self.emit("reshape", v, shape=(1, batch, inner)) for v in values], 0)

    def place(self, v: Value) -> tuple[Value, int, int] | None:
        """(tensor, axis, index) where a value is one step of a tensor of rank 3."""
        if v.name in self.places:
            y, t = self.places[v.name]
            return y, 0, t
        n = self.maker.get(v.name)
        if n is None or n.op not in ("reshape", "gather"):
            return None
        x = n.operands[0]
        if n.op == "gather":
            index, axis = self.graph.array(n.operands[1]), n.attr("axis")
            if index is None or index.shape != () or len(x.shape) != 3 or axis > 1:
                return None
            extent, at = x.shape[axis], int(index)
            return (x, axis, at) if at >= 0 else (x, axis, at + extent) if isinstance(extent, int) else None
        cut = self.maker.get(x.name)
        if cut is None or cut.op != "slice" or len(x.shape) != 3:
            return None
        source, starts = cut.operands[0], cut.attr("starts")
        for axis in (0, 1):
            rest = [d for d in range(3) if d != axis]
            is_step = x.shape[axis] == 1 and all(starts[d] == 0 and x.shape[d] == source.shape[d] for d in rest)
            if is_step and isinstance(starts[axis], int) and tuple(x.shape[d] for d in rest) == v.shape:
                return source, axis, starts[axis]
        return None

    def cut(self, p: Part, rows: int, columns: int) -> Value:
        """The part of a matrix that is meant."""
        v = self.graph.weights[p.name].value
        if v.shape == (rows, columns):
            return v
        return self.emit("slice", v, starts=(p.row, p.column), sizes=(rows, columns), steps=(1, 1))

    def bias(self, gate: Sum, hidden: int) -> Value:
        """The sum of a gate's constants as [hidden]."""
        total: Value | None = None
        for p in gate.biases:
            v = self.graph.weights[p.name].value
            if len(v.shape) == 2:
                v = self.emit("reshape", v, shape=(v.shape[1],))
            if v.shape not in ((), (1,), (hidden,)):
                v = self.emit("slice", v, starts=(p.column,), sizes=(hidden,), steps=(1,))
            v = v if v.shape == (hidden,) else self.emit("expand", v, shape=(hidden,))
            total = v if total is None else self.emit("add", total, v)
        return self.emit("expand", self.zero(), shape=(hidden,)) if total is None else total

    def zero(self) -> Value:
        if not self.weights:
            value = Value(self.names.fresh("zero"), TensorType(self.dtype, ()))
            self.weights.append(
                Weight(value, np.zeros((), self.dtype.numpy), f"literal[dtype={self.dtype}, value=0.0]()")
            )
        return self.weights[0].value

    def joined(self, parts: Sequence[Value], axis: int) -> Value:
        return parts[0] if len(parts) == 1 else self.emit("concat", *parts, axis=axis)

    def emit(self, op: str, *inputs: Value, **attrs: Attr) -> Value:
        (kind,) = ops.get(op).infer([v.type for v in inputs], attrs)
        out = Value(self.names.fresh(f"rolled.{op}"), kind)
        self.nodes.append(Node.make(op, inputs, [out], (), **attrs))
        return out
