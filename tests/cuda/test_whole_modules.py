"""Modules of whole models as machine code: no body spills, and the bodies share a kernel without making each other spill."""

from __future__ import annotations

import pytest

from bench.gpu.modules import modules
from bench.models.standard import STANDARD
from fusec.kernels.cuda import lint, nvrtc

pytestmark = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")


@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_a_model_does_not_spill(level: str) -> None:
    """Streamed attention, products, norms and a gather."""
    (found,) = modules(STANDARD["minilm"]().model(), level)
    assert found.problems == ()
    assert found.bodies >= 7
    assert 0 < found.saved <= lint.SAVED_BYTES
