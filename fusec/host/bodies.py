"""Branches of an If as plans of their own: each is compiled when it is first taken, for the shapes that it then finds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from fusec.errors import ExecutionError, FusecError, InputError
from fusec.ir.dim import Extent
from fusec.ir.graph import Node
from fusec.ir.types import TensorType

KEPT = 8
PLAN_BYTES = 256 << 20
"""For how many shapes of its inputs a branch keeps a plan, and how many bytes of weights these may hold; one is always kept."""
MOST_COMPILES = 32
"""How often one branch is compiled at most; a new shape after that is the evaluator's."""
FEW_NODES = 8
FEW_ELEMENTS = 64
"""Bodies of fewer nodes, or without any larger tensor, are not worth the time that compiling them takes."""

Array = npt.NDArray[Any]


class RunBody(Protocol):
    """A compiled body, called with its inputs by name and the names of the outputs that are wanted, in order."""

    def __call__(self, feeds: Mapping[str, Any], outputs: Sequence[str], /) -> list[Any]: ...  # noqa: D102


CompileBody = Callable[[onnx.ModelProto, Mapping[str, Array]], RunBody]
"""Compiles a model, some of whose inputs are constants with these contents. FusecError where it cannot.

The compiler lies above the host steps, so whoever opens a session hands it down.
"""


class Branches:
    """Both branches of an If. A call gives the outputs, or None where the evaluator is to run it."""

    def __init__(self, node: Node, proto: onnx.NodeProto, constants: frozenset[int], compile_body: CompileBody) -> None:
        graphs = {a.name: a.g for a in proto.attribute if a.HasField("g")}
        self._branches = tuple(
            Branch(node, proto, graphs.get(name, onnx.GraphProto()), name, constants, compile_body)
            for name in ("else_branch", "then_branch")
        )

    def __call__(self, inputs: Sequence[object]) -> list[Any] | None:
        """The outputs of the branch that the condition takes."""
        condition = inputs[0]
        if not isinstance(condition, np.ndarray | np.generic) or condition.size != 1:
            return None
        return self._branches[bool(condition.item())](inputs)

    def forget_locks(self) -> None:
        """In the child of a fork: a lock may be held by a thread that is not here."""
        for branch in self._branches:
            branch.lock = threading.Lock()


