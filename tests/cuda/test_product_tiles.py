"""Which templates and tiles products get on a device, and which chains are worth one kernel there."""

from __future__ import annotations

import numpy as np
import pytest

from fusec import api
from fusec.ir.build import GraphBuilder
from fusec.ir.dim import symbol
from fusec.kernels.kernel import Kernel
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: {0}[M, K]
weight w: {0}[K, N]
output y: {0}[M, N]
stage m, n
  t = sum[k: K]({1})
  y[m, n] = {2}
"""


def gemm(dtype: str = "f32") -> str:
    if dtype == "f32":
        return GEMM.format(dtype, "x[m, k] * w[k, n]", "t")
    return GEMM.format(dtype, "f32(x[m, k]) * f32(w[k, n])", f"{dtype}(t)")


def chosen(m: int, k: int, n: int, level: str = "sm_90", dtype: str = "f32", precision: str = "f32") -> Kernel:
    params = {"M": m, "K": k, "N": n}
    return choose(menu(parse_program(gemm(dtype)), Target("cuda", level), [params], precision), params)


@pytest.mark.parametrize("n", [64, 1000, 4096, 11008, 32000])
@pytest.mark.parametrize(("level", "processors"), [("sm_80", 108), ("sm_90", 132)])
def test_streamed_weights_are_one_wave_of_tiles(n: int, level: str, processors: int) -> None:
    kernel = chosen(1, 4096, n, level)
    assert kernel.tiling.stages[0].template == "gemv"
    bound = kernel.bind({"M": 1, "K": 4096, "N": n})
    assert bound.tiles <= processors
    assert bound.tiles >= 0.55 * min(processors, n // 8)


def test_rows_decide() -> None:
    assert [chosen(m, 512, 4096).tiling.stages[0].template for m in (1, 2, 8, 9)] == ["gemv", "gemv", "gemv", "simt"]
    assert [chosen(m, 512, 4096).tiling.stages[0].rows for m in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    large, small = chosen(4096, 512, 4096).tiling.stages[0], chosen(64, 512, 512).tiling.stages[0]
    assert (large.rows, large.vectors) == (128, 128)
    assert small.rows * small.vectors <= 32 * 64


def test_16_bit_floats_take_tensor_cores() -> None:
    for dtype in ("bf16", "f16"):
        assert chosen(4096, 4096, 4096, "sm_90", dtype).tiling.stages[0].template == "wgmma"
        assert chosen(4096, 4096, 4096, "sm_80", dtype).tiling.stages[0].template == "mma"


def test_symbolic_rows_have_a_kernel_for_each_range() -> None:
    kernels = menu(parse_program(gemm()), Target("cuda", "sm_90"), [{"M": symbol("B"), "K": 64, "N": 64}])
    guards = [k.tiling.guard for k in kernels]
    assert all(g is not None for g in guards)
    for m in (0, 1, 2, 4, 7, 9, 64, 65, 100_000):
        assert choose(kernels, {"M": m, "K": 64, "N": 64}) in kernels


@pytest.mark.parametrize(("rows", "width", "kernels"), [(1, 64, 1), (1, 512, 2), (512, 128, 2), (8192, 128, 1)])
def test_chains_need_many_rows_or_little_work(rows: int, width: int, kernels: int) -> None:
    b = GraphBuilder()
    x = b.input("x", f"f32[{rows}, {width}]")
    w, v = (b.weight(name, np.zeros((width, width), np.float32)) for name in ("w", "v"))
    y = b.op("matmul", b.op("relu", b.op("matmul", x, w)), v)
    plan = api.compile_graph_plan(b.graph([y]), api.Options("cuda:sm_90-emulated"), api.new_trace())
    assert len(plan.kernels) == kernels


CHAIN = """
program chain(M, K, L, N)
task m: M
input x: bf16[M, K]
weight w: bf16[K, L], v: bf16[L, N]
local h: bf16[M, L]
output y: bf16[M, N]
stage m, l: L
  t = sum[k: K](f32(x[m, k]) * f32(w[k, l]))
  h[m, l] = bf16(t)
stage m, n: N
  u = sum[l: L](f32(h[m, l]) * f32(v[l, n]))
  y[m, n] = bf16(u)
"""


def test_products_that_meet_in_a_panel_have_equal_rows() -> None:
    for m in (40, 6000, 100_000):
        (kernel,) = menu(parse_program(CHAIN), Target("cuda", "sm_90"), [{"M": m, "K": 128, "L": 512, "N": 64}])
        first, second = kernel.tiling.stages
        assert first.rows == second.rows == dict(kernel.tiling.tile)["m"]
