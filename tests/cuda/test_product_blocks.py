"""Products on Hopper's tensor cores with weights in blocks that bulk copies bring: right numbers, and bugs that must show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cuda_kernels import compare, run_kernel
from cuda_regions import Region, Rows, read
from test_products import STRIDES, convolution, floats, gemm

from fusec.errors import ExecutionError
from fusec.ir.dim import evaluate
from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda.blocks import blocked, panelled
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import build, compiler
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.module import ModuleText, headers, module_text
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.kernels.layout import Layout
from fusec.target import Target
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu
from fusec.tiling.device.accepts import refusal

pytestmark = pytest.mark.skipif(compiler() is None, reason="emulation needs a C++ compiler")
HOPPER = Target("cuda", "sm_90")
ORDERS = [Emulation(), Emulation(seed=3), Emulation(lazy=True, seed=5)]


def kernel_of(text: str, columns: int, tile: Mapping[str, int]) -> Kernel:
    """The only stage as a wgmma product, its weight in blocks."""
    program = parse_program(text)
    form = contraction(program.stages[0])
    assert form is not None
    found = blocked(program, form)
    assert found is not None
    stage = StageTiling("wgmma", form.n, 128, columns)
    return Kernel(program, Tiling(tuple(tile.items()), (stage,), (found,)))


def check(kernel: Kernel, params: Mapping[str, int], operands: Mapping[str, Any], tolerance: float = 1e-5) -> None:
    assert "fx_packed_source" in emit(kernel, HOPPER).text
    assert not refusal(kernel, "sm_90", "f32")
    expected = run_program(kernel.program, params, operands)
    for emulation in ORDERS:
        got, status = run_kernel(kernel, params, operands, level="sm_90", emulation=emulation)
        assert not status.any()
        compare(got, expected, tolerance, 20 * tolerance)


@pytest.mark.parametrize("right", ["k, n", "n, k"])
@pytest.mark.parametrize("columns", [64, 128, 256])
def test_odd_sizes(columns: int, right: str) -> None:
    kernel = kernel_of(gemm("m, k", right, "bf16"), columns, {"m": 128, "n": columns})
    for m, k, n in [(1, 1, 1), (130, 72, 264), (40, 700, 88)]:
        w = floats(*((k, n) if right == "k, n" else (n, k)), dtype=DType.BF16)
        operands = {"x": floats(m, k, dtype=DType.BF16), "w": w, "b": floats(n)}
        check(kernel, {"M": m, "K": k, "N": n}, operands)


def test_against_float64() -> None:
    m, k, n = 70, 1000, 96
    kernel = kernel_of(gemm("m, k", "k, n", "f16"), 64, {"m": 128, "n": 64})
    operands = {"x": floats(m, k, dtype=DType.F16), "w": floats(k, n, dtype=DType.F16), "b": floats(n)}
    got, _ = run_kernel(kernel, {"M": m, "K": k, "N": n}, operands, level="sm_90")
    x, w, b = (operands[o].astype(np.float64) for o in "xwb")
    np.testing.assert_allclose(got["y"], np.maximum(x @ w + b, 0), 2e-5, 2e-4)


def test_batches_of_weights() -> None:
    names = {"x": "B, M, K", "xi": "b, m, k", "z": "B, K, N", "zi": "b, k, n", "y": "B, M, N", "yi": "b, m, n"}
    text = STRIDES.format(**names).replace("x: f32", "x: bf16").replace(", z: f32", "\nweight z: bf16")
    text = text.replace("x[b, m, k] * z[b, k, n]", "f32(x[b, m, k]) * f32(z[b, k, n])")
    kernel = kernel_of(text, 64, {"b": 1, "m": 128, "n": 64})
    operands = {"x": floats(2, 33, 72, dtype=DType.BF16), "z": floats(2, 72, 100, dtype=DType.BF16)}
    check(kernel, {"B": 2, "M": 33, "K": 72, "N": 100}, operands)


def test_windows() -> None:
    text, operands = convolution(7, 6, 64, 40, 3, 1, 1, dtype="bf16")
    check(kernel_of(text, 64, {"n": 1, "m": 128, "o": 64}), {}, operands, 2e-5)
    odd = parse_program(convolution(7, 6, 24, 40, 3, 1, 1, dtype="bf16")[0])
    form = contraction(odd.stages[0])
    assert form is not None
    assert blocked(odd, form) is None  # a stage would hold the channels of two taps


def test_the_menu_stores_weights_in_blocks_where_no_other_kernel_reads_them() -> None:
    program = parse_program(gemm("m, k", "k, n", "bf16"))
    sizes = {"K": 512, "N": 1024}
    (kernel,) = menu(program, HOPPER, [{"M": 4096, **sizes}])
    assert str(dict(kernel.tiling.layouts)["w"]) == "0/64 1/64 1%64 0%64 ^"
    few_and_many = menu(program, HOPPER, [{"M": 1, **sizes}, {"M": 4096, **sizes}])
    assert {t.template for k in few_and_many for t in k.tiling.stages} >= {"gemv", "wgmma"}
    assert not any(k.tiling.layouts for k in few_and_many)


def test_plans_that_name_other_readers_are_refused() -> None:
    kernel = kernel_of(gemm("m, k", "k, n", "bf16"), 64, {"m": 128, "n": 64})
    stage, layouts = kernel.tiling.stages[0], kernel.tiling.layouts
    for tiling, why in [
        (Tiling((("m", 128), ("n", 8)), (stage,), layouts), "no multiples of 64"),
        (Tiling((), (StageTiling("mma", "n", 128, 128),), layouts), "w cannot have the layout"),
        (Tiling((), (stage,), (("b", layouts[0][1]),)), "b cannot have the layout"),
    ]:
        assert why in refusal(Kernel(kernel.program, tiling), "sm_90", "f32")


BUGS = {
    "expects nothing": ("fx_mbarrier_expect(full, bytes);", "fx_mbarrier_arrive(full);"),
    "expects too little": ("fx_mbarrier_expect(full, bytes);", "fx_mbarrier_expect(full, bytes - 16);"),
    "does not wait for the copy": ("fx_mbarrier_wait(full + now, phase);", ";"),
    "waits for the wrong phase": ("now = 0, phase ^= 1;", "now = 0;"),
    "reuses a stage too early": ("AHEAD = STAGES - 2;", "AHEAD = STAGES - 1;"),
    "waits for too few multiplications": ("fx_wgmma_wait<1>();", "fx_wgmma_wait<2>();"),
    "lets warps pass each other": ("fx_barrier();  // what threads", "// what threads"),
    "does not fence": ("            fx_fence_async_shared();\n", ""),
    "fences before the copies are there": (
        "fx_copy_async_wait<AHEAD - 1>();\n            fx_fence_async_shared();",
        "fx_fence_async_shared();\n            fx_copy_async_wait<AHEAD - 1>();",
    ),
    "takes columns in the wrong order": ("FX_SWIZZLE_128", "FX_SWIZZLE_64"),
    "steps too far": ("STEP = Loader::ALONG ? 2 : 128;", "STEP = Loader::ALONG ? 4 : 128;"),
}


def with_bug(kernel: Kernel, bug: str) -> ModuleText:
    """The module of a kernel with a change in the template's own text."""
    name = "product_wgmma.cuh"
    right, wrong = BUGS.get(bug, ("#pragma once", ""))
    text = headers()[name].replace("#pragma once", "") if bug else headers()[name]
    assert text.count(right) >= 1
    module = module_text([emit(kernel, HOPPER)])
    line = f'#include "{name}"'
    assert line in module.text
    return ModuleText((module.text.replace(line, text.replace(right, wrong)),), module.entry, module.wide)


