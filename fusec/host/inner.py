"""Graphs inside host steps: what they read from where, and what compiles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from fusec.host.sizes import Size
from fusec.host.subgraph import split
from fusec.ir.graph import Node

Array = npt.NDArray[Any]


class RunBody(Protocol):
    """A compiled body, called with its inputs by name and the names of the outputs that are wanted, in order."""

    def __call__(self, feeds: Mapping[str, Any], outputs: Sequence[str], /) -> list[Any]: ...  # noqa: D102


CompileBody = Callable[[onnx.ModelProto, Mapping[str, Array]], RunBody]
"""Compiles a model, some of whose inputs are constants with these contents. FusecError where it cannot.

The compiler lies above the host steps, so whoever opens a session hands it down.
"""


class NotCompiled(Exception):
    """The evaluator is to run the host step; its body says why."""


@dataclass(frozen=True, eq=False)
class Control:
    """A host step with graphs inside: its node as ONNX has it, which of its inputs are constants, and what compiles."""

    node: Node
    proto: onnx.NodeProto
    constants: frozenset[int]
    compile_body: CompileBody

    @property
    def names(self) -> list[str]:
        """The names of its inputs and of what its graphs capture, in the order of the values that it is called with."""
        return [*self.proto.input, *self.node.attr("captures", ())]

    def graph(self, name: str) -> onnx.GraphProto:
        """One of its graphs, an empty one where it has none of this name."""
        return next((a.g for a in self.proto.attribute if a.name == name), onnx.GraphProto())


class Inner:
    """One graph of a host step.

    What it declares as its inputs, `formals`, is handed in at each run; what it captures, once per run of the host step:
    `outer` says where each name is among the step's inputs, `fixed` and `varying` the same for those that are constants
    and for the others, as far as anything is computed of them.
    """

    def __init__(self, control: Control, attribute: str) -> None:
        graph = control.graph(attribute)
        origin = control.node.origin[0] if control.node.origin else control.proto.op_type
        self.name = f"{origin}/{attribute}"
        self.compile = control.compile_body
        self.opsets = [onnx.helper.make_opsetid(d, v) for d, v in control.node.attr("opsets")]
        self.formals = [i.name for i in graph.input]
        self.parts = split(graph)
        self.outer = {n: i for i, n in enumerate(control.names) if n and n not in self.formals}
        read = {n: i for n, i in self.outer.items() if n in self.parts.read}
        self.fixed = {n: i for n, i in read.items() if i in control.constants}
        self.varying = {n: i for n, i in read.items() if i not in control.constants}

    def constants(self, inputs: Sequence[object]) -> dict[str, Array]:
        """The captured constants by name."""
        return {n: v for n, i in self.fixed.items() if isinstance(v := inputs[i], np.ndarray)}

    def weight_bytes(self, inputs: Sequence[object]) -> int:
        """What a plan of the graph holds at least."""
        return int(self.parts.graph.ByteSize()) + sum(v.nbytes for v in self.constants(inputs).values())


def input_of(name: str, value: Array, shape: Sequence[Size]) -> onnx.ValueInfoProto:
    """The declaration of an input like a value, of this shape."""
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), shape)
