"""Matrix products on one core: this compiler's kernels against numpy (OpenBLAS) and onnxruntime, interleaved.

    python bench/gemm.py [--rounds N] [--level avx2] [--tile ROWSxVECTORS]

Each round times every contender once, in turn; a ratio is the median over rounds of the ratios within a round, with the
10th and the 90th percentile beside it. GFLOP/s are medians, the best in brackets. Everything printed was measured in this
run. Weights are packed beforehand, as they are when a model is compiled; onnxruntime prepacks its own.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fusec.ir.dim import evaluate
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Kernel
from fusec.kernels.layout import Layout
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

GEMM = """
program gemm(M, K, N)
task m: M, n: N
input x: f32[M, K]
weight w: f32[K, N]
output y: f32[M, N]
stage m, n
  t = sum[k: K](x[m, k] * w[k, n])
  y[m, n] = t
"""
TRANSPOSED = GEMM.replace("weight w: f32[K, N]", "input w: f32[N, K]").replace("w[k, n]", "w[n, k]")
SHAPES = [
    (128, 384, 384), (128, 1536, 384), (128, 384, 1536), (1, 256, 256), (1, 768, 3072), (512, 512, 512),
    (1024, 1024, 1024), (128, 32, 128),
]  # fmt: skip
"""M, K, N."""


def aligned(size: int) -> Any:
    """float32 memory at a 64-byte boundary."""
    room = np.zeros(size + 16, np.float32)
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + size]


def kernel_call(kernel: Kernel, target: Target, params: dict[str, int], arrays: dict[str, Any]) -> Callable[[], None]:
    """A closure that runs all tiles of a kernel once."""
    binary = build(emit(kernel, target), target)
    bound, loaded = kernel.bind(params), load(binary)
    scratch = aligned(evaluate(binary.scratch, bound.environment) // 4 + 16)
    words = np.zeros(len(binary.slots), np.int64)
    for i, slot in enumerate(binary.slots):
        pointer = slot.kind == "pointer"
        words[i] = arrays[slot.name].ctypes.data if pointer else evaluate(slot.extent, bound.environment)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(loaded.address)
    arguments = (words.ctypes.data, 0, bound.tiles, scratch.ctypes.data)
    alive = (words, scratch, arrays)

    def run(_: Any = alive) -> None:
        entry(*arguments)

    return run


def ours(text: str, target: Target, shape: tuple[int, int, int], tile: str | None, x: Any, w: Any) -> Callable[[], Any]:
    """The menu's kernel for a shape, or the same with another register tile."""
    m, k, n = shape
    params = {"M": m, "K": k, "N": n}
    kernel = choose(menu(parse_program(text), target, [params]), params)
    if tile and kernel.tiling.stages[0].template == "contract" and m > 1:
        rows, vectors = map(int, tile.split("x"))
        layouts = tuple((o, Layout.panels(2, vectors * target.isa.lanes)) for o, _ in kernel.tiling.layouts)
        stages = (replace(kernel.tiling.stages[0], rows=rows, vectors=vectors),)
        kernel = Kernel(kernel.program, replace(kernel.tiling, stages=stages, layouts=layouts))
    stored = kernel.layouts["w"].pack(w)
    packed = aligned(stored.size)
    packed[:] = stored.reshape(-1)
    y = aligned(m * n)
    run = kernel_call(kernel, target, params, {"x": x, "w": packed, "y": y})
    run()
    expected = x @ (w.T if text is TRANSPOSED else w)
    error = float(np.abs(y.reshape(m, n) - expected).max(initial=0.0))
    assert error < 1e-3 * max(1.0, k**0.5), f"wrong result for {shape}: {error}"
    return run


def onnxruntime_call(x: Any, w: Any) -> Callable[[], Any] | None:
    """The same product by onnxruntime on one thread, `w` as an initialiser; None where it is not installed."""
    try:
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [x.shape[0], w.shape[1]])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def measure(contenders: dict[str, Callable[[], Any]], rounds: int, flops: float) -> dict[str, Any]:
    """Seconds per call, an entry per round."""
    repeat = max(1, int(3e7 / flops))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            run()
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: np.array(t) for name, t in times.items()}


def main() -> None:
    """Measure all shapes and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--level", default="")
    parser.add_argument("--tile", action="append", default=[])
    given = parser.parse_args()
    target = Target.parse(f"cpu:{given.level}" if given.level else "cpu")
    rng = np.random.default_rng(0)
    print(f"{target}, one thread, float32; ratio = how many times as fast as the other")
    print(f"{'M x K x N':>18}  {'fusec GFLOP/s':>15}  {'ratio to numpy':>20}  {'ratio to onnxruntime':>22}")
    for shape in SHAPES:
        m, k, n = shape
        x = rng.standard_normal((m, k), dtype=np.float32)
        w = rng.standard_normal((k, n), dtype=np.float32)
        w_t = np.ascontiguousarray(w.T)
        out = np.empty((m, n), np.float32)
        contenders: dict[str, Callable[[], Any]] = {"numpy": lambda x=x, w=w, o=out: np.dot(x, w, out=o)}
        if other := onnxruntime_call(x, w):
            contenders["onnxruntime"] = other
        contenders["fusec"] = ours(GEMM, target, shape, None, x, w)
        for tile in given.tile:
            contenders[f"fusec {tile}"] = ours(GEMM, target, shape, tile, x, w)
        contenders["fusec, x @ w.T"] = ours(TRANSPOSED, target, shape, None, x, w_t)
        flops = 2.0 * m * k * n
        times = measure(contenders, given.rounds, flops)
        for name, t in times.items():
            if name.startswith("fusec"):
                rate = f"{flops / np.median(t) / 1e9:.1f} ({flops / t.min() / 1e9:.1f})"
                ratios = [ratio(times[o], t) if o in times else "-" for o in ("numpy", "onnxruntime")]
                title = f"{m} x {k} x {n}" if name == "fusec" else name[5:].strip(", ")
                print(f"{title:>18}  {rate:>15}  {ratios[0]:>20}  {ratios[1]:>22}", flush=True)


def ratio(other: Any, own: Any) -> str:
    """The median ratio and its spread."""
    low, mid, high = np.quantile(other / own, [0.1, 0.5, 0.9])
    return f"{mid:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