def is_right(bug: str, emulation: Emulation, dtype: DType = DType.BF16) -> bool:
    """Whether a product of several rounds of the ring comes out right; ExecutionError where the emulator finds a bug."""
    m, k, n = 128, 15 * 128 // dtype.itemsize, 64
    kernel = kernel_of(gemm("m, k", "k, n", dtype.value), 64, {"m": 128, "n": 64})
    params = {"M": m, "K": k, "N": n}
    operands = {"x": floats(m, k, dtype=DType.BF16), "w": floats(k, n, dtype=DType.BF16), "b": floats(n)}
    operands = {
        o: a.astype(kernel.program.operand[o].dtype.numpy) for o, a in operands.items()
    }  # of few bits in float, too
    source = emit(kernel, HOPPER)
    device = EmulatedDevice("sm_90", 1, emulation)
    code = device.load(build(with_bug(kernel, bug), "sm_90"), "fusec_region")
    held = Region(device, [[]], [])
    arrays = {o: np.ascontiguousarray(kernel.layouts[o].pack(a)) for o, a in operands.items()}
    arrays["y"] = np.zeros((m, n), np.float32)
    memory = {o: held.memory(a.view(np.uint8)) for o, a in arrays.items()}
    environment = kernel.bind(params).environment
    words = [memory[s.name].address if s.kind == "pointer" else evaluate(s.extent, environment) for s in source.slots]
    Region(device, [[Rows(0, 0)]], [words]).run(code, int(str(source.shared)))
    got = read(device, memory["y"], np.float32, (m, n))
    return bool(np.allclose(got, run_program(kernel.program, params, operands)["y"], 1e-4, 1e-3))


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32], ids=str)
@pytest.mark.parametrize("emulation", ORDERS)
def test_the_ring_goes_round(emulation: Emulation, dtype: DType) -> None:
    assert is_right("", emulation, dtype)


