"""Whole networks keep the layout of their convolutions: how many transposes are left, and that results stay."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from image_networks import NETWORKS, residual

from bench.models.fetch import MODELS
from fusec.frontend.read import read_model
from fusec.ir.graph import Graph, Node
from fusec.ir.reference import run_reference
from fusec.ir.verify import verify
from fusec.knobs import Limits
from fusec.passes.default import optimise
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target

CONTEXT = PassContext(Target("cpu", "generic"), Limits(fold_bytes=1 << 20))


def transposes(g: Graph) -> list[Node]:
    return [n for n in g.nodes if n.op == "transpose" and n.operands[0].name not in g.weights]


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "upsampling"])
def test_one_transpose_is_left_at_the_input(name: str) -> None:
    net = NETWORKS[name]()
    before = read_model(net.model())
    after = optimise(before, CONTEXT)
    verify(after)
    moved = transposes(after)
    assert [n.operands[0].name for n in moved] == ["x"]
    feeds = net.feeds
    for name, want in run_reference(before, feeds).items():
        np.testing.assert_allclose(run_reference(after, feeds)[name], want, rtol=2e-4, atol=2e-5)


def test_norms_are_in_the_weights() -> None:
    g = optimise(read_model(residual().model()), CONTEXT)
    assert "mul" not in {n.op for n in g.nodes}
    biases = sum(n.op in ("conv", "winograd_output") for n in g.nodes)
    assert sum(n.op == "add" for n in g.nodes) == biases + 3 + 1  # one each, the residual sums, and the classifier's


@pytest.mark.models
@pytest.mark.parametrize(("name", "most"), [("ppocr_cls", 1), ("basic_pitch_nmp", 2), ("silero_vad_16k_sequence", 0)])
def test_real_models(name: str, most: int) -> None:
    path = MODELS[name].path
    if not path.is_file():
        pytest.skip(f"{path} is missing: python -m bench.models.fetch")
    assert len(transposes(optimise(read_model(str(path)), CONTEXT))) <= most


def test_large_weights_are_permuted_and_scaled_ahead_too() -> None:
    small = PassContext(Target("cpu", "generic"), Limits(fold_bytes=1 << 10))
    g = optimise(read_model(residual().model()), small)
    assert {n.operands[1].name for n in g.nodes if n.op == "conv"} <= g.weights.keys()
