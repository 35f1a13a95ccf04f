"""Model-local functions, inlined under a node budget that is checked before anything is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from fusec.errors import ModelError, ResourceError
from fusec.frontend.messages import clean, listing
from fusec.frontend.scope import renamed, subgraphs
from fusec.knobs import Limits

Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


@dataclass(frozen=True)
class FlatNode:
    """A node after inlining, with the opsets that it was written for."""

    proto: onnx.NodeProto
    versions: Mapping[str, int]
    origin: str


def opset_versions(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Domain -> version, with `ai.onnx` spelled as the empty domain."""
    return {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in imports}


def function_key(f: onnx.FunctionProto) -> Key:
    """What a node calls a function by."""
    return f.domain, f.name, f.overload


def call_key(node: onnx.NodeProto) -> Key:
    """The function that a node would call."""
    return node.domain, node.op_type, node.overload


@dataclass
class Inliner:
    """Replaces calls of a model's functions by their bodies, iteratively, innermost names made unique."""

    functions: Mapping[Key, onnx.FunctionProto]
    calls: int = 0

    def flatten(self, nodes: Sequence[onnx.NodeProto], versions: Mapping[str, int]) -> Iterator[FlatNode]:
        """The nodes in order with every call replaced by what it stands for."""
        stack = [iter([(n, versions, _origin(n, i)) for i, n in enumerate(nodes)])]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
                continue
            proto, scope, origin = item
            function = self.functions.get(call_key(proto)) if self.functions else None
            if function is None:
                yield FlatNode(self._with_flat_subgraphs(proto, scope), scope, origin)
            else:
                stack.append(iter(self._body(function, proto, origin)))

    def _body(
        self, f: onnx.FunctionProto, call: onnx.NodeProto, origin: str
    ) -> list[tuple[onnx.NodeProto, Mapping[str, int], str]]:
        self.calls += 1
        prefix = f"{origin}/{self.calls}/"
        names = {n: prefix + n for node in f.node for n in node.output if n}
        names |= dict.fromkeys(f.input[len(call.input) :], "")
        names |= dict(zip(f.input, call.input, strict=False))
        attributes = {a.name: a for a in f.attribute_proto} | {a.name: a for a in call.attribute}
        versions = opset_versions(f.opset_import)
        body: list[tuple[onnx.NodeProto, Mapping[str, int], str]] = []
        for i, node in enumerate(f.node):
            body.append((renamed(node, names, attributes), versions, f"{origin}/{_origin(node, i)}"))
        for formal, actual in zip(f.output, call.output, strict=False):
            if actual:
                copy = onnx.helper.make_node("Identity", [names.get(formal, formal)], [actual])
                body.append((copy, versions, origin))
        return body

    def _with_flat_subgraphs(self, node: onnx.NodeProto, versions: Mapping[str, int]) -> onnx.NodeProto:
        if not self.functions or not any(True for _ in subgraphs(node)):
            return node
        out = onnx.NodeProto()
        out.CopyFrom(node)
        for graph in subgraphs(out):
            flat = [f.proto for f in self.flatten(list(graph.node), versions)]
            copies = [renamed(p, {}) for p in flat]
            del graph.node[:]
            graph.node.extend(copies)
        return out


def make_inliner(model: onnx.ModelProto, limits: Limits) -> Inliner:
    """The inliner of a model's functions. ModelError where they recurse, ResourceError where they unfold too far."""
    functions: dict[Key, onnx.FunctionProto] = {}
    for f in model.functions:
        if function_key(f) in functions:
            raise ModelError(f"function {clean(f.domain)}::{clean(f.name)} is defined twice")
        functions[function_key(f)] = f
    cost = _costs(functions)
    total = sum(_cost_of(n, cost) for n in _all_nodes(model.graph.node))
    if total > limits.max_nodes:
        raise ResourceError(
            f"the model has {total if total < 10**12 else f'about 10^{len(str(total)) - 1}'} nodes once its functions are "
            f"inlined, the limit is {limits.max_nodes}",
            hint="raise it with --max-nodes or FUSEC_MAX_NODES if this is meant",
        )
    return Inliner(functions)


def _costs(functions: Mapping[Key, onnx.FunctionProto]) -> dict[Key, int]:
    """Nodes of every function with all its calls inlined, depth first without recursion."""
    cost: dict[Key, int] = {}
    for start in functions:
        path: dict[Key, None] = {}
        todo = [start]
        while todo:
            key = todo[-1]
            if key in cost:
                todo.pop()
                continue
            callees = [c for n in _all_nodes(functions[key].node) if (c := call_key(n)) in functions and c not in cost]
            if not callees:
                cost[key] = sum(_cost_of(n, cost) for n in _all_nodes(functions[key].node)) + 1
                path.pop(key, None)
                todo.pop()
                continue
            path[key] = None
            cycle = [c for c in callees if c in path]
            if cycle:
                raise ModelError(f"functions call each other in a cycle: {listing(f'{d}::{n}' for d, n, _ in path)}")
            todo.extend(callees)
    return cost


def _cost_of(node: onnx.NodeProto, cost: Mapping[Key, int]) -> int:
    return cost.get(call_key(node), 1)


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs."""
    todo = [iter(nodes)]
    while todo:
        node = next(todo[-1], None)
        if node is None:
            todo.pop()
            continue
        yield node
        todo.extend(iter(g.node) for g in subgraphs(node))


def _origin(node: onnx.NodeProto, index: int) -> str:
    return node.name or f"{node.op_type}_{index}"