FLOAT_BUGS = ("expects too little", "reuses a stage too early", "does not fence", "steps too far")
CASES = [*((bug, DType.BF16) for bug in BUGS), *((bug, DType.F32) for bug in FLOAT_BUGS)]


@pytest.mark.parametrize(("bug", "dtype"), CASES, ids=str)
def test_bugs_show(bug: str, dtype: DType) -> None:
    seen = False
    for seed in range(1, 5):
        try:
            seen |= not is_right(bug, Emulation(lazy=True, seed=seed), dtype)
        except ExecutionError:
            seen = True
        if seen:
            return
    pytest.fail("all orders were right")


@pytest.mark.parametrize(("dtype", "width", "rows"), [("bf16", 8, 1), ("f32", 12, 3), ("f16", 64, 8), ("bf16", 24, 2)])
def test_few_rows_read_panels(dtype: str, width: int, rows: int) -> None:
    program = parse_program(gemm("m, k", "k, n", dtype))
    form = contraction(program.stages[0])
    assert form is not None
    found = panelled(program, form, width)
    assert found is not None
    height = next(n for n in (1, 2, 4, 8) if n >= rows)
    kernel = Kernel(program, Tiling((("m", 8), ("n", width)), (StageTiling("gemv", "n", height, 1),), (found,)))
    assert "fx_stored_source" in emit(kernel, HOPPER).text
    assert not refusal(kernel, "sm_90", "f32")
    kind = next(d for d in (DType.F32, DType.BF16, DType.F16) if d.value == dtype)
    for k, n in [(700, 5 * width), (33, 3 * width - 5), (9000, 7)]:
        operands = {"x": floats(rows, k, dtype=kind), "w": floats(k, n, dtype=kind), "b": floats(n)}
        params = {"M": rows, "K": k, "N": n}
        expected = run_program(program, params, operands)
        for emulation in ORDERS:
            got, status = run_kernel(kernel, params, operands, level="sm_90", emulation=emulation)
            assert not status.any()
            compare(got, expected, 1e-5, 3e-4)


def test_panels_are_as_wide_as_what_a_block_reads() -> None:
    program = parse_program(gemm("m, k", "k, n", "bf16"))
    for n, width in [(3072, 24), (8192, 64), (512, 8)]:
        params = {"M": 1, "K": 2048, "N": n}
        (kernel,) = menu(program, HOPPER, [params])
        assert str(dict(kernel.tiling.layouts)["w"]) == f"1/{width} 0 1%{width}"
        assert kernel.bind(params).tile["n"] == width
    two_sizes = menu(program, HOPPER, [{"M": 1, "K": 2048, "N": n} for n in (512, 2048)])
    assert not any(k.tiling.layouts for k in two_sizes)


def test_blocks_are_an_index_map() -> None:
    layout = Layout.blocks(2, 0, 1, 64, 64)
    assert Layout.parse(str(layout)) == layout
    assert not Layout(Layout.row_major(2).factors, True).is_row_major
    w = np.arange(100 * 130, dtype=np.int32).reshape(100, 130)
    stored = layout.pack(w)
    np.testing.assert_array_equal(layout.unpack(stored, w.shape), w)
    for k, n in [(0, 0), (9, 3), (70, 129), (99, 64)]:
        chunk = k % 64 // 8 ^ n % 8
        assert stored[k // 64, n // 64, n % 64, 8 * chunk + k % 8] == w[k, n]
