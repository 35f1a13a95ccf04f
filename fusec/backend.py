"""The ONNX Backend protocol: what `onnx.backend.test` and tools built on it call.

`prepare` compiles, `run_model` and `run_node` compile and run, `is_compatible` and `supports_device` answer without
compiling kernels. Nothing here calls another runtime.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep as OnnxBackendRep

from fusec import api
from fusec.errors import ModelError, UnsupportedError
from fusec.runtime.session import Session


class BackendRep(OnnxBackendRep):
    """A compiled model behind the protocol's `run`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __repr__(self) -> str:
        return f"BackendRep({self.session!r})"

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Run with inputs in the order of the graph's inputs, one array, or a mapping by name; outputs in graph order."""
        names = [v.name for v in self.session.inputs]
        outputs = [v.name for v in self.session.outputs]
        if isinstance(inputs, Mapping):
            return tuple(self.session.run_list(inputs, outputs))
        if not isinstance(inputs, list | tuple):
            inputs = [inputs]
        if len(inputs) > len(names):
            raise ModelError(f"{len(inputs)} inputs were given, the model takes {len(names)}")
        return tuple(self.session.run_list(dict(zip(names, inputs, strict=False)), outputs))


class Backend(OnnxBackend):
    """The protocol's functions as classmethods, as onnx's test runner expects."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> bool:
        """Whether every operator of the model has an implementation here."""
        from fusec.frontend.read import read_model
        from fusec.knobs import Limits

        if not cls.supports_device(device):
            return False
        try:
            read_model(model, limits=Limits())
        except UnsupportedError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Compile a model. UnsupportedError (a NotImplementedError) where an operator has no implementation."""
        if not cls.supports_device(device):
            raise UnsupportedError(f"no device {device!r} here", hint="use 'CPU'")
        return BackendRep(api.compile(model, **kwargs))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,  # noqa: ARG003  # types are inferred
        **kwargs: Any,
    ) -> Any:
        """Compile and run one node; `kwargs` may hold `opset_version`. Outputs come as a named tuple."""
        opset = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        if not isinstance(inputs, list | tuple):
            inputs = [inputs]
        feeds = dict(zip((n for n in node.input if n), inputs, strict=False))
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [onnx.helper.make_tensor_value_info(n, _elem_type(x), getattr(x, "shape", ())) for n, x in feeds.items()],
            [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, opset)])
        results = cls.prepare(model, device, **kwargs).run(feeds)
        names = [f"o{i}" if not n.isidentifier() else n for i, n in enumerate(n for n in node.output if n)]
        return namedtuple("Outputs", names, rename=True)(*results)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` ("CPU", "CUDA:1") can run models here."""
        return device.partition(":")[0].upper() == "CPU"


def _elem_type(x: Any) -> int:
    import numpy as np

    return int(onnx.helper.np_dtype_to_tensor_dtype(np.asarray(x).dtype))


is_compatible = Backend.is_compatible
prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
