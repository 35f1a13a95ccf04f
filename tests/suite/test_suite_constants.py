"""Cases whose parameters the suite feeds as inputs, with these as constants, as models have them: then they are native."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_cases import all_cases
from suite_constants import with_constants
from test_onnx_suite import flat

from fusec.frontend.read import read_model
from fusec.host.run import run_host
from fusec.ir.reference import run_reference

OPAQUE = {
    "an inverse transform": ["test_dft_inverse", "test_dft_inverse_opset19", "test_dft_irfft", "test_dft_irfft_opset19"],
    "overlapping sums": ["test_col2im", "test_col2im_5d", "test_col2im_dilations", "test_col2im_pads", "test_col2im_strides"],
}  # fmt: skip
"""Cases of these operators that stay with the host, by reason."""


def cases() -> list[str]:
    """The cases of one node that this makes a difference to."""
    out = []
    for name, case in all_cases().items():
        if case.kind != "node" or name.endswith("_expanded"):
            continue
        model = case.model()
        if len(model.graph.node) == 1:
            inputs, _ = next(case.data_sets(model))
            if len(with_constants(model, inputs)[1]) < len(inputs):
                out.append(name)
    return sorted(out)


@pytest.mark.parametrize("name", cases())
def test_case(name: str) -> None:
    case = all_cases()[name]
    rtol, atol = case.tolerance
    for given, expected in case.data_sets(case.model()):
        model, inputs = with_constants(case.model(), given)
        g = read_model(model)
        whys = [n.attr("why") for n in g.nodes if n.op == "opaque"]
        assert bool(whys) is any(name in names for names in OPAQUE.values()), whys
        feeds = {v.name: np.asarray(x) for v, x in zip(g.inputs, inputs, strict=True)}
        got = run_reference(g, feeds, opaque=run_host)
        for v, want in zip(g.outputs, flat(expected), strict=True):
            assert (got[v.name].dtype, got[v.name].shape) == (want.dtype, want.shape)
            if want.dtype.kind in "fc":
                wide = [a.astype(np.float64) for a in (got[v.name], want)]
                np.testing.assert_allclose(*wide, rtol=rtol, atol=max(atol, 1e-6))
            else:
                np.testing.assert_array_equal(got[v.name], want)
