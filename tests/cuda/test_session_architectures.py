"""Generated architectures on an emulated device, right in float32 against float64; kernels alone, and no copies between."""

from __future__ import annotations

import pytest
from shared_module import SharedModule

from bench.models.architectures import ARCHITECTURES
from fusec import api
from fusec.kernels.cuda.machine import compiler
from fusec.measure.accuracy import compare
from fusec.measure.oracles import float64_oracle
from fusec.target import Target

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
TARGET = Target("cuda", "sm_80-emulated")
NAMES = ("mlp_784", "softmax_chain", "gpt2_decode")
OTHERS = (
    "bert_small",
    "bert_decomposed",
    "mlp_dynamic",
    "norm_chain",
    "pointwise_chain",
    "affine_chain",
    "encoder_block",
)


def test_architectures(thorough):
    built = {n: ARCHITECTURES[n]() for n in (*NAMES, *OTHERS[: len(OTHERS) * thorough])}
    models = {n: b.model() for n, b in built.items()}
    plans = {
        (n, fuse): api.compile_plan(m, api.Options(device=str(TARGET), fuse=fuse), api.new_trace())
        for n, m in models.items()
        for fuse in (True, False)
    }
    shared = SharedModule(list(plans.values()), TARGET)
    for (name, fuse), plan in plans.items():
        session, feeds = shared.session(plan), built[name].feeds
        names = [v.name for v in session.outputs]
        got, want = session.run_list(feeds, names), float64_oracle(models[name])(feeds)
        assert [d for d in compare(names, got, want) if not d.passes(2e-5)] == [], (name, fuse)
        assert session.transfers.uploads == len(feeds), (name, fuse)
        assert session.transfers.downloads == len(names), (name, fuse)
