"""Matrix products of the CUDA back end in emulation: every template, odd sizes, either direction of A and B, prologues,
epilogues, chains, convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_kernels import compare, run_kernel

from fusec.ir.types import DType
from fusec.kernels.cpu.contract_form import contraction
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.cuda.emulator.device import Emulation
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

pytestmark = pytest.mark.skipif(compiler() is None, reason="emulation needs a C++ compiler")
rng = np.random.default_rng(0)
SIMT = [("simt", 128, 128), ("simt", 128, 64), ("simt", 64, 64), ("simt", 32, 64), ("simt", 16, 32)]
MMA = [("mma", 128, 128), ("mma", 128, 64), ("mma", 64, 64), ("mma", 32, 64), ("mma", 16, 32)]
WGMMA = [("wgmma", 128, 256), ("wgmma", 128, 128), ("wgmma", 128, 64)]
GEMV = [("gemv", 1, 1), ("gemv", 2, 1), ("gemv", 4, 1), ("gemv", 8, 1)]
Template = tuple[str, int, int]


def floats(*shape: int, dtype: DType = DType.F32) -> Any:
    return rng.standard_normal(shape).astype(np.float32).astype(dtype.numpy)


def check(
    text: str,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    template: Template | None,
    *,
    tile: Mapping[str, int] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Every contraction by a template (or as the menu says), other stages as nests; then other grids, orders, addresses."""
    program = parse_program(text)
    level = "sm_90" if template and template[0] == "wgmma" else "sm_80"
    if template is None:
        kernel = choose(menu(program, Target("cuda", level), [params]), params)
        assert any(t.template in ("simt", "gemv", "mma") for t in kernel.tiling.stages)
    else:
        stages = []
        for s in program.stages:
            form = contraction(s)
            nest = StageTiling("points", s.axis_names[-1])
            stages.append(nest if form is None else StageTiling(template[0], form.n, *template[1:]))
        kernel = Kernel(program, Tiling(tuple((tile or {}).items()), tuple(stages)))
    expected = run_program(program, params, operands)
    got, status = run_kernel(kernel, params, operands, level=level)
    assert not status.any()
    scale = max(1.0, *(float(np.abs(e.astype(np.float64)).max(initial=0.0)) for e in expected.values()))
    compare(got, expected, tolerance, tolerance * scale)
    for blocks, aligned, emulation in ((1, False, Emulation(seed=3)), (2, True, Emulation(seed=5, lazy=True))):
        again, _ = run_kernel(
            kernel, params, operands, level=level, blocks=blocks, aligned=aligned, emulation=emulation
        )
        for name, g in got.items():
            np.testing.assert_array_equal(again[name].view(np.uint8), g.view(np.uint8), err_msg=name)


def gemm(left: str = "m, k", right: str = "k, n", dtype: str = "f32", result: str = "f32") -> str:
    """y = relu(x w + b); 16-bit operands are widened where they are multiplied."""
    shape = {"m": "M", "k": "K", "n": "N"}
    x, w = (", ".join(shape[i] for i in side.split(", ")) for side in (left, right))
    product = f"x[{left}] * w[{right}]" if dtype == "f32" else f"f32(x[{left}]) * f32(w[{right}])"
    value = "max(t + b[n], 0.0)"
    return f"""
program gemm(M, K, N)
task m: M, n: N
input x: {dtype}[{x}], b: f32[N]
weight w: {dtype}[{w}]
output y: {result}[M, N]
stage m, n
  t = sum[k: K]({product})
  y[m, n] = {value if result == "f32" else f"{result}({value})"}
"""


def run_gemm(
    template: Template, sizes: tuple[int, int, int], left: str = "m, k", right: str = "k, n", dtype: DType = DType.F32,
    result: DType = DType.F32, tolerance: float = 1e-5,
) -> None:  # fmt: skip
    m, k, n = sizes
    extent = {"m": m, "k": k, "n": n}
    operands = {
        "x": floats(*(extent[i] for i in left.split(", ")), dtype=dtype),
        "w": floats(*(extent[i] for i in right.split(", ")), dtype=dtype),
        "b": floats(n),
    }
    tile = {"m": 8, "n": 40} if template[0] == "gemv" else {"m": template[1], "n": template[2]}
    check(
        gemm(left, right, dtype.value, result.value), {"M": m, "K": k, "N": n}, operands, template, tile=tile,
        tolerance=tolerance,
    )  # fmt: skip


@pytest.mark.parametrize("template", SIMT, ids=str)
def test_register_tiles(template: Template) -> None:
    for sizes in [(1, 1, 1), (130, 33, 70), (64, 40, 132), (7, 100, 129)]:
        run_gemm(template, sizes)


