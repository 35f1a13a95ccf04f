"""Recognising one step of an LSTM that is written out: products, additions, activations, however a model arranges them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusec.ir.graph import Graph, Node, Value

MOST_TERMS = 16
"""Terms of a gate's sum."""


@dataclass(frozen=True, slots=True)
class Part:
    """A constant, of which rows and columns from `row` and `column` on are meant; `size` columns, all where it is None."""

    name: str
    row: int = 0
    column: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Sum:
    """products: value -> the matrix that it is multiplied by; biases: what is added to that."""

    products: dict[str, Part]
    biases: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """h = sigmoid(o) * tanh(c); c = sigmoid(f) * before + sigmoid(i) * tanh(g), the gates in the order i, o, f, g.

    `before` is None in a first step that starts from zeros. `tanh` is that of c, `kept` the first product of its sum.
    """

    h: Node
    c: Node
    tanh: Node
    kept: Node | None
    before: Value | None
    gates: tuple[Sum, Sum | None, Sum | None, Sum]
    values: dict[str, Value]

    def matrices(self, source: str) -> tuple[Part | None, ...]:
        """What a value is multiplied by for each gate."""
        return tuple(None if g is None else g.products.get(source) for g in self.gates)

    @property
    def sources(self) -> set[str]:
        """The values that gates are made of."""
        return {s for g in self.gates if g is not None for s in g.products}


class Cells:
    """Finds cells in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.maker = graph, graph.producer
        self.values: dict[str, Value] = {}

    def find(self) -> Iterator[Cell]:
        """Every cell, in the order of the graph."""
        for n in self.graph.nodes:
            if n.op == "mul" and len(n.output.shape) == 2 and (cell := self.cell(n)) is not None:
                yield cell

    def made(self, v: Value, op: str) -> Node | None:
        """The node that makes a value, where it is of an op."""
        n = self.maker.get(v.name)
        return n if n is not None and n.op == op else None

    def cell(self, h: Node) -> Cell | None:
        """The cell of which a node makes the state."""
        for o, t in self.products(h, "sigmoid", "tanh"):
            c = self.maker.get(t.operands[0].name)
            if c is None or c.output.shape != h.output.shape:
                continue
            self.values = {}
            found = self.state(c)
            out = self.sum(o.operands[0]) if found is not None else None
            if found is not None and out is not None:
                i, f, g, kept, before = found
                return Cell(h, c, t, kept, before, (i, out, f, g), self.values)
        return None

    def state(self, c: Node) -> tuple[Sum, Sum | None, Sum, Node | None, Value | None] | None:
        """(i, f, g, f * before, before) of the node that makes a cell."""
        if c.op == "mul":
            fresh = self.input_part(c)
            return None if fresh is None else (fresh[0], None, fresh[1], None, None)
        if c.op != "add":
            return None
        for a, b in (c.operands, c.operands[::-1]):
            kept, new = self.made(a, "mul"), self.made(b, "mul")
            if kept is None or new is None:
                continue
            inputs = self.input_part(new)
            for gate, before in (kept.operands, kept.operands[::-1]) if inputs is not None else ():
                sigmoid = self.made(gate, "sigmoid")
                f = self.sum(sigmoid.operands[0]) if sigmoid is not None and before.shape == c.output.shape else None
                if inputs is not None and f is not None:
                    return inputs[0], f, inputs[1], kept, None if self.is_zero(before) else before
        return None

    def input_part(self, n: Node) -> tuple[Sum, Sum] | None:
        """(i, g) of sigmoid(i) * tanh(g)."""
        for s, t in self.products(n, "sigmoid", "tanh"):
            i, g = self.sum(s.operands[0]), self.sum(t.operands[0])
            if i is not None and g is not None:
                return i, g
        return None

    def products(self, n: Node, left: str, right: str) -> Iterator[tuple[Node, Node]]:
        """The makers of a product's factors, where the one is of the one op and the other of the other."""
        if n.op != "mul":
            return
        for a, b in (n.operands, n.operands[::-1]):
            x, y = self.made(a, left), self.made(b, right)
            if x is not None and y is not None:
                yield x, y

    def sum(self, v: Value) -> Sum | None:
        """A gate's argument as products with constant matrices and constants; None where it is anything else."""
        products: dict[str, Part] = {}
        biases: list[Part] = []
        todo: list[tuple[Value, int, int | None]] = [(v, 0, None)]
        for _ in range(4 * MOST_TERMS):
            if not todo:
                return Sum(products, tuple(sorted(biases, key=lambda p: (p.name, p.column)))) if products else None
            v, column, size = todo.pop()
            if v.name in self.graph.weights:
                if not self.is_zero(v):
                    if len(v.shape) > 2 or (len(v.shape) == 2 and v.shape[0] != 1):
                        return None  # another number for each row
                    wide = bool(v.shape) and v.shape[-1] != 1
                    biases.append(Part(v.name, 0, column if wide else 0, size if wide else None))
                continue
            n = self.maker.get(v.name)
            match None if n is None else n.op:
                case "add" if n is not None:
                    todo += [(x, column, size) for x in n.operands]
                case "slice" if n is not None:
                    cut = _columns(n)
                    if cut is None:
                        return None
                    todo.append((n.operands[0], column + cut[0], cut[1] if size is None else size))
                case "matmul" if n is not None:
                    a, b = n.operands
                    if b.name not in self.graph.weights or len(b.shape) != 2 or len(a.shape) != 2:
                        return None
                    for part, row in self.side_by_side(a):
                        if part.name in products:
                            return None
                        products[part.name] = Part(b.name, row, column, size)
                        self.values[part.name] = part
                case _:
                    return None
        return None

    def side_by_side(self, v: Value) -> Iterator[tuple[Value, int]]:
        """The values that a left operand is put together of, each with its first column."""
        n = self.made(v, "concat")
        if n is None or n.attr("axis") != len(v.shape) - 1 or not all(isinstance(x.shape[-1], int) for x in n.operands):
            yield v, 0
            return
        at = 0
        for x in n.operands:
            yield x, at
            at += int(str(x.shape[-1]))

    def is_zero(self, v: Value) -> bool:
        """Whether a value is a constant without anything in it."""
        array = self.graph.array(v)
        return array is not None and not np.any(array)


def _columns(n: Node) -> tuple[int, int] | None:
    """(start, size) of a slice of the last axis alone."""
    x, starts, sizes = n.operands[0], n.attr("starts"), n.attr("sizes")
    plain = tuple(sizes[:-1]) == x.shape[:-1] and all(s == 0 for s in starts[:-1]) and n.attr("steps")[-1] == 1
    start, size = starts[-1], sizes[-1]
    return (start, size) if plain and isinstance(start, int) and isinstance(size, int) else None
