"""The reference evaluator with our own ops in place of those it has wrong, slow or not at all, subgraphs included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun, RuntimeContextError

from fusec.host.compiled import run_function
from fusec.host.compute import Compute
from fusec.host.control import If, Loop, Optional, Scan
from fusec.ops import custom


def make_op(domain: str, op_type: str, compute: Compute) -> type[OpRun]:
    """An evaluator class for an op, from a plain function over arrays; absent inputs come as None."""

    def run(self: Any, *inputs: Any, **_: Any) -> tuple[Any, ...]:
        outputs = compute(inputs, self.plain_attributes, self.opset, len(self.onnx_node.output))
        return tuple(outputs)[: len(self.onnx_node.output)]

    def init(self: Any, node: onnx.NodeProto, run_params: dict[str, Any], schema: Any = None) -> None:
        OpRun.__init__(self, node, run_params, schema)
        self.plain_attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.opset = run_params["opsets"].get(domain, 1)

    members = {"op_domain": domain, "_run": run, "__init__": init, "__doc__": compute.__doc__}
    return type(op_type, (OpRun,), members)


@cache
def _own_ops() -> tuple[type[OpRun], ...]:
    from fusec.host.own import IMPLEMENTATIONS

    control = (If, Loop, Optional, Scan)
    return (*control, *(make_op(domain, op_type, compute) for (domain, op_type), compute in IMPLEMENTATIONS.items()))


def own_op(proto: onnx.NodeProto, opsets: Mapping[str, int]) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    """A node of one of our own ops as a function from inputs to outputs, without the evaluator around it: that takes 50 us.

    None for other ops.
    """
    from fusec.host.own import IMPLEMENTATIONS

    domain = "" if proto.domain == "ai.onnx" else proto.domain
    compute = IMPLEMENTATIONS.get((domain, proto.op_type))
    if compute is None:
        return None
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    opset, count = opsets.get(domain, 1), len(proto.output)
    return lambda inputs: tuple(compute(inputs, attributes, opset, count))[:count]


def own_ops() -> tuple[type[OpRun], ...]:
    """The evaluator classes that take precedence over the onnx package's."""
    return *_own_ops(), *(_custom_op(f) for f in custom.declared())


@cache
def _custom_op(function: custom.Elementwise) -> type[OpRun]:
    def compute(inputs: Sequence[Any], attrs: Mapping[str, Any], opset: int, count: int) -> Sequence[Any]:
        del opset, count
        return (run_function(function, inputs, dict(attrs)),)

    return make_op(function.domain, function.name, compute)


def can_run(domain: str, op_type: str, version: int) -> str | None:
    """Why an op cannot run on the host; None where it can."""
    if any(c.op_domain == domain and c.__name__ == op_type for c in _own_ops()):
        return None
    if domain not in _STANDARD and custom.find(domain, op_type) is not None:
        return None
    return _shipped(domain, op_type, version)


_RUNTIMES_OWN = {
    "com.microsoft": "an operator of onnxruntime's own that is not among those known here: use the model from before its tools",
    "com.microsoft.nchwc": "a layout that onnxruntime makes for one machine: save its optimised model at the level EXTENDED",
}
"""What to do where a model was written by a runtime for itself."""


@cache
def _shipped(domain: str, op_type: str, version: int) -> str | None:
    """Why the onnx package cannot run an op."""
    try:
        schema: Any = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        if domain in _STANDARD:
            return "ONNX has no such operator in this version"
        return _RUNTIMES_OWN.get(domain, "its domain is not known here")
    if schema.has_function or schema.has_context_dependent_function:
        return None
    node = onnx.helper.make_node(op_type, [], [], domain=domain)
    graph = onnx.GraphProto(name="probe")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(domain, version)])
    try:
        ReferenceEvaluator(model)._load_impl(node)
    except RuntimeContextError:
        return None
    except Exception as e:  # the evaluator raises many kinds
        return f"no implementation ({type(e).__name__})"
    return None


_STANDARD = frozenset(["", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"])
