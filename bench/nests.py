"""Loop nests on one core: how close to a plain copy, and to onnxruntime, are windows, rows, transposes and gathers?

    python -m bench.nests [--rounds N] [--level avx2] [--only TEXT] [--save FILE.json]

Outputs are compared first. Then every round times the kernel, a copy that moves as many bytes, and onnxruntime's node,
each three times in turn, of which the fastest counts. onnxruntime is timed by its own profiler, without reordering and
session overhead; ratios are medians over rounds with the 10th and 90th percentile, then that of the fastest rounds. More
than 1 is better for fusec; losses are printed like wins.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ctypes
import importlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.gemm import aligned
from bench.kernels import case_arguments, quantiles, spread, target_of
from bench.nest_cases import WINDOWS, Case, Rival
from bench.row_cases import ROWS
from bench.store import save_records
from fusec.ir.dim import evaluate
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.load import load
from fusec.kernels.kernel import Kernel
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

CASES = (*ROWS, *WINDOWS)


def ours(case: Case, target: Target) -> tuple[Callable[[], None], Any]:
    """A closure that runs the kernel once, and its output."""
    kernel = choose(menu(parse_program(case.text), target), case.params)
    arrays: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for name, value in case.operands.items():
        if isinstance(value, float):
            scalars[name] = value
            continue
        packed = np.ascontiguousarray(kernel.layouts[name].pack(value)).reshape(-1)
        arrays[name] = aligned(packed.nbytes // 4 + 16).view(packed.dtype)[: packed.size]
        arrays[name][:] = packed
    arrays["y"] = aligned(int(np.prod(case.shape)))
    return kernel_call(kernel, target, case.params, arrays, scalars), arrays["y"].reshape(case.shape)


def kernel_call(
    kernel: Kernel, target: Target, params: dict[str, int], arrays: dict[str, Any], scalars: dict[str, float]
) -> Callable[[], None]:
    """A closure that runs all tiles of a kernel once."""
    binary = build(emit(kernel, target), target)
    bound, loaded = kernel.bind(params), load(binary)
    scratch = aligned(evaluate(binary.scratch, bound.environment) // 4 + 16)
    status = np.zeros(4, np.int64)
    words = np.zeros(len(binary.slots), np.int64)
    for i, slot in enumerate(binary.slots):
        if slot.kind in ("pointer", "status"):
            words[i] = (arrays[slot.name] if slot.name else status).ctypes.data
        elif slot.kind == "scalar":
            words[i] = np.float32(scalars[slot.name]).view(np.int32)
        else:
            words[i] = evaluate(slot.extent, bound.environment)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(loaded.address)
    arguments = (words.ctypes.data, 0, bound.tiles, scratch.ctypes.data)
    alive = (words, scratch, status, arrays)

    def run(_: Any = alive) -> None:
        entry(*arguments)

    return run


class OnnxRuntime:
    """A session with its profiler on; the time of a run is that of the last computing node."""

    def __init__(self, rival: Rival) -> None:
        ort: Any = importlib.import_module("onnxruntime")
        from onnx import TensorProto, helper, numpy_helper

        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node(op, i, o, name=f"{op}_{k}", **a) for k, (op, i, o, a) in enumerate(rival.nodes)],
            "g",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                for n, x in rival.feeds.items()
            ],
            [value(rival.result, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, n) for n, v in rival.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.log_severity_level = 3
        self.folder = tempfile.TemporaryDirectory()
        options.profile_file_prefix = str(Path(self.folder.name) / "profile")
        self.session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.feeds = rival.feeds
        self.measured = [op for op, *_ in rival.nodes[1 if len(rival.nodes) > 1 else 0 :]]

    def run(self) -> Any:
        """One run."""
        return self.session.run(None, self.feeds)[0]

    def seconds(self, per_run: int) -> Any:
        """Seconds of the measured node in each run so far, and the end of the session."""
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        names = list(dict.fromkeys(e["name"] for e in nodes))
        wanted = [n for n in names if not n.startswith("Reorder")]
        wanted = wanted[1:] if len(wanted) > 1 else wanted
        each = [[e["dur"] * 1e-6 for e in nodes if e["name"] == n] for n in wanted]
        return np.sum(np.array(each), axis=0).reshape(-1, per_run).min(1)


def measure(case: Case, target: Target, rounds: int) -> dict[str, Any]:
    """Compare outputs, then seconds per round of the kernel, a copy, and onnxruntime."""
    run, y = ours(case, target)
    run()
    rival = None
    if case.rival is not None:
        rival = OnnxRuntime(case.rival)
        want = case.rival.to_ours(rival.run())
        error = float(np.abs(y - np.asarray(want).reshape(case.shape)).max(initial=0.0))
        if not error <= 2e-4 * max(1.0, float(np.abs(want).max())):
            sys.exit(f"{case.name}: differs from onnxruntime by {error}")
    half = int(case.moved // 8)
    source, sink = aligned(half), aligned(half)
    repeat, inner = max(1, int(2e-4 / _once(run))), 3
    times: dict[str, list[float]] = {"fusec": [], "copy": []}
    if rival is not None:  # the one above and one to warm up
        for _ in range(inner - 1):
            rival.run()
    for _ in range(rounds):
        for name, subject in (("fusec", run), ("copy", lambda: np.copyto(sink, source))):
            subject()
            best = math.inf
            for _ in range(inner):
                start = time.perf_counter()
                for _ in range(repeat):
                    subject()
                best = min(best, time.perf_counter() - start)
            times[name].append(best / repeat)
        if rival is not None:
            for _ in range(inner):
                rival.run()
    out = {name: np.array(t) for name, t in times.items()}
    if rival is not None:
        out["onnxruntime"] = rival.seconds(inner)[1:]
    return out


def _once(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return max(1e-7, time.perf_counter() - start)


def main() -> None:
    """Measure all cases and print a line for each."""
    parser = case_arguments(__doc__, 21)
    given = parser.parse_args()
    target = target_of(given)
    print(f"{target}, one thread, float32; ratios: how many times as fast as the other")
    print(f"{'case':32} {'us':>9} {'GB/s':>6} {'GFLOP/s':>8}  {'to a copy':>22}  {'to onnxruntime':>22}")
    rows = []
    for make in CASES:
        case = make()
        if given.only not in case.name:
            continue
        times = measure(case, target, given.rounds)
        own = times["fusec"]
        median = float(np.median(own))
        line = f"{case.name:32} {median * 1e6:9.1f} {case.moved / median / 1e9:6.1f} {case.flops / median / 1e9:8.1f}"
        ratios = {n: quantiles(times[n], own) for n in ("copy", "onnxruntime") if n in times}
        print(line, *(f" {spread(ratios.get(n)):>22}" for n in ("copy", "onnxruntime")), flush=True)
        rows.append({"case": case.name, "seconds": median, "bytes": case.moved, "flops": case.flops, "ratios": ratios})
    if given.save:
        save_records(given.save, rows, target=str(target))


if __name__ == "__main__":
    main()
