"""Real models from packages: every one compiles, runs on two shapes and agrees with onnxruntime (optimisation off)."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import fusec
from bench.models.fetch import MODELS
from bench.models.inputs import feeds
from fusec.measure.accuracy import compare
from fusec.measure.oracles import onnxruntime_oracle
from fusec.plan.plan import HostStep

TOLERANCE = {"basic_pitch_nmp": 1e-3}
"""|a - b| <= tolerance * (1 + peak); onnxruntime's own two optimisation levels differ by up to 6e-5 of the peak."""
WITHOUT_HOST_STEPS = ("minilm_l6_int8", "surfaces_knn_reg")

pytestmark = pytest.mark.models


@functools.cache
def session(name: str) -> Any:
    path = MODELS[name].path
    if not path.is_file():
        pytest.skip(f"{path} is missing: python -m bench.models.fetch")
    return fusec.compile(path)


@pytest.mark.parametrize("other", [False, True], ids=["base", "other"])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_onnxruntime(name: str, other: bool) -> None:
    compiled, inputs = session(name), feeds(name, other=other)
    names = [v.name for v in compiled.outputs]
    want = onnxruntime_oracle(str(MODELS[name].path))(inputs)
    differences = compare(names, compiled.run_list(inputs, names), want)
    assert [d for d in differences if not d.passes(TOLERANCE.get(name, 1e-4))] == []


@pytest.mark.parametrize("name", WITHOUT_HOST_STEPS)
def test_runs_in_kernels_alone(name: str) -> None:
    assert [s.node.origin for s in session(name).plan.steps if isinstance(s, HostStep)] == []
