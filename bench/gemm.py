"""Matrix products: this compiler's kernels against the FMA peak, numpy (OpenBLAS) and onnxruntime, interleaved.

    python -m bench.gemm [--rounds N] [--level avx2] [--tile ROWSxVECTORS] [--save FILE.json] [MxKxN ...]
    python -m bench.gemm --threads 2     # whole sessions of both runtimes instead of kernels
    python -m bench.gemm --sweep         # many odd shapes; prints the worst against onnxruntime

Outputs are compared first. Each round times every contender once, in turn; a ratio is the median over rounds of the ratios
within a round, with the 10th and the 90th percentile beside it, then that of the fastest rounds: a busy machine shows in
their distance. One thread is timed by its own clock, which stands while the system runs something else. `peak` is the share
of the measured FMA peak, and for one row of the speed of reading the weights; the shares of the rivals in the same rounds
tell what this machine allows. Everything printed was measured in this run. The weights of `x @ w` are packed beforehand, as
they are when a model is compiled; onnxruntime prepacks its own and does not spin between runs. In `x @ w.T` both operands
come with the run, w row by row as [N, K], and the rivals get them so, too.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ctypes
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

import fusec
from bench.kernels import arguments, quantiles, spread, target_of
from bench.peak import peak, peak_flops, reading
from bench.store import save_records
from fusec.ir.dim import evaluate
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Kernel
from fusec.kernels.layout import Layout
from fusec.measure.rivals import onnxruntime_session
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
TURNED = ", x @ w.T"
RIVALS = ("numpy", "onnxruntime")
SHAPES = [
    (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (128, 768, 768), (128, 768, 3072),
    (128, 3072, 768), (197, 768, 2304), (128, 32, 128), (3136, 64, 256), (49, 2048, 512), (64, 4096, 64), (1, 256, 256),
    (1, 768, 3072), (1, 4096, 4096), (2, 768, 768), (5, 768, 768), (8, 768, 768), (16, 768, 768),
]  # fmt: skip
"""M, K, N."""
SWEEP = [
    (m, k, n) for m in (1, 2, 3, 5, 7, 11, 17, 31, 64, 100) for k in (1, 7, 64, 300) for n in (1, 3, 5, 17, 65, 256)
]


def aligned(size: int) -> Any:
    """float32 memory at a 64-byte boundary."""
    room = np.zeros(size + 16, np.float32)
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + size]


def kernel_tiles(
    kernel: Kernel, target: Target, params: dict[str, int], arrays: dict[str, Any]
) -> tuple[Callable[[int, int], None], int]:
    """A closure that runs `count` tiles of a kernel from number `first` on, and how many tiles there are."""
    binary = build(emit(kernel, target), target)
    bound, loaded = kernel.bind(params), load(binary)
    scratch = aligned(evaluate(binary.scratch, bound.environment) // 4 + 16)
    words = np.zeros(len(binary.slots), np.int64)
    for i, slot in enumerate(binary.slots):
        pointer = slot.kind == "pointer"
        words[i] = arrays[slot.name].ctypes.data if pointer else evaluate(slot.extent, bound.environment)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(loaded.address)
    slots, room = words.ctypes.data, scratch.ctypes.data

    def run(first: int, count: int, _: Any = (words, scratch, arrays)) -> None:
        entry(slots, first, count, room)

    return run, bound.tiles


def kernel_call(kernel: Kernel, target: Target, params: dict[str, int], arrays: dict[str, Any]) -> Callable[[], None]:
    """A closure that runs all tiles of a kernel once."""
    run, tiles = kernel_tiles(kernel, target, params, arrays)
    return lambda: run(0, tiles)


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


def model_of(x: Any, w: Any, transposed: bool = False) -> bytes:
    """x @ w as ONNX, `w` as an initialiser; `transposed`: x @ w.T of two inputs."""
    from onnx import TensorProto, helper, numpy_helper

    def told(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    if transposed:
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    else:
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [told("x", *x.shape), *([told("w", *w.shape)] if transposed else [])],
        [told("y", x.shape[0], w.shape[0 if transposed else 1])],
        [] if transposed else [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def onnxruntime_call(x: Any, w: Any, threads: int = 1, transposed: bool = False) -> Callable[[], Any] | None:
    """The same product by onnxruntime; None where it is not installed."""
    if not find_spec("onnxruntime"):
        return None
    session = onnxruntime_session(model_of(x, w, transposed), threads)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    if transposed:
        binding.bind_cpu_input("w", w)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def fusec_session(x: Any, w: Any, threads: int) -> Callable[[], Any]:
    """The same product by a whole session."""
    session = fusec.compile(model_of(x, w), threads=threads)
    (y,) = session.run({"x": x}).values()
    assert np.abs(y - x @ w).max(initial=0.0) < 1e-3 * max(1.0, x.shape[1] ** 0.5)
    return lambda: session.run({"x": x})


def contenders_of(shape: tuple[int, int, int], target: Target, threads: int, tiles: list[str]) -> dict[str, Any]:
    """Name -> closure."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), dtype=np.float32)
    w = rng.standard_normal((k, n), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    found: dict[str, Any] = {}
    if threads > 1:
        found["fusec"] = fusec_session(x, w, threads)
    else:
        found["fusec"] = ours(GEMM, target, shape, None, x, w)
        found |= {f"fusec {tile}": ours(GEMM, target, shape, tile, x, w) for tile in tiles}
        turned = np.ascontiguousarray(w.T)
        found["fusec" + TURNED] = ours(TRANSPOSED, target, shape, None, x, turned)
        found["numpy" + TURNED] = lambda: np.dot(x, turned.T, out=out)
        if other := onnxruntime_call(x, turned, transposed=True):
            found["onnxruntime" + TURNED] = other
        found["peak"] = peak(target, 2.0 * m * k * n) if m > 1 else reading(target, np.ascontiguousarray(w).reshape(-1))
        found["numpy"] = lambda: np.dot(x, w, out=out)
    if other := onnxruntime_call(x, w, threads):
        found["onnxruntime"] = other
    return found


def measure(contenders: dict[str, Callable[[], Any]], rounds: int, flops: float, threads: int = 1) -> dict[str, Any]:
    """Seconds per call, an entry per round: of one thread its own, without those in which the system ran something else."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    repeat = max(1, int(3e7 / flops))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            run()
            start = clock()
            for _ in range(repeat):
                run()
            times[name].append((clock() - start) / repeat)
    return {name: np.array(t) for name, t in times.items()}


def main() -> None:
    """Measure all shapes and print a line for each."""
    parser = arguments(__doc__)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tile", action="append", default=[])
    parser.add_argument("--sweep", action="store_true")
    given = parser.parse_args()
    target = target_of(given)
    if given.sweep:
        sweep(target, given.rounds)
        return
    print(f"{target}, float32, {given.threads} thread(s); ratio = how many times as fast as the other")
    print(
        f"{'M x K x N':>18}  {'GFLOP/s':>15}  {'peak':>5}  {'ratio to numpy':>22} {'peak':>5}"
        f"  {'ratio to onnxruntime':>22} {'peak':>5}"
    )
    rows = []
    for shape in [tuple(map(int, s.split("x"))) for s in given.shapes] or SHAPES:
        m, k, n = shape
        flops = 2.0 * m * k * n
        times = measure(contenders_of((m, k, n), target, given.threads, given.tile), given.rounds, flops, given.threads)
        if "peak" in times and m > 1:
            times["peak"] *= flops / peak_flops(target, flops)
        for name, t in times.items():
            if name.startswith("fusec"):
                rate = f"{flops / np.median(t) / 1e9:.1f} ({flops / t.min() / 1e9:.1f})"
                title = f"{m} x {k} x {n}" if name == "fusec" else name[5:].strip(", ")
                rivals = {o: times[r] for o in RIVALS if (r := o + TURNED if name.endswith(TURNED) else o) in times}
                found = ratios_of(t, rivals, times.get("peak"))
                cells = [spread(found.get(o)).rjust(22) + share(found.get(f"{o}'s peak")) for o in RIVALS]
                print(f"{title:>18}  {rate:>15} {share(found.get('peak'))}  {'  '.join(cells)}", flush=True)
                rows.append({"shape": shape, "subject": name, "seconds": float(np.median(t)), "ratios": found})
    if given.save:
        save_records(given.save, rows, target=str(target), threads=given.threads)


def ratios_of(own: Any, rivals: dict[str, Any], peak: Any) -> dict[str, list[float]]:
    """How many times as fast as the peak and as each rival a subject is, and what share of the peak each rival reaches."""
    found = {} if peak is None else {"peak": quantiles(peak, own)}
    found |= {name: quantiles(t, own) for name, t in rivals.items()}
    return found if peak is None else found | {f"{name}'s peak": quantiles(peak, t) for name, t in rivals.items()}


def share(ratio: list[float] | None) -> str:
    """The median of a share of the peak as text."""
    return "     -" if ratio is None else f"{100 * ratio[1]:5.0f}%"


def sweep(target: Target, rounds: int) -> None:
    """Odd shapes: how the ratios to onnxruntime lie, and the ten worst."""
    found = []
    for shape in SWEEP:
        m, k, n = shape
        contenders = contenders_of(shape, target, 1, [])
        times = measure({o: contenders[o] for o in ("fusec", "onnxruntime")}, rounds, 2.0 * m * k * n + 2e5)
        found.append((quantiles(times["onnxruntime"], times["fusec"]), shape))
    found.sort(key=lambda f: f[0][1])
    middle = [r[1] for r, _ in found]
    print(f"{len(found)} shapes: ratio to onnxruntime {middle[0]:.2f} at worst, median {middle[len(middle) // 2]:.2f}")
    for ratio, (m, k, n) in found[:10]:
        print(f"{f'{m} x {k} x {n}':>18}  {spread(ratio)}")


if __name__ == "__main__":
    main()
