"""GraphBuilder: the way to make a graph by hand, with inferred types and fresh, deterministic names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fusec.errors import UsageError
from fusec.ir.graph import Attr, Graph, Node, Value, Weight, weight
from fusec.ir.types import Type, parse_type


class GraphBuilder:
    """Collects inputs, weights and nodes, then gives the graph.

    >>> b = GraphBuilder("double")
    >>> x = b.input("x", "f32[N]")
    >>> print(b.graph([b.op("add", x, x, name="y")]))
    graph double(x: f32[N]) {
      y: f32[N] = add(x, x)
      return y
    }
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self._inputs: list[Value] = []
        self._weights: dict[str, Weight] = {}
        self._nodes: list[Node] = []
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def input(self, name: str, type: Type | str) -> Value:
        """Declare an input; the type may be text such as `f32[N, 128]`."""
        v = Value(self._claim(name), parse_type(type) if isinstance(type, str) else type)
        self._inputs.append(v)
        return v

    def weight(self, name: str, array: npt.ArrayLike, recipe: str | None = None) -> Value:
        """Declare a constant; the recipe defaults to the initialiser of that name."""
        w = weight(self._claim(name), np.asarray(array), recipe)
        self._weights[name] = w
        return w.value

    def op(self, op: str, *inputs: Value | None, name: str | None = None, **attrs: Attr) -> Value:
        """Apply an op with one output, whose type is inferred; `name` is the output's, a fresh one by default."""
        (out,) = self.ops(op, *inputs, names=None if name is None else [name], **attrs)
        return out

    def ops(
        self, op: str, *inputs: Value | None, names: Sequence[str] | None = None, **attrs: Attr
    ) -> tuple[Value, ...]:
        """Apply an op with any number of outputs, whose types are inferred."""
        from fusec.ops.op import get  # ops are made of ir, so this import waits for the first use

        types = get(op).infer([None if v is None else v.type for v in inputs], attrs)
        return self.node(op, inputs, types, names, attrs)

    def opaque(self, inputs: Sequence[Value | None], types: Sequence[Type | str], **attrs: Attr) -> tuple[Value, ...]:
        """Apply an opaque op, whose output types are given."""
        parsed = [parse_type(t) if isinstance(t, str) else t for t in types]
        return self.node("opaque", inputs, parsed, None, attrs)

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        types: Sequence[Type],
        names: Sequence[str] | None,
        attrs: dict[str, Attr],
    ) -> tuple[Value, ...]:
        """Append a node with outputs of the given types."""
        names = [self._fresh(op) for _ in types] if names is None else [self._claim(n) for n in names]
        outputs = tuple(Value(n, t) for n, t in zip(names, types, strict=True))
        self._nodes.append(Node(op, tuple(inputs), outputs, tuple(sorted(attrs.items()))))
        return outputs

    def graph(self, outputs: Iterable[Value]) -> Graph:
        """The graph of everything so far."""
        return Graph(self.name, tuple(self._inputs), tuple(outputs), tuple(self._nodes), dict(self._weights))

    def _claim(self, name: str) -> str:
        if name in self._taken:
            raise UsageError(f"the graph already has a value {name!r}", hint="choose another name")
        self._taken.add(name)
        return name

    def _fresh(self, op: str) -> str:
        while (name := f"{op}_{self._next.get(op, 0)}") in self._taken:
            self._next[op] = self._next.get(op, 0) + 1
        return self._claim(name)
