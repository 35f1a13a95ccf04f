"""Imported nodes against onnxruntime: by the references of the native ops, or compiled and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx_models import info, init, model

import fusec
from fusec.frontend.read import read_model
from fusec.host.run import run_host
from fusec.ir.reference import run_reference
from fusec.ir.verify import verify

DTYPES = {"f": TensorProto.FLOAT, "d": TensorProto.DOUBLE, "e": TensorProto.FLOAT16, "i": TensorProto.INT32,
          "l": TensorProto.INT64, "b": TensorProto.INT8, "B": TensorProto.UINT8, "?": TensorProto.BOOL,
          "h": TensorProto.INT16, "H": TensorProto.UINT16, "I": TensorProto.UINT32, "L": TensorProto.UINT64}  # fmt: skip


def one_node(
    n: onnx.NodeProto | Sequence[onnx.NodeProto],
    feeds: Mapping[str, Any],
    inits: Mapping[str, Any] | None = None,
    opset: int = 18,
    symbolic: bool = False,
    domains: Sequence[tuple[str, int]] = (),
) -> onnx.ModelProto:
    """A model of these nodes; all sizes of its inputs are symbols where asked."""
    nodes = [n] if isinstance(n, onnx.NodeProto) else list(n)
    shapes = {k: [f"{k}_{i}" if symbolic else d for i, d in enumerate(np.shape(v))] for k, v in feeds.items()}
    ins = [info(k, shapes[k], DTYPES[np.asarray(v).dtype.char]) for k, v in feeds.items()]
    outs = [onnx.ValueInfoProto(name=o) for o in nodes[-1].output if o]
    return model(nodes, ins, outs, [init(k, v) for k, v in (inits or {}).items()], opset, domains=domains)


def onnxruntime_outputs(m: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """What onnxruntime computes, without optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, {k: np.asarray(v) for k, v in feeds.items()}))


def same_as_onnxruntime(
    m: onnx.ModelProto,
    feeds: Mapping[str, Any],
    *,
    compiled: bool = False,
    tolerance: float = 2e-5,
    want: Sequence[Any] | None = None,
) -> None:
    """Require native ops only and onnxruntime's numbers (or `want`)."""
    feeds = {k: np.asarray(v) for k, v in feeds.items()}
    want = onnxruntime_outputs(m, feeds) if want is None else want
    g = read_model(m)
    verify(g)
    opaque = [(n.attr("op_type"), n.attr("why")) for n in g.nodes if n.op == "opaque"]
    assert not opaque, opaque
    if compiled:
        got = fusec.compile(m, threads=1).run(feeds)
    else:
        got = run_reference(g, feeds, opaque=run_host)
    for name, e in zip([o.name for o in m.graph.output], want, strict=True):
        assert got[name].dtype == e.dtype, (name, got[name].dtype, e.dtype)
        assert got[name].shape == e.shape, (name, got[name].shape, e.shape)
        if e.dtype.kind == "f":
            loose = 2e-3 if e.dtype == np.float16 else tolerance
            np.testing.assert_allclose(
                got[name].astype(np.float64), e.astype(np.float64), rtol=loose, atol=loose, err_msg=name
            )
        else:
            np.testing.assert_array_equal(got[name], e, err_msg=name)
