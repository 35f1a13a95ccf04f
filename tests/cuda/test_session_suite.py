"""A slice of the ONNX backend suite on an emulated device, all kernels in one module; thorough runs take more of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from shared_module import SharedModule

from fusec import api
from fusec.kernels.cuda.machine import compiler
from fusec.target import Target

sys.path.insert(0, str(Path(__file__).parents[1] / "suite"))
from known_failures import KNOWN_FAILURES
from onnx_cases import all_cases
from test_onnx_suite import flat, outline

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
TARGET = Target("cuda", "sm_80-emulated")
EVERY, EVERY_THOROUGH, AT_ONCE = 64, 5, 40


def test_cases(thorough):
    from onnx.backend.test.runner import Runner

    names = [n for n in sorted(all_cases()) if n not in KNOWN_FAILURES][:: EVERY_THOROUGH if thorough else EVERY]
    for at in range(0, len(names), AT_ONCE):
        models = {n: all_cases()[n].model() for n in names[at : at + AT_ONCE]}
        options = api.Options(device=str(TARGET))
        plans = {n: api.compile_plan(m, options, api.new_trace()) for n, m in models.items()}
        shared = SharedModule(list(plans.values()), TARGET)
        for name, plan in plans.items():
            case, session = all_cases()[name], shared.session(plan)
            rtol, atol = case.tolerance
            for inputs, expected in case.data_sets(models[name]):
                given = dict(zip([v.name for v in session.inputs], inputs, strict=False))
                made = session.run_list(given)
                assert outline(made) == outline(expected), name
                Runner.assert_similar_outputs(list(flat(expected)), list(flat(made)), rtol=rtol, atol=atol)
