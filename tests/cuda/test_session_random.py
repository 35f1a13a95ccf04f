"""Random graphs on an emulated device: fused and unfused alike give the answers of the CPU, on few blocks and on more."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from shared_module import SharedModule

import fusec
from fusec import api
from fusec.kernels.cuda.machine import compiler
from fusec.target import Target

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
TARGET = Target("cuda", "sm_80-emulated")
UNARY = ("Relu", "Exp", "Sigmoid", "Abs", "Tanh", "Neg")
BINARY = ("Add", "Mul", "Sub", "Max")
ROWS, COLUMNS = 13, 24


def random_model(seed: int, size: int = 9) -> ModelProto:
    """Values are float32[13, 24] or broadcast to it; every operator reads earlier ones."""
    r = np.random.default_rng(seed)
    nodes, weights = [], {}
    full, any_shape = ["x"], ["x", "row", "column"]

    def weight(*shape: int) -> str:
        name = f"w{len(weights)}"
        weights[name] = (r.normal(size=shape) * 0.3).astype(np.float32)
        return name

    def whole(name: str) -> str:
        return str(r.choice(full))

    for i in range(size):
        kind, y, a = r.choice(["unary", "binary", "matmul", "softmax", "norm", "mean", "twist", "concat"]), f"v{i}", ""
        a, b = str(r.choice(full)), str(r.choice(any_shape))
        match kind:
            case "unary":
                nodes.append(h.make_node("Clip", [a, "low", "high"], [f"c{i}"]))
                nodes.append(h.make_node(str(r.choice(UNARY)), [f"c{i}"], [y]))
            case "binary":
                nodes.append(h.make_node(str(r.choice(BINARY)), [a, b], [y]))
            case "matmul":
                nodes.append(h.make_node("MatMul", [a, weight(COLUMNS, COLUMNS)], [y]))
            case "softmax":
                nodes.append(h.make_node("Softmax", [a], [y], axis=int(r.integers(0, 2))))
            case "norm":
                nodes.append(h.make_node("LayerNormalization", [a, weight(COLUMNS), weight(COLUMNS)], [y], axis=1))
            case "mean":
                nodes.append(h.make_node("ReduceMean", [a], [y], axes=[int(r.integers(0, 2))], keepdims=1))
            case "twist":
                nodes.append(h.make_node("Reshape", [a, "twisted"], [f"r{i}"]))
                nodes.append(h.make_node("Transpose", [f"r{i}"], [f"t{i}"], perm=[1, 0]))
                nodes.append(h.make_node("Reshape", [f"t{i}", "straight"], [y]))
            case "concat":
                for part, name in enumerate((a, str(r.choice(full)))):
                    cut = [f"cut{part}", f"cut{part + 1}", "axis"]
                    nodes.append(h.make_node("Slice", [name, *cut], [f"p{i}_{part}"]))
                nodes.append(h.make_node("Concat", [f"p{i}_0", f"p{i}_1"], [y], axis=1))
        any_shape.append(y)
        if kind != "mean":
            full.append(y)
    weights |= {
        "low": np.float32(-3),
        "high": np.float32(3),
        "twisted": np.array([COLUMNS, ROWS]),
        "straight": np.array([ROWS, COLUMNS]),
        "cut0": np.array([0]),
        "cut1": np.array([10]),
        "cut2": np.array([COLUMNS]),
        "axis": np.array([1]),
    }
    outputs = list(dict.fromkeys([full[-1], str(r.choice(full[1:] or full)), any_shape[-1]]))
    nodes += [h.make_node("Add", [name, "zero"], [f"y{i}"]) for i, name in enumerate(outputs)]
    weights["zero"] = np.float32(0)
    ins = [("x", [ROWS, COLUMNS]), ("row", [1, COLUMNS]), ("column", [ROWS, 1])]
    inputs = [h.make_tensor_value_info(n, T.FLOAT, s) for n, s in ins]
    made = [h.make_tensor_value_info(f"y{i}", T.FLOAT, None) for i in range(len(outputs))]
    held = [nh.from_array(np.asarray(w), n) for n, w in weights.items()]
    graph = h.make_graph(nodes, f"random{seed}", inputs, made, held)
    return h.make_model(graph, ir_version=8, opset_imports=[h.make_opsetid("", 17)])


def test_random_graphs(thorough):
    models = [random_model(seed, 6 + seed % 7) for seed in range(60 if thorough else 12)]
    options = {fuse: api.Options(device=str(TARGET), fuse=fuse) for fuse in (True, False)}
    plans = {
        (i, fuse): api.compile_plan(m, o, api.new_trace()) for i, m in enumerate(models) for fuse, o in options.items()
    }
    shared = SharedModule(list(plans.values()), TARGET)
    for i, m in enumerate(models):
        r = np.random.default_rng(i)
        feeds = {
            n: r.normal(size=s).astype(np.float32)
            for n, s in (("x", (ROWS, COLUMNS)), ("row", (1, COLUMNS)), ("column", (ROWS, 1)))
        }
        want = fusec.compile(m, threads=1).run(feeds)
        for fuse in options:
            bits = []
            for blocks in (1, 4):
                session = shared.session(plans[i, fuse], threads=blocks)
                for _ in range(2):
                    got = session.run(feeds)
                    bits.append([got[name].tobytes() for name in want])
            for name, array in want.items():
                np.testing.assert_allclose(got[name], array, rtol=2e-4, atol=2e-5, err_msg=f"{i} {fuse} {name}")
            assert all(b == bits[0] for b in bits), (i, fuse)
