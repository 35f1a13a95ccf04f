"""LSTM, GRU and RNN with every attribute become native nodes; contradictions are errors that name the node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))

from recurrent_models import Case, random_case

import fusec
from fusec.errors import ModelError
from fusec.frontend.read import read_model
from fusec.host.own.contrib import IMPLEMENTATIONS
from fusec.ir.reference import run_reference


@given(st.integers(0, 1 << 20))
def test_any_node_is_native_and_means_what_the_host_computes(seed: int) -> None:
    case = random_case(seed)
    graph = read_model(case.model())
    assert "opaque" not in {n.op for n in graph.nodes}
    got = run_reference(graph, case.feeds)
    for name, want in zip(got, case.wanted(), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=2e-5)


def case_of(**changes: Any) -> Case:
    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    inputs: dict[str, Any] = {"x": zeros(2, 3, 4), "w": zeros(1, 20, 4), "r": zeros(1, 20, 5), "b": zeros(1, 40)}
    inputs |= {"lengths": None, "h": zeros(1, 3, 5), "c": zeros(1, 3, 5), "p": zeros(1, 15)}
    attrs = {k: v for k, v in changes.items() if k not in inputs}
    return Case("LSTM", list((inputs | {k: v for k, v in changes.items() if k in inputs}).values()), attrs, (0,), False)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 6}, "hidden_size is 6"),
    ({"direction": "sideways"}, "direction is 'sideways'"),
    ({"direction": "bidirectional"}, "input W"),
    ({"activations": ["Sigmoid", "Tanh"]}, "activations has 2 functions"),
    ({"activations": ["Sigmoid", "Tanh", "Gelu"]}, "'Gelu'"),
    ({"activation_alpha": [0.1] * 4}, "activation_alpha has 4 values"),
    ({"clip": -1.0}, "clip is -1"),
    ({"layout": 2}, "layout is 2"),
    ({"layout": 1}, "input initial_h"),
    ({"r": np.zeros((1, 19, 5), np.float32)}, "input R"),
    ({"w": np.zeros((1, 20, 3), np.float32)}, "input W"),
    ({"b": np.zeros((1, 20), np.float32)}, "input B"),
    ({"h": np.zeros((1, 2, 5), np.float32)}, "input initial_h"),
    ({"c": np.zeros((2, 3, 5), np.float32)}, "input initial_c"),
    ({"p": np.zeros((1, 20), np.float32)}, "input P"),
    ({"lengths": np.zeros(4, np.int32)}, "input sequence_lens"),
    ({"x": np.zeros((2, 3), np.float32)}, "rank 3"),
]


def test_the_case_without_faults_is_fine() -> None:
    read_model(case_of().model())


@pytest.mark.parametrize(("changes", "words"), FAULTS, ids=[str(sorted(c)) for c, _ in FAULTS])
def test_contradictions_name_node_and_cause(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match="layer") as e:
        read_model(case_of(**changes).model())
    assert words in str(e.value)


@pytest.mark.parametrize(("direction", "per_column"), [("forward", False), ("reverse", True), ("bidirectional", False)])
def test_quantised_lstm(direction: str, per_column: bool) -> None:
    """Like the host's own implementation, which rounds input and states to the same levels."""
    r, d, hidden = np.random.default_rng(0), 2 if direction == "bidirectional" else 1, 6
    x = r.standard_normal((5, 3, 4)).astype(np.float32)
    w, weights = (r.integers(-128, 127, (d, rows, 4 * hidden)).astype(np.int8) for rows in (4, hidden))
    b = r.standard_normal((d, 8 * hidden)).astype(np.float32)
    shape = (d, 4 * hidden) if per_column else (d,)
    scales = [r.uniform(0.002, 0.01, shape).astype(np.float32) for _ in range(2)]
    zeros = [r.integers(-9, 9, shape).astype(np.int8) for _ in range(2)]
    inputs = [x, w, weights, b, None, None, None, None, scales[0], zeros[0], scales[1], zeros[1]]
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    attrs = {"hidden_size": hidden, "direction": direction}
    node = helper.make_node(
        "DynamicQuantizeLSTM", names, ["y", "h", "c"], name="layer", domain="com.microsoft", **attrs
    )  # fmt: skip
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in zip(names, inputs, strict=True) if n not in ("", "x0")]
    info = helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, ["T", "B", 4])
    graph = helper.make_graph([node], "g", [info], [onnx.ValueInfoProto(name=n) for n in node.output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    graph_read = read_model(model)
    assert "opaque" not in {n.op for n in graph_read.nodes}
    wanted = IMPLEMENTATIONS["com.microsoft", "DynamicQuantizeLSTM"](inputs, attrs, 17, 3)
    compiled = fusec.compile(model, threads=1).run({"x0": x})
    for got in (run_reference(graph_read, {"x0": x}), compiled):
        for a, e in zip(got.values(), wanted, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
