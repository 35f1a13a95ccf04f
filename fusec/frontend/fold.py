"""Small integer constants behind a few native nodes, computed when an attribute needs their contents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import FusecError
from fusec.frontend.builder import Builder
from fusec.ir.graph import Node, Value
from fusec.ir.types import TensorType
from fusec.ops.op import get

MOST_NODES = 64
MOST_ELEMENTS = 4096


def fold_small(builder: Builder, value: Value) -> npt.NDArray[Any] | None:
    """The array that a value always has, where a few small nodes make it from constants; None otherwise.

    Folding in general is a pass. This is for attributes only, such as a shape that went through a float multiplication.
    """
    order = _chain(builder, value)
    if order is None:
        return None
    made: dict[str, npt.NDArray[Any]] = {}
    for node in order:
        args = [None if v is None else made[v.name] if v.name in made else builder.array(v) for v in node.inputs]
        try:
            with np.errstate(all="ignore"):
                results = get(node.op).reference(args, dict(node.attrs))
        except (FusecError, ValueError, TypeError, ArithmeticError, IndexError):
            return None
        made.update({v.name: np.asarray(r) for v, r in zip(node.outputs, results)})
    return made.get(value.name)


def _chain(builder: Builder, value: Value) -> list[Node] | None:
    """The nodes behind a value in order, where they are few, small and fed by constants only."""
    order: dict[str, Node] = {}
    todo = [value]
    while todo:
        v = todo.pop()
        if v.name in builder.weights or v.name in order:
            continue
        node = builder.makers.get(v.name)
        if node is None or len(order) >= MOST_NODES or not _is_small(v):
            return None
        order[v.name] = node
        todo.extend(node.operands)
    position = {id(n): i for i, n in enumerate(builder.nodes)} if order else {}
    if any(id(n) not in position for n in order.values()):
        return None
    return sorted(order.values(), key=lambda n: position[id(n)])


def _is_small(v: Value) -> bool:
    size = v.type.size if isinstance(v.type, TensorType) and v.type.is_static else None
    return isinstance(size, int) and size <= MOST_ELEMENTS
