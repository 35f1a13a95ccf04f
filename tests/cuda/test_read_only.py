"""The read-only path of loads may give what memory held before the launch: it is for weights, never for what a launch makes."""

from __future__ import annotations

import pytest

from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.text import parse_program

pytestmark = [
    pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed"),
    pytest.mark.skipif(lint.disassembler() is None, reason="nvdisasm is not installed"),
]
PROGRAM = """
program gemv(K, N)
task n: N
input x: f32[K]
{} w: f32[K, N]
output y: f32[N]
stage n
  t = sum[k: K](x[k] * w[k, n])
  y[n] = t
"""


@pytest.mark.parametrize(("role", "is_constant"), [("weight", True), ("input", False)])
def test_only_weights_are_read_that_way(role: str, is_constant: bool) -> None:
    program = parse_program(PROGRAM.format(role))
    form = contraction(program.stages[0])
    assert form is not None
    kernel = Kernel(program, Tiling((("n", 256),), (StageTiling("gemv", form.n, 1, 1),)))
    found = lint.instructions(lint.sass(nvrtc.build(module_text([emit(kernel, Target("cuda", "sm_80"))]), "sm_80")))
    assert any("CONSTANT" in name for name in found if name.startswith("LD")) == is_constant
    assert "CCTL.IVALL" in found  # a wait drops what L1 holds, for all threads of the block
