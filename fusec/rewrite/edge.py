"""What a rule of fusion is asked about: an edge between two groups, with the facts that rules decide by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Graph, Value
from fusec.ir.types import TensorType
from fusec.ops import op as ops
from fusec.ops.op import Kind
from fusec.rewrite.fused import Group


@dataclass(frozen=True)
class Edge:
    """The way from a group to another that reads what it makes.

    `values` are all values that go this way, `stored` those of them that must be stored whatever happens to the edge,
    because another group reads them too or because the graph gives them out.
    """

    graph: Graph
    values: tuple[Value, ...]
    stored: tuple[Value, ...]
    producer: Group
    consumer: Group

    @property
    def value(self) -> Value:
        """The first value that goes this way, mostly the only one."""
        return self.values[0]

    @property
    def sole_reader(self) -> bool:
        """Nothing that goes this way is needed by anybody else."""
        return not self.stored

    @property
    def is_output(self) -> bool:
        """A value that goes this way is an output of the graph."""
        return any(v.name in self.graph.output_names for v in self.values)

    @cached_property
    def bytes(self) -> int | None:
        """What closing the edge saves at least once in stores and once in loads; None where a size is symbolic."""
        sizes = [size_in_bytes(v) for v in self.values]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    def is_weight(self, value: Value | None) -> bool:
        """Whether a value is a constant of the model."""
        return value is not None and value.name in self.graph.weights


def size_in_bytes(value: Value) -> int | None:
    """The bytes of a tensor; None where its size is symbolic or unknown."""
    t = value.type
    if not isinstance(t, TensorType) or t.shape is None:
        return None
    n = product(t.shape)
    return n * t.dtype.itemsize if isinstance(n, int) else None


def count(value: Value) -> Extent:
    """The number of elements of a tensor value."""
    return product(value.shape)


def kinds(group: Group) -> frozenset[Kind]:
    """The kinds of a group's nodes."""
    return frozenset(ops.get(n.op).kind for n in group.nodes)
