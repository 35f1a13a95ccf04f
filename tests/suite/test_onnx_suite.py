"""Every case of the ONNX backend suite through fusec.backend. Known failures are listed with their reasons, strictly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from known_failures import KNOWN_FAILURES
from onnx_cases import all_cases

REQUIRED_PASSES = 1900


@pytest.mark.parametrize("name", sorted(all_cases()))
def test_case(name: str, request: pytest.FixtureRequest) -> None:
    from onnx.backend.test.runner import Runner

    import fusec.backend
    from fusec.plan.plan import HostStep

    if name in KNOWN_FAILURES:
        request.applymarker(pytest.mark.xfail(reason=KNOWN_FAILURES[name], strict=True))
    case = all_cases()[name]
    model = case.model()
    prepared = fusec.backend.prepare(model, threads=1)
    opaque = any(isinstance(s, HostStep) for s in prepared.session.plan.steps)
    request.node.user_properties.append(("onnx_suite", "opaque" if opaque else "native"))
    rtol, atol = case.tolerance
    for inputs, expected in case.data_sets(model):
        made = list(prepared.run(inputs))
        assert outline(made) == outline(expected)
        Runner.assert_similar_outputs(list(flat(expected)), list(flat(made)), rtol=rtol, atol=atol)


def outline(value: Any) -> Any:
    """Where lists and arrays are; the suite's own comparison cannot look at scalars in a sequence."""
    return [outline(v) for v in value] if isinstance(value, list | tuple) else value is not None


def flat(value: Any) -> Iterator[Any]:
    """The arrays, whatever lists they are in."""
    if isinstance(value, list | tuple):
        for v in value:
            yield from flat(v)
    else:
        yield value


def test_enough_cases_pass() -> None:
    """Each listed failure fails and everything else passes (both are tested above), so counting the list is enough."""
    assert set(all_cases()) >= set(KNOWN_FAILURES)
    assert len(all_cases()) - len(KNOWN_FAILURES) >= REQUIRED_PASSES


def test_no_other_runtime_computes() -> None:
    """Running a model imports no other runtime."""
    import subprocess

    program = (
        "import sys, numpy as np, fusec.backend, onnx\n"
        "from onnx import helper as h, TensorProto as T\n"
        "g = h.make_graph([h.make_node('Relu', ['x'], ['y'])], 'g', [h.make_tensor_value_info('x', T.FLOAT, [3])],"
        " [h.make_tensor_value_info('y', T.FLOAT, [3])])\n"
        "fusec.backend.run_model(h.make_model(g, opset_imports=[h.make_opsetid('', 17)]), [np.ones(3, np.float32)])\n"
        "print([m for m in ('onnxruntime', 'openvino', 'torch', 'tensorflow') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
