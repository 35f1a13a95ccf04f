"""A region of thousands of kernels: compiling and planning take time in proportion. Bounds are several times what it takes."""

from __future__ import annotations

import time

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import fusec

KERNELS = 3_000


def test_a_region_of_many_kernels() -> None:
    r = np.random.default_rng(0)
    weights = [
        nh.from_array(np.linalg.qr(r.normal(size=(16, 16)))[0].astype(np.float32), f"w{i}") for i in range(KERNELS)
    ]
    names = ["x", *(f"m{i}" for i in range(KERNELS - 1)), "y"]
    nodes = [h.make_node("MatMul", [a, w.name], [b]) for a, w, b in zip(names, weights, names[1:])]
    ends = [h.make_tensor_value_info(n, T.FLOAT, ["N", 16]) for n in "xy"]
    model = h.make_model(
        h.make_graph(nodes, "deep", ends[:1], ends[1:], weights), ir_version=8, opset_imports=[h.make_opsetid("", 17)]
    )
    start = time.process_time()
    session = fusec.compile(model, threads=2, passes="-fuse-chain")
    x = r.normal(size=(4, 16)).astype(np.float32)
    y = session.run({"x": x})["y"]
    assert time.process_time() - start < 15
    assert sum(len(getattr(s, "calls", ())) for s in session.plan.steps) == KERNELS
    want = x.astype(np.float64)
    for w in weights:
        want = want @ nh.to_array(w)
    np.testing.assert_allclose(y, want, atol=1e-3)