class Branch:
    """One graph of a host step with its plans, found by the dtypes and shapes of what it reads from outside."""

    def __init__(
        self,
        node: Node,
        proto: onnx.NodeProto,
        graph: onnx.GraphProto,
        name: str,
        constants: frozenset[int],
        compile_body: CompileBody,
    ) -> None:
        origin = node.origin[0] if node.origin else proto.op_type
        self.name = f"{origin}/{name}"
        self.lock = threading.Lock()
        self._node, self._graph, self._compile = node, graph, compile_body
        read = _names_read(graph)
        names = [*proto.input, *node.attr("captures", ())]
        places = {n: i for i, n in enumerate(names) if n in read}
        self._fixed = {n: i for n, i in places.items() if i in constants}
        self._varying = {n: i for n, i in places.items() if i not in constants}
        self._names, self._places = tuple(self._varying), tuple(self._varying.values())
        self._outputs = [o.name for o in graph.output]
        self._many_nodes = sum(n.op_type != "Constant" for n in all_nodes(graph)) >= FEW_NODES
        self._plans: OrderedDict[tuple[Any, ...], RunBody | None] = OrderedDict()
        self._general: RunBody | None = None
        self._compiles = 0

    def __call__(self, inputs: Sequence[object]) -> list[Any] | None:
        """The outputs in order, None where the evaluator is to run it. ExecutionError where it fails."""
        if not self._many_nodes:
            return None
        values = [inputs[i] for i in self._places]
        kinds = []
        for v in values:
            if not isinstance(v, np.ndarray) or v.dtype.kind in "OUST":
                return None
            kinds.append((v.dtype.num, v.shape))
        key = tuple(kinds)
        try:
            run = self._plans[key]
            self._plans.move_to_end(key)
        except KeyError:
            run = self._plan(key, inputs)
        if run is None:
            return None
        try:
            return run(dict(zip(self._names, values, strict=True)), self._outputs)
        except InputError:  # shapes that are not as the model declares: the evaluator does not mind, or says so
            return None
        except ExecutionError as e:
            raise ExecutionError(f"{self.name}: {e.message}", hint=e.hint, node=e.node or self.name, op=e.op) from e

    def _plan(self, key: tuple[Any, ...], inputs: Sequence[object]) -> RunBody | None:
        """The plan for these shapes, made now; the one for all shapes once there are many. None: the evaluator's."""
        with self.lock:
            if key in self._plans:
                return self._plans[key]
            if self._general is not None:
                return self._general
            kept = max(1, min(KEPT, PLAN_BYTES // max(1, self._weight_bytes(inputs))))
            if self._compiles == kept:
                self._general = self._compiled(inputs, general=True)
                if self._general is not None:
                    return self._general
            if self._compiles >= MOST_COMPILES:
                return None
            run = None
            if self._has_much(inputs):
                self._compiles += 1
                run = self._compiled(inputs, general=False)
            if len(self._plans) >= kept:
                self._plans.popitem(last=False)
            self._plans[key] = run
            return run

    def _weight_bytes(self, inputs: Sequence[object]) -> int:
        """What a plan of the graph holds at least."""
        fixed = [inputs[i] for i in self._fixed.values()]
        return int(self._graph.ByteSize()) + sum(v.nbytes for v in fixed if isinstance(v, np.ndarray))

    def _has_much(self, inputs: Sequence[object]) -> bool:
        """Whether there is any tensor that is worth a kernel."""
        seen = [inputs[i] for i in (*self._places, *self._fixed.values())]
        sizes = [v.size for v in seen if isinstance(v, np.ndarray)]
        return max((*sizes, *_constant_sizes(self._graph)), default=0) > FEW_ELEMENTS

    def _compiled(self, inputs: Sequence[object], general: bool) -> RunBody | None:
        """The graph compiled for the shapes of the inputs, or in general for their declared types; None where it cannot."""
        constants = {n: v for n, i in self._fixed.items() if isinstance(v := inputs[i], np.ndarray)}
        if len(constants) < len(self._fixed):
            return None
        graph = onnx.GraphProto()
        graph.CopyFrom(self._graph)
        graph.name = self.name
        del graph.output[:]
        for name in self._outputs:
            graph.output.add(name=name)
        symbols: dict[Extent, str] = {}
        for name, i in (*self._fixed.items(), *self._varying.items()):
            value, declared = inputs[i], self._node.inputs[i]
            assert isinstance(value, np.ndarray)
            shape: Sequence[Extent] | None = value.shape
            if general and name in self._varying:
                shape = declared.type.shape if declared and isinstance(declared.type, TensorType) else None
            if shape is None:
                return None
            _declare(graph.input.add(name=name), value, shape, symbols)
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self._node.attr("opsets")]
        try:
            return self._compile(onnx.helper.make_model(graph, opset_imports=opsets), constants)
        except FusecError:
            return None


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    todo = list(graph.node)
    while todo:
        n = todo.pop()
        yield n
        todo.extend(inner for g in _subgraphs(n) for inner in g.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def _names_read(graph: onnx.GraphProto) -> frozenset[str]:
    """The names that are read anywhere inside a graph; one that it makes itself is never one from outside as well."""
    read = {o.name for o in graph.output}
    for n in all_nodes(graph):
        read.update(n.input)
        read.update(o.name for g in _subgraphs(n) for o in g.output)
    return frozenset(read - {""})


def _constant_sizes(graph: onnx.GraphProto) -> list[int]:
    tensors = [*graph.initializer, *(a.t for n in all_nodes(graph) for a in n.attribute if a.HasField("t"))]
    return [int(np.prod(t.dims)) for t in tensors]


def _declare(info: onnx.ValueInfoProto, value: Array, shape: Sequence[Extent], symbols: dict[Extent, str]) -> None:
    """Write an input's type; equal symbolic sizes get the same name."""
    kind = info.type.tensor_type
    kind.elem_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    kind.shape.SetInParent()
    for d in shape:
        dim = kind.shape.dim.add()
        if isinstance(d, int):
            dim.dim_value = d
        else:
            dim.dim_param = symbols.setdefault(d, f"d{len(symbols)}")
