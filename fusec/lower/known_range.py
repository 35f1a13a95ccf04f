"""What is known of integers before a run: the least and the largest one that a value can hold."""

from __future__ import annotations

import numpy as np

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType
from fusec.tile.fold import limits

Interval = tuple[int, int]
SAME = frozenset(["gather", "gather_elements", "gather_nd", "reshape", "transpose", "expand", "slice", "identity"])
"""Ops that make nothing but elements of their first operand."""
FARTHEST = 400
"""Nodes that are looked at for one value."""


def known_range(graph: Graph, v: Value) -> Interval | None:
    """The interval that all elements of an integer value lie in; None where nothing is known."""
    known: dict[str, Interval | None] = {}
    todo = [v]
    while todo:
        x = todo[-1]
        if x.name in known:
            todo.pop()
            continue
        node = graph.producer.get(x.name)
        wanted = [] if node is None else _read(node)
        open_ = [w for w in wanted if w.name not in known]
        if open_ and len(known) + len(todo) < FARTHEST:
            todo += open_
            continue
        todo.pop()
        found = _of_array(graph, x) if node is None else _of_node(node, [known.get(w.name) for w in wanted])
        known[x.name] = found if found is not None and _holds(x.dtype, found) else None
    return known[v.name]


def _read(node: Node) -> list[Value]:
    """The operands whose ranges matter."""
    if node.op in SAME:
        return [node.operands[0]]
    return list(node.operands) if node.op in ("add", "sub", "mul", "cast", "min", "max", "relu") else []


def _of_array(graph: Graph, v: Value) -> Interval | None:
    if v.dtype is DType.BOOL:
        return 0, 1
    array = graph.array(v)
    if array is None or not v.dtype.is_integer or not array.size:
        return None
    return int(np.min(array)), int(np.max(array))


def _of_node(node: Node, ranges: list[Interval | None]) -> Interval | None:
    if node.outputs[0].dtype is DType.BOOL:
        return 0, 1
    if node.op in ("min", "max", "relu") and node.outputs[0].dtype.is_integer:
        pick = min if node.op == "min" else max
        known = [r or limits(node.outputs[0].dtype) for r in ranges] + ([(0, 0)] if node.op == "relu" else [])
        return int(pick(low for low, _ in known)), int(pick(high for _, high in known))
    given = [r for r in ranges if r is not None]
    if not given or len(given) < len(ranges):
        return None
    match node.op:
        case "add":
            return given[0][0] + given[1][0], given[0][1] + given[1][1]
        case "sub":
            return given[0][0] - given[1][1], given[0][1] - given[1][0]
        case "mul":
            ends = [x * y for x in given[0] for y in given[1]]
            return min(ends), max(ends)
    return given[0]


def _holds(dtype: DType, found: Interval) -> bool:
    """Whether the dtype holds all of an interval: then nothing wraps."""
    if dtype is DType.BOOL:
        return True
    if not dtype.is_integer:
        return False
    bits = 8 * dtype.itemsize
    low, high = (-(1 << bits - 1), 1 << bits - 1) if dtype.is_signed else (0, 1 << bits)
    return low <= found[0] and found[1] < high
