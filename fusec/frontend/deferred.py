"""What follows a branch that sizes decide and that hides the rank of its result: one host step, compiled when sizes are known.

Exporters write `If(Shape(x)[0] == 1, Squeeze(x), x)`. While sizes are symbols the rank of that is unknown, and so is all that
follows; once they are numbers, nothing of it is left. So the branch and everything after it stay together, as the body of
a host step that a session compiles for the shapes that it meets.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import onnx

from fusec.frontend.builder import Bound, Builder
from fusec.frontend.functions import FlatNode
from fusec.frontend.scope import captured_names, renamed
from fusec.ir.graph import Value
from fusec.ir.types import TensorType

FEWEST = 8
"""Fewer nodes than this run as host steps of their own."""
WHY = "the rank of its result depends on sizes"


@dataclass
class Deferred:
    """Nodes that wait, in order, and the names that they make."""

    nodes: list[FlatNode] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def add(self, flat: FlatNode) -> None:
        """Let a node wait."""
        self.nodes.append(flat)
        self.made.update(o for o in flat.proto.output if o)

    def depends(self, flat: FlatNode) -> bool:
        """Whether a node reads what waiting ones make."""
        read = (*flat.proto.input, *captured_names(flat.proto)) if self.nodes else ()
        return any(n in self.made for n in read)

    def with_sizes(self, builder: Builder, imported: Sequence[FlatNode]) -> Deferred:
        """The same with those imported nodes in front that compute sizes for them, so that the body knows its sizes itself."""
        makers = {o: i for i, n in enumerate(imported) for o in n.proto.output}
        todo = [name for n in self.nodes for name in (*n.proto.input, *captured_names(n.proto))]
        found: set[int] = set()
        while todo:
            name = todo.pop()
            i = makers.get(name)
            if i is not None and i not in found and _holds_sizes(builder.env[name], builder):
                found.add(i)
                todo += imported[i].proto.input
        out = Deferred()
        for n in (*(imported[i] for i in sorted(found)), *self.nodes):
            out.add(n)
        return out

    @property
    def is_body(self) -> bool:
        """Whether the nodes are enough for a step of their own, and written for the same opsets."""
        versions = [n.versions for n in self.nodes]
        return len(self.nodes) >= FEWEST and all(v == versions[0] for v in versions)

    def step(self, first: FlatNode, outputs: Collection[str]) -> FlatNode:
        """All of them as an If that is always taken, named after `first`; `outputs` are the names that the model gives back.

        The first input, the condition, is a name that the model does not know.
        """
        prefix = f"{first.origin}/rest/"
        names = {n: prefix + n for n in self.made}
        wanted = [o for n in self.nodes for o in n.proto.output if o in outputs]
        body = onnx.GraphProto(name="rest")
        body.node.extend(renamed(n.proto, names) for n in self.nodes)
        for name in wanted:
            body.output.add(name=prefix + name)
        proto = onnx.helper.make_node("If", [f"{prefix}always"], wanted, name=first.proto.name)
        proto.attribute.extend(onnx.helper.make_attribute(a, body) for a in ("then_branch", "else_branch"))
        return FlatNode(proto, first.versions, first.origin)


def hides_rank(flat: FlatNode, condition: Bound | None, results: Sequence[Bound | None], builder: Builder) -> bool:
    """Whether a node is an If of unknown rank that nothing but sizes decides."""
    if flat.proto.op_type != "If" or not isinstance(condition, Value):
        return False
    unknown = [isinstance(r, Value) and isinstance(r.type, TensorType) and r.type.shape is None for r in results]
    return any(unknown) and _is_made_of_sizes(condition, builder)


def _holds_sizes(bound: Bound, builder: Builder) -> bool:
    """Whether a value is known once sizes are, and not before."""
    if isinstance(bound, Value):
        return bound.name not in builder.weights and _is_made_of_sizes(bound, builder)
    return not bound.is_static


def _is_made_of_sizes(value: Value, builder: Builder) -> bool:
    todo, seen = [value], {value.name}
    while todo:
        v = todo.pop()
        if v.name in builder.weights:
            continue
        maker = builder.makers.get(v.name)
        if maker is None:
            return False
        todo += [o for o in maker.operands if o.name not in seen]
        seen.update(o.name for o in maker.operands)
    return True
