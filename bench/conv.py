"""Convolutions on one core: this compiler's kernels against the nodes of onnxruntime and OpenVINO, interleaved.

    python -m bench.conv [--rounds N] [--level avx2] [--only TEXT] [--rows ROWS] [--save FILE.json]

Images are channels-last for fusec; the others choose their own blocked layouts. They are timed by their own profilers,
the convolution with its bias and relu alone, so without the reordering around it. Outputs are compared first. Each round
runs every contender three times, in turn, and keeps the fastest; a ratio is the median over rounds of the ratio within a
round, with the 10th and 90th percentile, then that of the fastest rounds: a busy machine shows in their distance. More
than 1 is better for fusec; `peak` is the share of the measured FMA peak.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.conv_cases import CASES, Convolution
from bench.gemm import aligned, kernel_call
from bench.kernels import case_arguments, quantiles, spread, target_of
from bench.peak import peak, peak_flops
from bench.store import save_records
from fusec.ir.dim import evaluate
from fusec.kernels.kernel import Kernel
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

RUNS = 3


class Rival(Protocol):
    """Another runtime: runs, and tells afterwards how long the convolution took in each run."""

    def run(self) -> Any:
        """The output, channels first."""

    def seconds(self) -> Any:
        """Seconds of the convolution in each run so far, and the end of it."""


def ours(case: Convolution, target: Target, arrays: dict[str, Any], rows: int) -> tuple[Callable[[], None], Any]:
    """A closure that runs the kernel once, and its output. Sizes are parameters of the kernel, as in models."""
    program, params = parse_program(case.text()), case.params
    kernel = choose(menu(program, target, [params]), params)
    if rows and kernel.tiling.stages[0].template == "contract":
        stages = (replace(kernel.tiling.stages[0], rows=rows),)
        kernel = Kernel(kernel.program, replace(kernel.tiling, stages=stages))
    memory: dict[str, Any] = {}
    for name, value in arrays.items():
        shape = [evaluate(d, params) for d in program.operand[name].shape]
        packed = np.ascontiguousarray(kernel.layouts[name].pack(value.reshape(shape))).reshape(-1)
        memory[name] = aligned(packed.size)
        memory[name][:] = packed
    y = aligned(int(np.prod(case.out)) * case.o)
    return kernel_call(kernel, target, params, memory | {"y": y}), y.reshape(*case.out, case.o)


def model_of(case: Convolution, x: Any, w: Any, bias: Any) -> bytes:
    """Convolution and relu as ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    conv = helper.make_node(
        "Conv", ["x", "w", "b"], ["c"], strides=[case.stride] * len(case.size), pads=case.pads, group=case.groups,
        dilations=[case.dilation] * len(case.size),
    )  # fmt: skip
    graph = helper.make_graph(
        [conv, helper.make_node("Relu", ["c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, case.o, *case.out))],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class OnnxRuntime:
    """One thread, the profiler on."""

    def __init__(self, model: bytes, x: Any) -> None:
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.log_severity_level = 3
        self.folder = tempfile.TemporaryDirectory()
        options.profile_file_prefix = str(Path(self.folder.name) / "profile")
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.x = x

    def run(self) -> Any:
        """See Rival."""
        return self.session.run(None, {"x": self.x})[0]

    def seconds(self) -> Any:
        """See Rival."""
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        names = [n for n in dict.fromkeys(e["name"] for e in nodes) if not n.startswith("Reorder")]
        return np.sum([[e["dur"] * 1e-6 for e in nodes if e["name"] == n] for n in names], axis=0)


class OpenVino:
    """One thread, float32 forced, counters on."""

    def __init__(self, model: bytes, x: Any) -> None:
        ov = import_module("openvino")
        core = ov.Core()
        told = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERF_COUNT": True}
        self.request = core.compile_model(core.read_model(model), "CPU", told).create_infer_request()
        self.request.set_input_tensor(ov.Tensor(x))
        self.found: list[float] = []

    def run(self) -> Any:
        """See Rival."""
        self.request.infer()
        nodes = [n for n in self.request.get_profiling_info() if "Convolution" in n.node_type]
        self.found.append(sum(n.real_time.total_seconds() for n in nodes))
        return self.request.get_output_tensor().data

    def seconds(self) -> Any:
        """See Rival."""
        return np.array(self.found)


def rivals_of(model: bytes, x: Any) -> dict[str, Rival]:
    """Those that are installed."""
    known: dict[str, Callable[[bytes, Any], Rival]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
    return {name: make(model, x) for name, make in known.items() if find_spec(name)}


def measure(case: Convolution, target: Target, rounds: int, rows: int) -> dict[str, Any]:
    """Compare outputs, then seconds per round of the kernel, the peak and the rivals."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, case.c, *case.size), dtype=np.float32)
    w = rng.standard_normal((case.o, case.c // case.groups, *case.kernel), dtype=np.float32)
    w /= np.float32((w.size / case.o) ** 0.5)
    bias = rng.standard_normal(case.o, dtype=np.float32)
    run, y = ours(case, target, {**case.operands(x, w), "b": bias}, rows)
    run()
    rivals = rivals_of(model_of(case, x, w, bias), x)
    for name, rival in rivals.items():
        want = np.moveaxis(rival.run()[0], 0, -1)
        error = float(np.abs(y - want).max(initial=0.0))
        if not error <= 1e-4 * max(1.0, float(np.abs(want).max())):
            sys.exit(f"{case.name}: differs from {name} by {error}")
    roof = peak(target, case.flops)
    subjects = {"fusec": run, "peak": roof, **{name: r.run for name, r in rivals.items()}}
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            times[name] += [timed(subject) for _ in range(RUNS)]
    found = {name: np.array(t) for name, t in times.items()}
    found |= {name: rival.seconds()[1:] for name, rival in rivals.items()}
    out = {name: t.reshape(rounds, RUNS).min(1) for name, t in found.items()}
    out["peak"] *= case.flops / peak_flops(target, case.flops)
    return out


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure all cases and print a line for each."""
    parser = case_arguments(__doc__, 15)
    parser.add_argument("--rows", type=int, default=0)
    given = parser.parse_args()
    target = target_of(given)
    print(f"{target}, one thread, float32; ratios: how many times as fast as the other")
    print(f"{'case':40} {'us':>8} {'GFLOP/s':>8} {'peak':>5}  {'to onnxruntime':>22}  {'to openvino':>22}")
    rows = []
    for case in CASES:
        name = f"{case.name} {'x'.join(map(str, case.size))} {case.c} -> {case.o}"
        if given.only not in name:
            continue
        times = measure(case, target, given.rounds, given.rows)
        own = times["fusec"]
        median = float(np.median(own))
        ratios = {n: quantiles(t, own) for n, t in times.items() if n != "fusec"}
        line = f"{name:40} {median * 1e6:8.1f} {case.flops / median / 1e9:8.1f} {100 * ratios['peak'][1]:4.0f}%"
        print(line, *(f" {spread(ratios.get(n)):>22}" for n in ("onnxruntime", "openvino")), flush=True)
        rows.append({"case": name, "seconds": median, "flops": case.flops, "ratios": ratios})
    if given.save:
        save_records(given.save, rows, target=str(target))


if __name__ == "__main__":
    main()
