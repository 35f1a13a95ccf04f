"""Products read as a number times a bag of values, however an exporter nested and ordered them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fusec.ir.graph import Node, Value
from fusec.ir.types import DType
from fusec.passes.graph.sweep import Sweep

DEEPEST = 6
"""Levels of multiplication that one formula has at most; chains beyond it belong to the model, not to the formula."""


@dataclass(frozen=True)
class Product:
    """`number * values[0] * values[1] ...`, and the nodes that spell it."""

    number: float
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]

    def counts(self) -> Counter[str]:
        """How often each value occurs, by name."""
        return Counter(v.name for v in self.values)


def product_of(s: Sweep, v: Value, stop: Value | None = None) -> Product:
    """Read a value as a product through mul, div by a number, neg and small powers; `stop` is never taken apart."""
    number = 1.0
    values: list[Value] = []
    nodes: list[Node] = []
    todo = [(v, 0)]
    while todo:
        x, depth = todo.pop()
        c = s.constant(x)
        if c is not None:
            number *= float(c)
            continue
        n = s.maker(x, "mul", "div", "neg", "pow")
        parts = _split(s, n) if n is not None and depth < DEEPEST and (stop is None or x.name != stop.name) else None
        if n is None or parts is None:
            values.append(x)
            continue
        number *= parts[0]
        nodes.append(n)
        todo += [(p, depth + 1) for p in parts[1]]
    return Product(number, tuple(values), tuple(nodes))


def _split(s: Sweep, n: Node) -> tuple[float, list[Value]] | None:
    if n.op == "mul":
        return 1.0, list(n.operands)
    if n.op == "neg":
        return -1.0, [n.operands[0]]
    number = s.constant(n.operands[1])
    if number is None:
        return None
    if n.op == "div":
        return (1.0 / float(number), [n.operands[0]]) if number else None
    return (1.0, [n.operands[0]] * int(number)) if number in (1, 2, 3) else None


def inside(s: Sweep, v: Value) -> Iterator[Value]:
    """A value and everything multiplied to make it, at every level: what may be the variable of a formula."""
    seen = set[str]()
    todo = [(v, 0)]
    while todo:
        x, depth = todo.pop()
        if x.name in seen or s.array(x) is not None:
            continue
        seen.add(x.name)
        yield x
        n = s.maker(x, "mul", "div", "neg", "pow", "add")
        if n is not None and depth < DEEPEST:
            todo += [(p, depth + 1) for p in n.operands]


def either(s: Sweep, n: Node | None, *wanted: str) -> Iterator[tuple[Node, Value]]:
    """For a node of two operands: each operand that one of the wanted ops makes, as its node, with the other operand."""
    if n is None or len(n.operands) != 2:
        return
    a, b = n.operands
    for x, y in ((a, b), (b, a)):
        made = s.maker(x, *wanted)
        if made is not None:
            yield made, y


def plus_number(s: Sweep, v: Value) -> tuple[Value, float, Node] | None:
    """Read a value as `x + number`."""
    n = s.maker(v, "add", "sub")
    if n is None:
        return None
    a, b = n.operands
    c = s.constant(b)
    if c is not None:
        return a, float(c) if n.op == "add" else -float(c), n
    c = s.constant(a)
    return (b, float(c), n) if c is not None and n.op == "add" else None


def near(x: float, y: float, dtype: DType) -> bool:
    """Whether a constant is the one that a formula wants, as exporters round it in this dtype."""
    return abs(x - y) <= abs(y) * (2e-3 if dtype in (DType.F16, DType.BF16) else 1e-5)