@pytest.mark.parametrize("right", ["k, n", "n, k"])
@pytest.mark.parametrize("left", ["m, k", "k, m"])
def test_directions(left: str, right: str) -> None:
    run_gemm(("simt", 64, 64), (70, 36, 68), left, right)
    run_gemm(("mma", 64, 64), (70, 72, 80), left, right, DType.BF16)
    run_gemm(("wgmma", 128, 64), (70, 72, 80), left, right, DType.F16)


@pytest.mark.parametrize(
    ("dtype", "right"),
    [(DType.F32, "k, n"), (DType.F32, "n, k"), (DType.BF16, "k, n"), (DType.F16, "n, k")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((DType.BF16, "n, k"), (DType.F16, "k, n"))],
)
def test_few_rows(dtype: DType, right: str) -> None:
    for template, sizes in zip(GEMV, [(1, 9000, 40), (2, 33, 41), (3, 512, 3), (8, 2100, 96)], strict=True):
        m, k, n = sizes
        text = gemm("m, k", right, dtype.value).replace(f"input x: {dtype}", "input x: f32")
        if dtype is not DType.F32:
            text = text.replace("f32(x[m, k])", "x[m, k]")
        w = floats(*((k, n) if right == "k, n" else (n, k)), dtype=dtype)
        operands = {"x": floats(m, k), "w": w, "b": floats(n)}
        check(text, {"M": m, "K": k, "N": n}, operands, template, tile={"m": 8, "n": 40})


@pytest.mark.parametrize("template", [*MMA, *WGMMA], ids=str)
def test_tensor_cores(template: Template) -> None:
    for sizes in [(1, 1, 1), (130, 72, 264), (40, 200, 88)]:
        run_gemm(template, sizes, dtype=DType.BF16)
    run_gemm(template, (70, 64, 96), dtype=DType.F16, result=DType.F16, tolerance=2e-3)


def test_tf32() -> None:
    run_gemm(MMA[0], (70, 40, 72), tolerance=2e-3)
    run_gemm(MMA[4], (33, 20, 41), "k, m", "n, k", tolerance=2e-3)


def test_no_products_to_sum() -> None:
    for template in (SIMT[2], GEMV[1]):
        run_gemm(template, (5, 0, 9))


