"""What a rule of fusion is asked about: an edge between two groups, with the facts that rules decide by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fusec.ir.dim import Extent, product
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import TensorType
from fusec.rewrite.fused import Group
from fusec.rewrite.partition import Partition


@dataclass(frozen=True, eq=False)
class Edge:
    """The way from a group to another that reads what it makes."""

    partition: Partition
    ids: tuple[int, int]
    producer: Group
    consumer: Group

    @property
    def graph(self) -> Graph:
        """The graph that is being fused."""
        return self.partition.graph

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """All values that go this way."""
        return self.partition.flow(*self.ids)

    @cached_property
    def stored(self) -> tuple[Value, ...]:
        """Those of them that must be stored whatever happens to the edge: other groups read them, or the graph gives
        them out."""
        a, b = self.ids
        return tuple(v for v in self.values if self.partition.is_needed(v, without=b)) if a != b else ()

    def maker(self, value: Value) -> Node | None:
        """The node that makes a value; None for inputs and weights."""
        return self.graph.producer.get(value.name)

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

    def group_of(self, value: Value) -> tuple[Node, ...]:
        """The nodes of the group that stores a value; none for inputs and weights."""
        home = self.partition.producer(value)
        return () if home is None else self.partition.nodes(home)

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
