"""LSTM, GRU and RNN with every attribute become native nodes; contradictions are errors that name the node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from recurrent_models import Case, random_case

from fusec.errors import ModelError
from fusec.frontend.read import read_model
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
