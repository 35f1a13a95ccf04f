"""Independent answers to compare with: the imported graph in float64 with numpy, or onnxruntime with nothing optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.graph import Graph, Node, Value, Weight
from fusec.ir.types import DType, TensorType
from fusec.knobs import Limits

Feeds = Mapping[str, npt.NDArray[Any]]
Oracle = Callable[[Feeds], list[Any]]


def float64_oracle(model: Any, limits: Limits | None = None) -> Oracle:
    """Runs the graph as imported, before any pass, with every float32 widened to float64.

    Host steps get and give float32, since that is what their reference implementation computes in.
    """
    from fusec.frontend.read import read_model
    from fusec.host.run import run_host
    from fusec.ir.reference import run_reference

    graph = widen(read_model(model, limits=limits or Limits()))

    def opaque(node: Node, inputs: list[Any]) -> list[Any]:
        outputs = run_host(node, [_narrow(x) for x in inputs])
        return [_wide(x) for x in outputs]

    def run(feeds: Feeds) -> list[Any]:
        results = run_reference(graph, {k: _wide(x) for k, x in feeds.items()}, opaque)
        return [results[v.name] for v in graph.outputs]

    return run


def onnxruntime_oracle(model: Any) -> Oracle:
    """Runs the model on onnxruntime with one thread and optimisation off."""
    from fusec.measure.rivals import onnxruntime_session

    session = onnxruntime_session(model, threads=1, optimise=False)
    return lambda feeds: list(session.run(None, dict(feeds)))


def widen(graph: Graph) -> Graph:
    """The same graph over float64 wherever it has float32."""
    weights = {n: Weight(_widen_value(w.value), _wide(w.array), w.recipe) for n, w in graph.weights.items()}
    nodes = tuple(
        replace(
            n,
            inputs=tuple(v and _widen_value(v) for v in n.inputs),
            outputs=tuple(_widen_value(v) for v in n.outputs),
            attrs=tuple((k, DType.F64 if v is DType.F32 else v) for k, v in n.attrs),
        )
        for n in graph.nodes
    )
    inputs, outputs = (tuple(_widen_value(v) for v in vs) for vs in (graph.inputs, graph.outputs))
    return replace(graph, inputs=inputs, outputs=outputs, nodes=nodes, weights=weights)


def _widen_value(v: Value) -> Value:
    if isinstance(v.type, TensorType) and v.type.dtype is DType.F32:
        return Value(v.name, TensorType(DType.F64, v.type.shape))
    return v


def _wide(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


def _narrow(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x
