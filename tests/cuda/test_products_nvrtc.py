"""Product templates as machine code: no spills, no serialised wgmma, and the instructions that they are there for."""

from __future__ import annotations

import pytest

from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.blocks import blocked
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Kernel, Source, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.text import parse_program

pytestmark = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
PRODUCT = """
program gemm(M, K, N)
task m: M, n: N
input x: {0}[M, K], b: f32[N]
weight w: {0}[K, N]
output y: {0}[M, N]
stage m, n
  t = sum[k: K]({1})
  y[m, n] = {2}
"""
WINDOW = """
program conv(H, W, C, O)
task m: H*W, o: O
input x: {0}[H, W, C], b: f32[O]
weight w: {0}[9*C, O]
output y: {0}[H*W, O]
stage m, o
  t = sum[r: 3, s: 3, i: C]({1})
  y[m, o] = {2}
"""


def program(text: str, dtype: str) -> str:
    """The program with operands of a dtype, widened where they are multiplied and narrowed at the end."""
    if text is WINDOW:
        a, b = "pad(x[m // W + r - 1, m % W + s - 1, i], 0.0)", "w[(r*3 + s)*C + i, o]"
        value = "max(t + b[o], 0.0)"
    else:
        a, b, value = "x[m, k]", "w[k, n]", "max(t + b[n], 0.0)"
    if dtype == "f64":
        return text.format(dtype, f"{a} * {b}", value.replace("b[n]", "f64(b[n])"))
    if dtype == "f32":
        return text.format(dtype, f"{a} * {b}", value)
    return text.format(dtype, f"f32({a}) * f32({b})", f"{dtype}({value})")


TASK_LOADS = 16
"""Loads of the task loop from memory of any kind; all of the bodies are from global or shared memory."""
CASES = [
    ("sm_80", "simt", 128, 128, "f32", PRODUCT, "FFMA"),
    ("sm_90", "simt", 128, 128, "f32", WINDOW, "FFMA"),
    ("sm_80", "simt", 16, 32, "f64", PRODUCT, "DFMA"),
    ("sm_80", "mma", 128, 128, "bf16", PRODUCT, "HMMA"),
    ("sm_80", "mma", 64, 64, "f16", WINDOW, "HMMA"),
    ("sm_80", "mma", 128, 64, "f32", WINDOW, "HMMA"),
    ("sm_90", "wgmma", 128, 256, "bf16", PRODUCT, "HGMMA"),
    ("sm_90", "wgmma", 128, 128, "f16", WINDOW, "HGMMA"),
    ("sm_90", "wgmma", 128, 256, "f32", PRODUCT, "HGMMA.64x256x8.F32.TF32"),
    ("sm_90", "wgmma", 128, 128, "f32", WINDOW, "HGMMA.64x128x8.F32.TF32"),
    ("sm_90", "gemv", 1, 1, "bf16", PRODUCT, "FFMA"),
    ("sm_80", "gemv", 8, 1, "f32", PRODUCT, "FFMA"),
]
BLOCKS = [
    (256, "bf16", PRODUCT),
    (128, "f16", PRODUCT),
    (64, "bf16", PRODUCT),
    (256, "f32", PRODUCT),
    (64, "f32", PRODUCT),
]


@pytest.mark.parametrize(("level", "template", "rows", "columns", "dtype", "text", "instruction"), CASES)
def test_machine_code(
    level: str, template: str, rows: int, columns: int, dtype: str, text: str, instruction: str
) -> None:
    made = parse_program(program(text, dtype))
    form = contraction(made.stages[0])
    assert form is not None
    tile = tuple((a.name, size) for a, size in zip(made.axes, (rows, columns), strict=True))
    kernel = Kernel(made, Tiling(tile, (StageTiling(template, form.n, rows, columns),)))
    cubin = nvrtc.build(module_text([emit(kernel, Target("cuda", level))]), level)
    assert not lint.problems(cubin)
    if lint.disassembler() is not None:
        code = lint.sass(cubin)
        assert lint.count(code, instruction) >= 4
        assert lint.count(code, "LD") <= TASK_LOADS
        assert lint.count(code, "LDL") == lint.count(code, "STL") == 0


@pytest.mark.parametrize("value", ["t / b[n]", "t / (1.0 + exp(-t))", "sqrt(t) / 3.0", "floordiv(t, b[n])"])
def test_wgmma_is_not_serialised_by_what_becomes_of_sums(value: str) -> None:
    """In a unit of its own: subroutines of quotients and roots would count as calls (C7509)."""
    made = parse_program(program(PRODUCT, "bf16").replace("max(t + b[n], 0.0)", value))
    form = contraction(made.stages[0])
    assert form is not None
    kernel = Kernel(made, Tiling((("m", 128), ("n", 128)), (StageTiling("wgmma", form.n, 128, 128),)))
    beside = Source("FX_DEVICE void fusec_beside(const fx_task& task) { fx_barrier(); }\n", "fusec_beside", (), 0)
    cubin = nvrtc.build(module_text([emit(kernel, Target("cuda", "sm_90")), beside]), "sm_90")
    assert not lint.problems(cubin)
    if lint.disassembler() is not None:
        assert lint.count(lint.sass(cubin), "CALL") == 1  # of a body


@pytest.mark.parametrize(("columns", "dtype", "text"), BLOCKS)
def test_weights_in_blocks_come_by_bulk_copies(columns: int, dtype: str, text: str) -> None:
    made = parse_program(program(text, dtype))
    form = contraction(made.stages[0])
    assert form is not None
    found = blocked(made, form)
    assert found is not None
    stage = StageTiling("wgmma", form.n, 128, columns)
    kernel = Kernel(made, Tiling((("m", 128), ("n", columns)), (stage,), (found,)))
    cubin = nvrtc.build(module_text([emit(kernel, Target("cuda", "sm_90"))]), "sm_90")
    assert not lint.problems(cubin)
    if lint.disassembler() is not None:
        code = lint.sass(cubin)
        assert lint.count(code, "HGMMA") == 4  # one stage, written out once
        assert lint.count(code, "UBLKCP") >= 2
        assert lint.count(code, "LDL") == lint.count(code, "STL") == 0
