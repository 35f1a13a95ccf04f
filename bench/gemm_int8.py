"""Products of bytes: this compiler's kernels against onnxruntime's MatMulInteger and against products of floats, interleaved.

    python -m bench.gemm_int8 [--rounds N] [--level avx2] [--save FILE.json] [MxKxN ...]

u8 by i8 in i32, as MatMulInteger has it; ours are compared with int64 first, and so is onnxruntime, whose kernel for AVX2
saturates sums of two products at 16 bits: `wrong` is the share of its results that differ. Ratios as in bench.gemm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.gemm import GEMM, aligned, kernel_call, measure, ours
from bench.kernels import arguments, quantiles, spread, target_of
from bench.store import save_records
from fusec.measure.rivals import onnxruntime_session
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

INTEGERS = """
program gemm(M, K, N)
task m: M, n: N
input x: u8[M, K]
weight w: i8[K, N]
output y: i32[M, N]
stage m, n
  t = sum[k: K](i32(x[m, k]) * i32(w[k, n]))
  y[m, n] = t
"""
SHAPES = [
    (256, 256, 256), (512, 512, 512), (128, 768, 768), (128, 768, 3072), (128, 3072, 768), (100, 512, 2048),
    (1, 256, 1024), (1, 768, 3072), (4, 768, 768), (16, 768, 768),
]  # fmt: skip
"""M, K, N."""


def kernel(target: Target, shape: tuple[int, int, int], x: Any, w: Any) -> Callable[[], None]:
    """The menu's kernel, checked."""
    m, k, n = shape
    params = {"M": m, "K": k, "N": n}
    chosen = choose(menu(parse_program(INTEGERS), target, [params]), params)
    stored = chosen.layouts["w"].pack(w)
    packed = aligned(stored.nbytes // 4 + 16).view(np.int8)[: stored.nbytes]
    packed[:] = stored.reshape(-1)
    y = aligned(m * n).view(np.int32)
    run = kernel_call(chosen, target, params, {"x": x, "w": packed, "y": y})
    run()
    assert (y.reshape(m, n) == x.astype(np.int64) @ w.astype(np.int64)).all(), f"wrong result for {shape}"
    return run


def model_of(x: Any, w: Any) -> bytes:
    """The product as ONNX, `w` as an initialiser."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [x.shape[0], w.shape[1]])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def onnxruntime_call(x: Any, w: Any) -> tuple[Callable[[], Any], float]:
    """The same by onnxruntime, and which part of its results is wrong."""
    session = onnxruntime_session(model_of(x, w), 1)
    (y,) = session.run(None, {"x": x})
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    wrong = float((y != x.astype(np.int64) @ w.astype(np.int64)).mean())
    return lambda: session.run_with_iobinding(binding), wrong


def main() -> None:
    """Measure all shapes and print a line for each."""
    parser = arguments(__doc__)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    target, rows = target_of(given), []
    print(f"{target}, u8 by i8, 1 thread; ratio = how many times as fast as the other")
    print(f"{'M x K x N':>18}  {'Gop/s':>14}  {'ratio to f32':>22}  {'ratio to onnxruntime':>22}  wrong")
    for m, k, n in [tuple(map(int, s.split("x"))) for s in given.shapes] or SHAPES:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (m, k), np.uint8)
        w = np.clip(np.rint(rng.standard_normal((k, n)) * 25), -128, 127).astype(np.int8)
        floats = x.astype(np.float32) / 255, w.astype(np.float32) / 25
        rival, wrong = onnxruntime_call(x, w)
        contenders = {
            "fusec": kernel(target, (m, k, n), x, w),
            "f32": ours(GEMM, target, (m, k, n), None, *floats),
            "onnxruntime": rival,
        }
        times = measure(contenders, given.rounds, 2.0 * m * k * n)
        t = times["fusec"]
        ratios = {o: quantiles(times[o], t) for o in ("f32", "onnxruntime")}
        rate = f"{2e-9 * m * k * n / np.median(t):.0f} ({2e-9 * m * k * n / t.min():.0f})"
        shown = [spread(r) for r in ratios.values()]
        print(f"{f'{m} x {k} x {n}':>18}  {rate:>14}  {shown[0]:>22}  {shown[1]:>22}  {wrong:.1%}", flush=True)
        rows.append({"shape": (m, k, n), "seconds": float(np.median(t)), "ratios": ratios, "wrong": wrong})
    if given.save:
        save_records(given.save, rows, target=str(target))


if __name__ == "__main__":
    main()