STRIDES = """
program strides(B, M, K, N)
task b: B, m: M, n: N
input x: f32[{x}], z: f32[{z}]
output y: f32[{y}]
stage b, m, n
  t = sum[k: K](x[{xi}] * z[{zi}])
  y[{yi}] = t
"""
CASES = [
    ("b, m, k", "b, k, n", "b, m, n"),
    ("m, b, k", "n, b, k", "m, b, n"),
    ("k, b, m", "k, n", "b, n, m"),
    ("m, k", "b, n, k", "n, b, m"),
    ("k", "b, k, n", "b, m, n"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("template", [SIMT[2], SIMT[3], GEMV[2]], ids=str)
def test_batches_and_strides(case: tuple[str, str, str], template: Template) -> None:
    extent = {"b": 2, "m": 5 if template[0] == "gemv" else 40, "k": 20, "n": 36}
    shapes = [[extent[i] for i in c.split(", ")] for c in case]
    names = {f"{o}{s}": v.upper() if not s else v for o, v in zip("xzy", case, strict=True) for s in ("", "i")}
    params = {k.upper(): v for k, v in extent.items()}
    operands = {"x": floats(*shapes[0]), "z": floats(*shapes[1])}
    check(STRIDES.format(**names), params, operands, template, tile={"b": 1, "m": 32, "n": 24})


PROLOGUES = """
program prologues(M, K, N)
task m: M, n: N
input x: f32[M, K], mean: f32[M], scale: f32[M], g: f32[K], s: f32[N], a: f32[M, N]
weight w: i8[K, N]
output y: f32[M, N], z: f32[N, M]
stage m, n
  p = (x[m, k] - mean[m]) * scale[m] * g[k]
  t = sum[k: K](p / (1.0 + exp(-p)) * (f32(w[k, n]) * s[n]))
  y[m, n] = tanh(t) + a[m, n]
  z[n, m] = t
"""


@pytest.mark.parametrize("template", [SIMT[0], SIMT[3], MMA[2], GEMV[3]], ids=str)
def test_prologues_and_several_results(template: Template) -> None:
    for m, k, n in [(5, 70, 40), (33, 19, 65)]:
        operands = {
            "x": floats(m, k), "mean": floats(m), "scale": floats(m), "g": floats(k), "s": floats(n), "a": floats(m, n),
            "w": rng.integers(-100, 100, (k, n)).astype(np.int8),
        }  # fmt: skip
        tolerance = 3e-3 if template[0] == "mma" else 1e-4
        check(PROLOGUES, {"M": m, "K": k, "N": n}, operands, template, tile={"m": 32, "n": 40}, tolerance=tolerance)


CHAIN = """
program chain(M, K, L, N)
task m: M
input x: f32[M, K]
weight w: f32[K, L], v: f32[L, N]
input b: f32[L]
local h: f32[M, L]
output y: f32[M, N]
stage m, l: L
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t + b[l], 0.0)
stage m, n: N
  u = sum[l: L](h[m, l] * v[l, n])
  y[m, n] = u + x[m, 0]
"""


@pytest.mark.parametrize("template", [SIMT[3], SIMT[4], GEMV[3], None], ids=str)
def test_chains_meet_in_a_panel(template: Template | None) -> None:
    for m, k, hidden, n in [(40, 33, 130, 70), (3, 64, 100, 20)]:
        operands = {"x": floats(m, k), "w": floats(k, hidden), "v": floats(hidden, n), "b": floats(hidden)}
        check(CHAIN, {"M": m, "K": k, "L": hidden, "N": n}, operands, template, tile={"m": 32}, tolerance=2e-5)


def convolution(
    h: int, w: int, c: int, o: int, k: int, stride: int = 1, pad: int = 0, dilation: int = 1, dtype: str = "f32"
) -> tuple[str, dict[str, Any]]:
    """A two-dimensional convolution of channels-last images with bias and relu, padded by a guard, and its operands."""
    p, q = ((d + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for d in (h, w))
    y, x = f"(m // {q})*{stride} + r*{dilation} - {pad}", f"(m % {q})*{stride} + s*{dilation} - {pad}"
    load = f"pad(x[n, {y}, {x}, i], 0.0)" if pad else f"x[n, {y}, {x}, i]"
    weight = f"w[(r*{k} + s)*{c} + i, o]"
    if dtype != "f32":
        load, weight = f"f32({load})", f"f32({weight})"
    text = f"""
program conv()
task n: 2, m: {p * q}, o: {o}
input x: {dtype}[2, {h}, {w}, {c}], b: f32[{o}]
weight w: {dtype}[{k * k * c}, {o}]
output y: f32[2, {p * q}, {o}]
stage n, m, o
  t = sum[r: {k}, s: {k}, i: {c}]({load} * {weight})
  y[n, m, o] = max(t + b[o], 0.0)
"""
    types = next(d for d in (DType.F32, DType.BF16, DType.F16) if d.value == dtype)
    return text, {"x": floats(2, h, w, c, dtype=types), "b": floats(o), "w": floats(k * k * c, o, dtype=types)}


CONVOLUTIONS = [(9, 7, 16, 20, 1, 2), (8, 11, 12, 33, 3), (7, 7, 13, 16, 3, 1, 1), (9, 13, 8, 24, 3, 2, 1, 2)]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: Sequence[int], thorough: bool) -> None:
    text, operands = convolution(*case)
    for template in (SIMT[2], SIMT[3], None) if thorough else (SIMT[3],):
        check(text, {}, operands, template, tile={"n": 1, "m": 32, "o": 64}, tolerance=2e-5)
    text, operands = convolution(*case, dtype="bf16")  # type: ignore[misc]
    both = (MMA[1], WGMMA[1])
    for template in both if thorough else both[CONVOLUTIONS.index(tuple(case)) % 2 :][:1]:
        check(text, {}, operands, template, tile={"n": 1, "m": 128, "o": 64}, tolerance=2e-5)


INTEGERS = """
program integers(M, K, N)
task m: M, n: N
input x: u8[M, K], w: i8[K, N]
output y: i32[M, N]
stage m, n
  t = sum[k: K](i32(x[m, k]) * i32(w[k, n]))
  y[m, n] = t
"""
DOUBLES = """
program doubles(M, K, N)
task m: M, n: N
input x: f64[M, K], w: f64[K, N]
output y: f64[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = t
"""


def test_integers_and_doubles() -> None:
    for m, k, n in [(40, 70, 33), (3, 20, 70)]:
        params = {"M": m, "K": k, "N": n}
        x, w = rng.integers(0, 255, (m, k)).astype(np.uint8), rng.integers(-128, 127, (k, n)).astype(np.int8)
        check(INTEGERS, params, {"x": x, "w": w}, None)
        operands = {"x": rng.standard_normal((m, k)), "w": rng.standard_normal((k, n))}
        check(DOUBLES, params, operands, None, tolerance=1e-13)


@pytest.mark.parametrize("m", [1, 2, 3, 7, 9, 70])
def test_the_menu_takes_every_number_of_rows(m: int) -> None:
    params = {"M": m, "K": 40, "N": 72}
    check(gemm(), params, {"x": floats(m, 40), "w": floats(40, 72), "b": floats(72)}, None)


def test_tensor_cores_round_float_only_where_a_plan_says_so() -> None:
    program = parse_program(gemm())
    params = {"M": 4096, "K": 512, "N": 1024}
    for level in ("sm_80", "sm_90"):
        templates = {
            p: menu(program, Target("cuda", level), [params], p)[-1].tiling.stages[0].template for p in ("f32", "tf32")
        }
        assert templates == {"f32": "simt", "tf32": "mma" if level == "sm_80" else "wgmma"}
