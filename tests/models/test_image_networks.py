"""Image networks compiled: no host step, onnxruntime's numbers fused and unfused, the same bits for any workers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from image_networks import NETWORKS, SIZES

import fusec
from fusec.measure.accuracy import compare
from fusec.measure.oracles import onnxruntime_oracle
from fusec.plan.plan import RegionStep

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_onnxruntime(name: str) -> None:
    net = NETWORKS[name]()
    model = net.model()
    one, two = (fusec.compile(model, threads=t) for t in (1, 2))
    names = [v.name for v in one.outputs]
    want = onnxruntime_oracle(model.SerializeToString())(net.feeds)
    got = one.run_list(net.feeds, names)
    assert [d for d in compare(names, got, want) if not d.passes(2e-5)] == []
    assert {type(s) for s in one.plan.steps} == {RegionStep}
    for a, b in zip(two.run_list(net.feeds, names), got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["residual", "inverted", "upsampling"])
def test_unfused_and_without_moved_transposes(name: str) -> None:
    net = NETWORKS[name]()
    model = net.model()
    want = onnxruntime_oracle(model.SerializeToString())(net.feeds)
    for options in ({"fuse": False}, {"passes": "-channels-last,-fold-batch-norm"}):
        session = fusec.compile(model, threads=1, **options)  # type: ignore[arg-type]
        names = [v.name for v in session.outputs]
        assert [d for d in compare(names, session.run_list(net.feeds, names), want) if not d.passes(2e-5)] == []


@pytest.mark.parametrize("name", ["residual", "sequence", "upsampling"])
def test_other_sizes_need_no_compiler(name: str) -> None:
    net = NETWORKS[name]()
    model = net.model()
    session = fusec.compile(model, threads=2)
    names, oracle = [v.name for v in session.outputs], onnxruntime_oracle(model.SerializeToString())
    (declared,) = net.inputs
    symbols = [d.dim_param for d in declared.type.tensor_type.shape.dim]
    for sizes in ({"N": 1}, {"N": 3, "H": 40, "W": 33, "L": 7}, {"N": 0}):
        example = net.feeds["x"]
        shape = [(SIZES | sizes)[s] if s else d for s, d in zip(symbols, example.shape, strict=True)]
        feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        want = oracle(feeds)
        assert [d for d in compare(names, session.run_list(feeds, names), want) if not d.passes(2e-5)] == []
