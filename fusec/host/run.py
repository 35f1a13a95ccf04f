"""Host steps: one opaque node run by the reference evaluator of the onnx package, or by our own version of its op."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from fusec.errors import ExecutionError, FusecError, UnsupportedError
from fusec.host.bodies import Body
from fusec.host.compiled import compile_function
from fusec.host.control_plans import compiled_control
from fusec.host.evaluator import can_run, own_op, own_ops
from fusec.host.inner import CompileBody, Control, NotCompiled
from fusec.host.proto import read_proto
from fusec.ir.graph import Node
from fusec.ir.types import TensorType
from fusec.ops.custom import find


def refusal(domain: str, op_type: str, version: int) -> str | None:
    """Why nothing here can run an op; None where something can."""
    return can_run(domain, op_type, version)


def run_host(node: Node, inputs: Sequence[object]) -> list[object]:
    """Run an opaque node once. Callers that run it again keep a `HostRunner`."""
    return HostRunner(node)(inputs)


class HostRunner:
    """An opaque node, ready to run: the evaluator is built at the first call, when the inputs' types are seen.

    Safe to call from several threads; outputs are fresh arrays of the declared dtypes. With `compile_body` the graphs inside
    If, Loop and Scan run as plans of their own, in which the inputs at the positions `constants` are constants.
    """

    def __init__(
        self, node: Node, compile_body: CompileBody | None = None, constants: Collection[int] = frozenset()
    ) -> None:
        self.node = node
        self._op = str(node.attr("op_type"))
        self._origin = _printable(node.origin[0] if node.origin else self._op)
        self._proto = read_proto(node)
        self._names = [*self._proto.input, *node.attr("captures", ())]
        self._evaluators: dict[tuple[str, ...], ReferenceEvaluator] = {}
        self._own = own_op(self._proto, dict(node.attr("opsets")))
        self._check_functions()
        self._compiled = None
        if compile_body is not None:
            self._compiled = compiled_control(Control(node, self._proto, frozenset(constants), compile_body))

    def __call__(self, inputs: Sequence[object]) -> list[object]:
        """The outputs in order, None for one that the node does not make. ExecutionError where the op fails."""
        if self._compiled is not None:
            try:
                results = self._compiled(inputs)
            except NotCompiled:
                pass
            else:
                named = zip(self._proto.output, results, strict=True)
                return [self._normalised(v, i) if o else None for i, (o, v) in enumerate(named)]
        made = self._evaluated(inputs)
        for body in self.bodies:
            body.warn()
        return made

    @property
    def bodies(self) -> tuple[Body, ...]:
        """The graphs inside that are compiled when they run."""
        return () if self._compiled is None else self._compiled.bodies

    def _evaluated(self, inputs: Sequence[object]) -> list[object]:
        try:
            with np.errstate(all="ignore"):
                results = self._own(inputs) if self._own is not None else self._by_evaluator(inputs)
        except FusecError:
            raise
        except Exception as e:  # whatever the reference raises is about this node
            raise ExecutionError(
                f"host step {self._origin!r} ({self._op}) failed: {_printable(str(e) or type(e).__name__)}",
                hint="its inputs are " + ", ".join(_describe(v) for v in inputs),
                node=self._origin,
                op=self._op,
            ) from e
        named = zip(self._proto.output, results, strict=True)
        return [self._normalised(v, i) if o else None for i, (o, v) in enumerate(named)]

    def _by_evaluator(self, inputs: Sequence[object]) -> list[Any]:
        feeds = {n: v for n, v in zip(self._names, inputs, strict=True) if n}
        made = iter(self._evaluator(feeds).run(None, feeds))
        return [next(made) if o else None for o in self._proto.output]

    def forget_locks(self) -> None:
        """In the child of a fork: a lock may be held by a thread that is not here."""
        for body in self.bodies:
            body.forget_locks()

    def _check_functions(self) -> None:
        """UnsupportedError where a users' function is missing, CompileError where one cannot be compiled."""
        versions = dict(self.node.attr("opsets"))
        for n in _all_nodes(self._proto):
            domain = "" if n.domain == "ai.onnx" else n.domain
            why = refusal(domain, n.op_type, versions.get(domain, 1)) if domain else None
            if why is not None:
                source = _printable(str(self.node.attr("function", "")))
                module = source.partition(".<locals>")[0].rpartition(".")[0]
                raise UnsupportedError(
                    f"host step {self._origin!r} needs a function for {_printable(domain)}::{_printable(n.op_type)}: {why}",
                    hint=f"it was compiled with {source}: import {module!r} first, or install the package that declares it"
                    if source
                    else "declare it with @fusec.elementwise first, or install the package that declares it",
                    node=self._origin,
                    op=self._op,
                )
            function = find(domain, n.op_type) if domain else None
            if function is not None and function.why is not None:
                compile_function(function)

    def _evaluator(self, feeds: dict[str, object]) -> ReferenceEvaluator:
        """The evaluator for inputs of these kinds; ops defined by a function need to know the dtypes."""
        key = tuple(_kind(v) for v in feeds.values())
        found = self._evaluators.get(key)
        if found is None:
            found = self._evaluators[key] = self._build(feeds)
        return found

    def _build(self, feeds: dict[str, object]) -> ReferenceEvaluator:
        graph = onnx.GraphProto(name="host_step")
        graph.node.append(self._proto)
        for name, value in feeds.items():
            info = graph.input.add(name=name)
            if isinstance(value, np.ndarray | np.generic):
                info.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                info.type.tensor_type.shape.SetInParent()
                for _ in range(value.ndim):
                    info.type.tensor_type.shape.dim.add()
        for name in self._proto.output:
            if name:
                graph.output.add(name=name)
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.node.attr("opsets")]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        return ReferenceEvaluator(model, new_ops=list(own_ops()))

    def _normalised(self, value: Any, i: int) -> object:
        declared = self.node.outputs[i].type
        if not isinstance(declared, TensorType) or value is None or isinstance(value, list | dict):
            return value
        wanted = declared.dtype.numpy
        if type(value) is np.ndarray and value.dtype is wanted and value.flags.c_contiguous:
            return value
        array = np.asarray(value)
        if array.dtype != wanted and array.dtype.kind not in "OUST":
            array = array.astype(wanted)
        return np.ascontiguousarray(array) if array.ndim else array


def _all_nodes(proto: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A node and those of its subgraphs."""
    todo = [proto]
    while todo:
        n = todo.pop()
        yield n
        for a in n.attribute:
            todo.extend(inner for g in (a.g, *a.graphs) for inner in g.node)


def _kind(value: object) -> str:
    return f"{value.dtype}{value.ndim}" if isinstance(value, np.ndarray | np.generic) else type(value).__name__


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype}{list(value.shape)}"
    return "absent" if value is None else type(value).__name__


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:400]
