"""The verifier of graphs: what must hold between any two passes, and whom to blame where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from fusec.errors import BugError, FusecError
from fusec.ir.dim import Dim, Extent
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.types import DType, TensorType, Type


def verify(graph: Graph, blame: str | None = None) -> None:
    """BugError naming the pass `blame` where the graph is not valid.

    Every value has one producer and is produced before it is used, under one type; ops are known and take what they are
    given; outputs exist; weights' arrays have the types they claim; and declared types are what the ops' rules infer,
    where an integer may stand for an inferred symbol. Opaque nodes declare their types themselves.
    """
    _Verifier(graph, blame).run()


class _Verifier:
    def __init__(self, graph: Graph, blame: str | None) -> None:
        self.graph = graph
        self.blame = blame
        self.made: dict[str, Type] = {}

    def run(self) -> None:
        for v in self.graph.inputs:
            self.make(v, "input")
        for name, w in self.graph.weights.items():
            self.make(w.value, "weight")
            self.weight(name)
        for n in self.graph.nodes:
            self.node(n)
        for v in self.graph.outputs:
            self.read(v, f"output {v.name!r}")
        names = [v.name for v in self.graph.outputs]
        if len(set(names)) != len(names):
            self.fail(f"two outputs have one name: {', '.join(map(repr, names))}")

    def fail(self, message: str, node: Node | None = None) -> NoReturn:
        who = f"pass {self.blame!r} broke the graph" if self.blame else "the graph is broken"
        name = node.outputs[0].name if node is not None and node.outputs else None
        raise BugError(
            f"{who} {self.graph.name!r}: {message}",
            hint="please report it with the dump folder (FUSEC_DUMP)",
            node=name,
            op=node.op if node is not None else None,
        )

    def make(self, v: Value, what: str, node: Node | None = None) -> None:
        if v.name in self.made:
            self.fail(f"{what} {v.name!r} is produced a second time", node)
        self.made[v.name] = v.type

    def read(self, v: Value, where: str, node: Node | None = None) -> None:
        if v.name not in self.made:
            late = any(v.name == o.name for n in self.graph.nodes for o in n.outputs)
            why = "before it is produced" if late else "which nothing produces"
            self.fail(f"{where} reads {v.name!r}, {why}", node)
        if self.made[v.name] != v.type:
            self.fail(f"{where} reads {v.name!r} as {v.type}, and it is {self.made[v.name]}", node)

    def weight(self, name: str) -> None:
        w = self.graph.weights[name]
        if w.value.name != name:
            self.fail(f"weight {w.value.name!r} is filed under {name!r}")
        t = w.value.type
        fits = isinstance(t, TensorType) and t.shape == w.array.shape and t.dtype is DType.of(w.array.dtype)
        if not fits:
            self.fail(f"weight {name!r} is declared {t}, its array is {w.array.dtype}{list(w.array.shape)}")

    def node(self, n: Node) -> None:
        from fusec.ops import op as ops  # ops are made of ir, so this import waits for the first use

        label = f"{n.op} -> {', '.join(repr(v.name) for v in n.outputs)}"
        if not n.outputs:
            self.fail(f"node {n.op} makes nothing", n)
        if list(n.attrs) != sorted(n.attrs, key=lambda kv: kv[0]) or len(dict(n.attrs)) != len(n.attrs):
            self.fail(f"{label}: attributes are not sorted by name", n)
        for v in n.operands:
            self.read(v, label, n)
        if n.op != "opaque":
            try:
                inferred = ops.get(n.op).infer([None if v is None else v.type for v in n.inputs], dict(n.attrs))
            except KeyError as e:
                self.fail(f"{label}: attribute {e} is missing", n)
            except FusecError as e:
                self.fail(f"{label}: {e}", n)
            self.types(label, n, inferred)
        for v in n.outputs:
            self.make(v, "value", n)

    def types(self, label: str, n: Node, inferred: Sequence[Type]) -> None:
        if len(inferred) != len(n.outputs):
            self.fail(f"{label}: has {len(n.outputs)} outputs, and the op makes {len(inferred)}", n)
        for v, t in zip(n.outputs, inferred):
            if not _refines(v.type, t):
                self.fail(f"{label}: declares {v.type}, and its inputs give {t}", n)


def _refines(declared: Type, inferred: Type) -> bool:
    """Whether a declared type is the inferred one, or has integers where that has symbols."""
    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return declared == inferred
    if declared.dtype is not inferred.dtype or declared.shape is None or inferred.shape is None:
        return declared == inferred
    same_rank = len(declared.shape) == len(inferred.shape)
    return same_rank and all(map(_refines_dim, declared.shape, inferred.shape))


def _refines_dim(declared: Extent, inferred: Extent) -> bool:
    return declared == inferred or (isinstance(declared, int) and isinstance(inferred, Dim))
