"""Products of float on Hopper's tensor cores, emulated from the real descriptors: the last 13 bits of factors are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cuda_kernels import compare, run_kernel
from test_products import convolution, floats, gemm

from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda.blocks import blocked
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.cuda.emulator.device import Emulation
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu
from fusec.tiling.device.accepts import refusal

pytestmark = pytest.mark.skipif(compiler() is None, reason="emulation needs a C++ compiler")
HOPPER = Target("cuda", "sm_90")
ORDERS = [Emulation(), Emulation(lazy=True, seed=5)]


def kernel_of(text: str, columns: int, tile: Mapping[str, int], *, packed: bool) -> Kernel:
    """The only stage as a wgmma product, its weight in blocks or as it is."""
    program = parse_program(text)
    form = contraction(program.stages[0])
    assert form is not None
    found = blocked(program, form)
    assert found is not None
    stage = StageTiling("wgmma", form.n, 128, columns)
    return Kernel(program, Tiling(tuple(tile.items()), (stage,), (found,) if packed else ()))


def cut(x: np.ndarray) -> np.ndarray:
    """What wgmma multiplies: the upper 19 bits (PTX ISA, wgmma.mma_async, `.tf32`)."""
    return (np.ascontiguousarray(x).view(np.uint32) & 0xFFFFE000).view(np.float32)


def check(kernel: Kernel, params: Mapping[str, int], operands: Mapping[str, Any], factors: str) -> None:
    """Equal, but for the order of sums, to the program on factors that were cut before."""
    assert not refusal(kernel, "sm_90", "tf32")
    assert "round float32" in refusal(kernel, "sm_90", "f32")
    expected = run_program(kernel.program, params, {o: cut(a) if o in factors else a for o, a in operands.items()})
    for emulation in ORDERS:
        got, status = run_kernel(kernel, params, operands, level="sm_90", emulation=emulation)
        assert not status.any()
        compare(got, expected, 1e-5, 2e-4)


@pytest.mark.parametrize("packed", [True, False], ids=["blocks", "as it is"])
@pytest.mark.parametrize(
    ("columns", "left", "right"), [(64, "m, k", "k, n"), (128, "m, k", "n, k"), (256, "k, m", "k, n")]
)
def test_odd_sizes(columns: int, left: str, right: str, packed: bool) -> None:
    """Operands that lie across k are turned on the way in."""
    kernel = kernel_of(gemm(left, right), columns, {"m": 128, "n": columns}, packed=packed)
    assert ("fx_packed_source" in emit(kernel, HOPPER).text) == packed
    for m, k, n in [(1, 1, 1), (130, 70, 264)]:
        x = floats(*((m, k) if left == "m, k" else (k, m)))
        w = floats(*((k, n) if right == "k, n" else (n, k)))
        check(kernel, {"M": m, "K": k, "N": n}, {"x": x, "w": w, "b": floats(n)}, "xw")


def test_windows() -> None:
    text, operands = convolution(7, 6, 32, 40, 3, 1, 1)
    factors = "".join(o for o in operands if o != "b")
    check(kernel_of(text, 64, {"n": 1, "m": 128, "o": 64}, packed=True), {}, operands, factors)


def test_the_menu_takes_wgmma_where_k_runs_along_the_lines() -> None:
    sizes = {"M": 4096, "K": 512, "N": 1024}

    def templates(program: Any, calls: list[dict[str, int]]) -> set[str]:
        return {t.template for k in menu(program, HOPPER, calls, "tf32") for t in k.tiling.stages}

    plain = parse_program(gemm("m, k", "k, n"))
    assert templates(plain, [sizes]) == {"wgmma"}
    (kernel,) = menu(plain, HOPPER, [sizes], "tf32")
    assert str(dict(kernel.tiling.layouts)["w"]) == "0/32 1/64 1%64 0%32 ^"
    turned = parse_program(gemm("m, k", "n, k"))
    assert "wgmma" in templates(turned, [{**sizes, "M": m} for m in (1, 4096)])
    # a weight that other kernels read as it lies, and an activation that lies across k, would be turned element by element
    assert "wgmma" not in templates(plain, [{**sizes, "M": m} for m in (1, 4096)])
    assert "wgmma" not in templates(parse_program(gemm("k, m", "k, n")), [sizes])
