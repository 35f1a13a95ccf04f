"""The graph while it grows: nodes in order, weights, and what every ONNX name stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError, UnsupportedError
from fusec.frontend.known import Known, from_array
from fusec.frontend.messages import clean, show_types
from fusec.frontend.symbols import SymbolTable
from fusec.ir.graph import Attr, Graph, Node, Value, Weight, weight
from fusec.ir.requirement import Requirement, strictest
from fusec.ir.types import DType, TensorType, Type
from fusec.knobs import Limits
from fusec.ops.op import get

Bound = Value | Known
"""What an ONNX name stands for: a value of the graph, or contents that became no node (yet)."""


class NotNative(Exception):  # a decision, not an error: the node becomes opaque
    """Raised by a row of the table that cannot express this use of its op; the text says why."""


class Contradiction(NotNative):
    """A type rule refused: either the model is wrong (then `error` says so) or ONNX allows more than our kernels."""

    def __init__(self, error: ModelError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass
class Builder:
    """Collects nodes under temporary names; `finish` gives them the model's names."""

    limits: Limits
    symbols: SymbolTable
    assumes: bool = True
    """Whether symbolic sizes are taken to be what models nearly always mean; runs in which they are not have another plan."""
    inputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)
    requirements: list[Requirement] = field(default_factory=list)
    env: dict[str, Bound] = field(default_factory=dict)
    contents: dict[str, Known | None] = field(default_factory=dict)
    """Known contents of values, by value name; None where it was looked for in vain."""
    makers: dict[str, Node] = field(default_factory=dict)
    _constants: dict[tuple[DType, tuple[int, ...], bytes], Value] = field(default_factory=dict)
    _data: dict[Known, Value] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _count: int = 0
    _suffix: dict[str, int] = field(default_factory=dict)
    _outputs: set[str] = field(default_factory=set)

    def fresh_name(self) -> str:
        """A temporary name that no model can contain."""
        self._count += 1
        return f"\0{self._count}"

    def add_input(self, name: str, type_: Type) -> None:
        """Declare a graph input."""
        value = Value(name, type_)
        self.inputs.append(value)
        self.env[name] = value

    def add_weight(self, name: str, array: npt.NDArray[Any]) -> Value:
        """Declare a constant that the model names."""
        made = weight(name, array)
        self.weights[name] = made
        self.env[name] = made.value
        return made.value

    def constant(self, array: npt.NDArray[Any]) -> Value:
        """A constant that a decomposition needs; equal small ones are shared."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key: tuple[DType, tuple[int, ...], bytes]
        key = (DType.of(array.dtype), tuple(array.shape), array.tobytes() if array.size <= 4096 else b"")
        if key in self._constants:
            return self._constants[key]
        name = f"const_{len(self.weights)}"
        while name in self.env or name in self.weights:
            name += "_"
        self.weights[name] = weight(name, array)
        if array.size <= 4096 and array.dtype.kind != "O":
            self._constants[key] = self.weights[name].value
        return self.weights[name].value

    def data(self, bound: Bound, origin: tuple[str, ...] = ()) -> Value:
        """The value that carries `bound` at run time; contents turn into a constant or a `dims` node."""
        if isinstance(bound, Value):
            return bound
        if bound not in self._data:
            self._data[bound] = self._materialise(bound, origin)
        return self._data[bound]

    def _materialise(self, known: Known, origin: tuple[str, ...]) -> Value:
        if known.is_static:
            value = self.constant(known.array)
        else:
            value = self.emit("dims", (), origin, values=known.values)
            if known.dtype is not DType.I64:
                value = self.emit("cast", (value,), origin, to=known.dtype)
            if len(known.shape) != 1:
                value = self.emit("reshape", (value,), origin, shape=known.shape)
        self.contents[value.name] = known
        return value

    def known(self, bound: Bound) -> Known | None:
        """The contents behind a name, where they are known."""
        if isinstance(bound, Known):
            return bound
        if bound.name not in self.contents:
            self.contents[bound.name] = self._find_contents(bound)
        return self.contents[bound.name]

    def array(self, value: Value | None) -> npt.NDArray[Any] | None:
        """The constant behind a value, or None where it is computed."""
        found = self.weights.get(value.name) if value is not None else None
        return None if found is None else found.array

    def _find_contents(self, value: Value) -> Known | None:
        t = value.type
        if not isinstance(t, TensorType) or (t.dtype is not DType.BOOL and not t.dtype.is_integer):
            return None
        array = self.array(value)
        if array is None:
            from fusec.frontend.fold import fold_small

            array = fold_small(self, value)
        return None if array is None else from_array(array)

    def emit(self, op: str, inputs: Sequence[Value | None], origin: tuple[str, ...] = (), **attrs: Attr) -> Value:
        """Append a node of a native op and return its output. NotNative where its inputs are beyond kernels."""
        (value,) = self.emit_all(op, inputs, origin, **attrs)
        return value

    def emit_all(
        self, op: str, inputs: Sequence[Value | None], origin: tuple[str, ...] = (), **attrs: Attr
    ) -> tuple[Value, ...]:
        """The same for an op of any number of outputs."""
        types = [None if v is None else v.type for v in inputs]
        for t in types:
            if t is not None and not (isinstance(t, TensorType) and t.shape is not None and t.dtype.is_native):
                raise NotNative(f"kernels cannot take {t}")
        try:
            made = get(op).infer(types, attrs)
        except ModelError as e:
            raise Contradiction(self._located(e, op, inputs, origin)) from None
        except UnsupportedError as e:
            raise NotNative(f"{op}: {e.message}") from None
        values = tuple(Value(self.fresh_name(), t) for t in made)
        node = Node.make(op, inputs, values, origin, **attrs)
        self.nodes.append(node)
        self.makers.update((v.name, node) for v in values)
        return values

    def add_opaque(
        self, inputs: Sequence[Value | None], types: Iterable[Type], origin: tuple[str, ...], **attrs: Attr
    ) -> tuple[Value, ...]:
        """Append a host step and return its outputs."""
        outputs = tuple(Value(self.fresh_name(), t) for t in types)
        self.nodes.append(Node.make("opaque", inputs, outputs, origin, **attrs))
        return outputs

    def _located(self, e: ModelError, op: str, inputs: Sequence[Value | None], origin: tuple[str, ...]) -> ModelError:
        where = clean(origin[0]) if origin else op
        makers = [f"{clean(self.shown_name(v))}: {v.type} from {self._maker(v)}" for v in inputs if v is not None]
        text = f"node {where!r}: {e.message} (inputs {show_types(inputs)})"
        return ModelError(text, hint="produced by: " + "; ".join(makers), node=where, op=op)

    def _maker(self, value: Value) -> str:
        node = self.makers.get(value.name)
        return clean(node.origin[0]) if node is not None and node.origin else "the model"

    def shown_name(self, value: Value) -> str:
        """The model's name of a value, as far as it has one already."""
        return self._names.get(value.name, value.name.replace("\0", "t"))

    @property
    def mark(self) -> tuple[int, int]:
        """How much there is by now, for `undo`."""
        return len(self.nodes), len(self.requirements)

    def undo(self, mark: tuple[int, int]) -> None:
        """Take back what a row that gave up half-way has made since a mark, and what was remembered about it."""
        nodes, requirements = mark
        gone = {v.name for node in self.nodes[nodes:] for v in node.outputs}
        for name in gone:
            self.makers.pop(name, None)
            self.contents.pop(name, None)
        self._data = {k: v for k, v in self._data.items() if v.name not in gone}
        del self.nodes[nodes:], self.requirements[requirements:]

    def bind(self, name: str, bound: Bound) -> None:
        """Let an ONNX name stand for a value; the first name that a value gets is the one it keeps."""
        self.env[name] = bound
        if isinstance(bound, Value) and bound.name.startswith("\0"):
            self._names.setdefault(bound.name, name)

    def finish(self, name: str, outputs: Sequence[str], reserved: Iterable[str]) -> Graph:
        """The graph with the model's own names; an output that is an input, a weight or twice the same is copied."""
        out_values = [self._output(o) for o in outputs]
        taken = {v.name for v in self.inputs} | set(self.weights) | set(reserved)
        final = dict.fromkeys((v.name for v in self.inputs), "") | dict.fromkeys(self.weights, "")
        names = {temp: wanted for temp, wanted in self._names.items() if wanted not in final}
        renamed: dict[str, Value] = {}
        nodes = []
        for node in self.nodes:
            for v in node.outputs:
                new = names.get(v.name) or self._free_name(node, taken)
                renamed[v.name] = Value(new, v.type)
            ins = tuple(v if v is None else renamed.get(v.name, v) for v in node.inputs)
            nodes.append(Node(node.op, ins, tuple(renamed[v.name] for v in node.outputs), node.attrs, node.origin))
        outs = tuple(renamed.get(v.name, v) for v in out_values)
        used = {v.name for n in nodes for v in n.operands} | {v.name for v in outs}
        weights = {k: w for k, w in self.weights.items() if k in used}
        return Graph(name, tuple(self.inputs), outs, tuple(nodes), weights, strictest(self.requirements))

    def _free_name(self, node: Node, taken: set[str]) -> str:
        base = f"{clean(node.origin[0]) if node.origin else 'fusec'}/{node.op}"
        name = base
        while name in taken:
            k = self._suffix[base] = self._suffix.get(base, 1) + 1
            name = f"{base}_{k}"
        taken.add(name)
        return name

    def _output(self, name: str) -> Value:
        value = self.data(self.env[name])
        if value.name.startswith("\0") and value.name not in self._outputs:
            self._names[value.name] = name  # an output's name goes before that of any copy on the way
            self._outputs.add(value.name)
            return value
        if value.name == name:  # the graph passes an input or a weight through under its own name
            return value
        made = Value(self.fresh_name(), value.type)
        native = isinstance(value.type, TensorType) and value.type.shape is not None and value.type.dtype.is_native
        if native:
            self.nodes.append(Node.make("identity", [value], [made], (name,)))
        else:
            made = self._opaque_identity(value, name)
        self._names[made.name] = name
        self.env[name] = made
        return made

    def _opaque_identity(self, value: Value, name: str) -> Value:
        from fusec.frontend.opaque import identity_node

        return self.add_opaque([value], [value.type], (name,), **identity_node())[0]
