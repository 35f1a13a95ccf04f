"""The walk over a model's nodes: each becomes native nodes by its row of the table, or one opaque node."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

import fusec.frontend.table  # noqa: F401  # fills ROWS and KNOWN_ROWS
from fusec.errors import ModelError, ResourceError
from fusec.frontend.builder import Bound, Builder, Contradiction, NotNative
from fusec.frontend.call import KNOWN_ROWS, Call, domain_of
from fusec.frontend.deferred import WHY, Deferred, hides_rank
from fusec.frontend.functions import FlatNode, Inliner
from fusec.frontend.known import Known
from fusec.frontend.messages import clean
from fusec.frontend.opaque import make_opaque
from fusec.frontend.plug_ins import find_row
from fusec.frontend.scope import is_control, local_names, renamed
from fusec.frontend.support import Refusals
from fusec.frontend.tensors import sparse_array, tensor_array
from fusec.ir.graph import Value


@dataclass
class Importer:
    """Imports nodes one by one into a builder. With `may_defer` what follows a branch of unknown rank becomes one step."""

    builder: Builder
    inliner: Inliner
    folder: Path | None
    refusals: Refusals = field(default_factory=Refusals)
    branches: int = 0
    count: int = 0
    may_defer: bool = False
    deferred: Deferred = field(default_factory=Deferred)
    imported: list[FlatNode] = field(default_factory=list)

    def run(self, nodes: Sequence[onnx.NodeProto], versions: Mapping[str, int], outputs: Collection[str]) -> None:
        """Import all nodes in order; `outputs` are the names that the model gives back."""
        self._walk(self.inliner.flatten(nodes, versions))
        if self.deferred.nodes:
            self.may_defer, waiting = False, self.deferred
            self.deferred = Deferred()
            whole = waiting.with_sizes(self.builder, self.imported)
            if whole.is_body:
                self._import_step(whole.step(waiting.nodes[0], outputs))
            else:
                self._walk(iter(waiting.nodes))

    def _walk(self, nodes: Iterator[FlatNode]) -> None:
        """Import nodes. The stack holds what is still to do: the model, then inlined branches."""
        stack = [nodes]
        while stack:
            flat = next(stack[-1], None)
            if flat is None:
                stack.pop()
                continue
            self.count += 1
            if self.count > self.builder.limits.max_nodes:
                raise ResourceError(
                    f"the model has more than {self.builder.limits.max_nodes} nodes", hint="see --max-nodes"
                )
            if self.deferred.depends(flat):
                self.deferred.add(flat)
                continue
            branch = self._taken_branch(flat)
            if branch is not None:
                stack.append(branch)
            else:
                self._import(flat)

    def add_initializers(self, graph: onnx.GraphProto, names: Mapping[str, str] | None = None) -> None:
        """Turn the initialisers of a graph into weights, under other names where `names` says so."""
        names = names or {}
        for t in graph.initializer:
            self.builder.add_weight(names.get(t.name, t.name), tensor_array(t, self.builder.limits, self.folder))
        for s in graph.sparse_initializer:
            name = s.values.name
            self.builder.add_weight(names.get(name, name), sparse_array(s, self.builder.limits, self.folder))

    def _import(self, flat: FlatNode) -> None:
        call, mark = self._call(flat), self.builder.mark
        results = self._known(call)
        if results is None:
            results = self._native(call)
        condition = call.inputs[0] if self.may_defer and call.inputs and not self.refusals.kinds else None
        if hides_rank(flat, condition, results, self.builder):
            self.builder.undo(mark)
            self.deferred.add(flat)
            return
        self._bind(flat, results)
        if self.may_defer:
            self.imported.append(flat)

    def _import_step(self, flat: FlatNode) -> None:
        """Import the step of the deferred nodes, whose condition is no value of the model."""
        always = self.builder.constant(np.array(True))
        call = Call(self.builder, flat.proto, flat.versions, (always,), (flat.origin,))
        self._bind(flat, make_opaque(call, self.refusals, WHY))

    def _bind(self, flat: FlatNode, results: Sequence[Bound | None]) -> None:
        for name, result in zip(flat.proto.output, results, strict=False):
            if name and result is not None:
                self.builder.bind(name, result)

    def _call(self, flat: FlatNode) -> Call:
        env, proto = self.builder.env, flat.proto
        inputs: list[Bound | None] = []
        for name in proto.input:
            if name and name not in env:
                raise ModelError(
                    f"node {clean(flat.origin)!r} ({clean(proto.op_type)}) reads {clean(name)!r}, which nothing produces",
                    node=clean(flat.origin),
                )
            inputs.append(env[name] if name else None)
        return Call(self.builder, proto, flat.versions, tuple(inputs), (flat.origin,))

    def _known(self, call: Call) -> Sequence[Bound | None] | None:
        known_row = KNOWN_ROWS.get((domain_of(call.proto), call.op_type))
        if known_row is None:
            return None
        try:
            found = known_row(call)
        except ModelError:
            raise
        except (NotNative, TypeError, ValueError, LookupError, ArithmeticError):
            return None  # the row that makes nodes says what is wrong, if anything is
        return None if found is None or all(f is None for f in found) else found

    def _native(self, call: Call) -> Sequence[Bound | None]:
        """What the node's row makes of it; where there is none or it gives up, an opaque node."""
        native_row = find_row(domain_of(call.proto), call.op_type)
        mark = self.builder.mark
        refused: Contradiction | None = None
        try:
            if native_row is not None:
                result = native_row(call)
                return (result,) if isinstance(result, Known | Value) else result
            reason = (
                "the graphs inside are compiled when they run"
                if is_control(call.proto)
                else "there is no native form of this op"
            )
        except NotNative as e:
            self.builder.undo(mark)
            refused = e if isinstance(e, Contradiction) else None
            reason = str(e)
        except (TypeError, ValueError, LookupError, ArithmeticError) as e:
            if isinstance(e, ModelError):
                raise
            name = e.args[0] if isinstance(e, KeyError) and e.args else None
            if isinstance(name, str) and name not in call.attrs:
                raise call.error(f"attribute {clean(name)!r} is missing") from e
            raise call.error(f"its attributes or inputs make no sense ({clean(repr(e))})") from e
        return make_opaque(call, self.refusals, reason, refused)

    def _taken_branch(self, flat: FlatNode) -> Iterator[FlatNode] | None:
        """The nodes of the branch that an If with a known condition takes; None for everything else."""
        if flat.proto.op_type != "If" or domain_of(flat.proto) != "" or len(flat.proto.input) != 1:
            return None
        call = self._call(flat)
        known = call.known(0)
        if known is None or not known.is_static or len(known.values) != 1:
            return None
        graph = call.attr("then_branch" if known.values[0] else "else_branch")
        if not isinstance(graph, onnx.GraphProto):
            raise call.error("a branch is missing")
        self.branches += 1
        prefix = f"{flat.origin}/branch{self.branches}/"
        names = {n: prefix + n for n in local_names(graph) if n}
        self.add_initializers(graph, names)
        nodes = [renamed(n, names) for n in graph.node]
        for out, result in zip(graph.output, flat.proto.output, strict=False):
            if result:
                nodes.append(onnx.helper.make_node("Identity", [names.get(out.name, out.name)], [result]))
        return self.inliner.flatten(nodes, flat.versions)
