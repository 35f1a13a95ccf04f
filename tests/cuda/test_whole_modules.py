"""Modules of whole models as machine code: no body spills, and the bodies share a kernel without making each other spill."""

from __future__ import annotations

import re

import pytest

from bench.gpu.modules import chosen, modules
from bench.models.builder import ModelBuilder
from bench.models.narrow import narrowed
from bench.models.standard import STANDARD
from fusec import api
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.module import module_text

pytestmark = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC or nvJitLink is not installed")


@pytest.mark.parametrize(("level", "dtype"), [("sm_80", "f32"), ("sm_90", "f32"), ("sm_90", "bf16"), ("sm_80", "f16")])
def test_a_model_does_not_spill(level: str, dtype: str) -> None:
    """Streamed attention, products, norms and a gather."""
    model = STANDARD["minilm"]().model()
    (found,) = modules(model if dtype == "f32" else narrowed(model, dtype), level)
    assert found.problems == ()
    assert found.bodies >= 7
    assert found.saved <= lint.SAVED_BYTES


@pytest.mark.skipif(lint.disassembler() is None, reason="nvdisasm is not installed")
def test_wgmma_beside_other_bodies_neither_spills_nor_waits_for_each_product() -> None:
    """Two products for wgmma of different widths, between a norm, a softmax and a product of few columns."""
    b = ModelBuilder("mixed")
    x = b.input("x", [4096, 256], b.rng.standard_normal((4096, 256), "float32"))
    wide = b.op("Relu", b.linear(b.layer_norm(x, 256), 256, 2048))
    b.output(b.op("Softmax", b.linear(b.linear(wide, 2048, 512), 512, 24), axis=-1), [4096, 24])
    plan = api.compile_plan(narrowed(b.model(), "bf16"), api.Options("cuda:sm_90"), api.new_trace())
    (kernels,) = chosen(plan, {})
    templates = [s.template for k in kernels for s in k.tiling.stages]
    assert templates.count("wgmma") >= 2
    assert len(kernels) >= 4
    cubin = nvrtc.build(module_text([emit(k, plan.target) for k in kernels]), "sm_90")
    assert lint.problems(cubin) == ()
    code = lint.sass(cubin)
    products = lint.count(code, "HGMMA")
    assert products >= 4 * templates.count("wgmma")
    ends = len(re.findall(r"HGMMA[^;]*gsb0", code))  # those that end a group: one a stage where nothing is serialised
    assert ends * 4 == products
