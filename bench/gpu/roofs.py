"""What a device can do at best: copying, arithmetic, tensor cores; and what waiting costs: hand-over, grid barrier, launch.

Each probe is a kernel of a few lines over the primitives that generated kernels use, so its number is what those could reach.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.gpu.lab import Lab
from bench.gpu.rivals import cublas
from fusec.kernels.cuda.abi import THREADS
from fusec.kernels.cuda.device import Launch, Memory, Module

COPY = """
struct arguments { const fx_vector<float, 4>* from; fx_vector<float, 4>* to; long long count; };
FX_KERNEL(probe)(arguments* a) {
    const fx_vector<float, 4>* from = a->from;
    fx_vector<float, 4>* to = a->to;
    const long long count = a->count, step = (long long)fx_blocks() * FX_THREADS;
    long long i = (long long)fx_block() * FX_THREADS + fx_thread();
    for (; i + 3 * step < count; i += 4 * step) {
        fx_vector<float, 4> x[4];
        FX_UNROLL for (int k = 0; k < 4; k++) x[k] = from[i + k * step];
        FX_UNROLL for (int k = 0; k < 4; k++) to[i + k * step] = x[k];
    }
    for (; i < count; i += step) to[i] = from[i];
}
"""
READ = """
struct arguments { const fx_vector<float, 4>* from; float* to; long long count; };
FX_KERNEL(probe)(arguments* a) {
    const fx_vector<float, 4>* from = a->from;
    const long long count = a->count, step = (long long)fx_blocks() * FX_THREADS;
    const long long first = (long long)fx_block() * FX_THREADS + fx_thread();
    long long i = first;
    float sum[4] = {0, 0, 0, 0};
    for (; i + 3 * step < count; i += 4 * step) {
        fx_vector<float, 4> x[4];
        FX_UNROLL for (int k = 0; k < 4; k++) x[k] = from[i + k * step];
        FX_UNROLL for (int k = 0; k < 4; k++)
            FX_UNROLL for (int j = 0; j < 4; j++) sum[j] += x[k].at[j];
    }
    for (; i < count; i += step)
        FX_UNROLL for (int j = 0; j < 4; j++) sum[j] += from[i].at[j];
    a->to[first] = sum[0] + sum[1] + sum[2] + sum[3];
}
"""
ARITHMETIC = """
struct arguments { float* to; long long count; };
FX_KERNEL(probe)(arguments* a) {
    float x[16];
    const float y = 1.0f + 1e-7f * fx_thread(), z = 1e-9f;
    FX_UNROLL for (int k = 0; k < 16; k++) x[k] = (float)k;
    const long long count = a->count;
    for (long long i = 0; i < count; i++)
        FX_UNROLL for (int k = 0; k < 16; k++) x[k] = x[k] * y + z;
    float sum = 0;
    FX_UNROLL for (int k = 0; k < 16; k++) sum += x[k];
    a->to[(long long)fx_block() * FX_THREADS + fx_thread()] = sum;
}
"""
HAND_OVER = """
// Two blocks take turns: each waits for the other's counter, then announces on its own.
struct arguments { fx_u64* counters; const int* abort; long long count; };
FX_KERNEL(probe)(arguments* a) {
    const int other = 1 - fx_block();
    for (long long i = 0; i < a->count; i++) {
        if (fx_thread() == 0) fx_wait(a->counters + other * FX_LINE, i + other, a->abort);
        fx_barrier();
        fx_publish(a->counters + fx_block() * FX_LINE);
    }
}
"""
BARRIER = """
// All blocks announce on one counter and wait for all others.
struct arguments { fx_u64* counters; const int* abort; long long count; };
FX_KERNEL(probe)(arguments* a) {
    for (long long i = 1; i <= a->count; i++) {
        fx_publish(a->counters);
        if (fx_thread() == 0) fx_wait(a->counters, i * fx_blocks(), a->abort);
        fx_barrier();
    }
}
"""
NOTHING = "FX_KERNEL(probe)(long long* a) { if (fx_thread() == 0 && fx_block() == 0) a[0] += 1; }\n"


@dataclass(frozen=True)
class Sizes:
    """How much the probes do."""

    copied: int = 1 << 30
    steps: int = 20_000
    turns: int = 20_000
    launches: int = 200
    rounds: int = 15

    @staticmethod
    def small() -> Sizes:
        """For the emulator."""
        return Sizes(1 << 16, 8, 6, 4, 2)


def roofs(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    """Every roof: number, unit, and the spread of its rounds. The best round counts, for neighbours only slow it down."""
    probes: dict[str, Callable[[Lab, Sizes], dict[str, Any]]] = {
        "copy": _copy,
        "read": _read,
        "float32 multiply-add": _arithmetic,
        "hand-over between blocks": _hand_over,
        "grid barrier": _barrier,
        "launch, queued": _launch_queued,
        "launch and wait": _launch_waited,
        "launch in a graph": _launch_graph,
    }
    out = {name: probe(lab, sizes) for name, probe in probes.items()}
    return out | _library_roofs(lab, sizes)


def _blocks(lab: Lab, module: Module) -> int:
    return lab.device.resident(module, 0)


def _told(work: float, seconds: list[float], unit: str, scale: float) -> dict[str, Any]:
    """A rate: the best round's, and the median's."""
    best, middle = work / min(seconds) / scale, work / statistics.median(seconds) / scale
    return {"value": best, "median": middle, "unit": unit, "rounds": len(seconds)}


def _cost(seconds: list[float], count: int) -> dict[str, Any]:
    """Microseconds of each of `count` things."""
    each = [s / count * 1e6 for s in seconds]
    return {"value": min(each), "median": statistics.median(each), "unit": "us", "rounds": len(each)}


def _copy(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    array = np.arange(sizes.copied // 4, dtype=np.float32)
    source, target = lab.memory(array), lab.device.allocate(sizes.copied)
    arguments = lab.words(source.address, target.address, sizes.copied // 16)
    seconds = _run(lab, COPY, arguments, sizes.rounds)
    if not np.array_equal(lab.read(target, np.float32), array):
        raise SystemExit("the copy probe copied wrongly")
    return _told(2 * sizes.copied, seconds, "GB/s", 1e9)


def _read(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    source = lab.memory(np.ones(sizes.copied // 4, np.float32))
    module = lab.build(READ, "probe")
    blocks = _blocks(lab, module)
    sums = lab.memory(np.zeros(blocks * THREADS, np.float32))
    arguments = lab.words(source.address, sums.address, sizes.copied // 16)
    seconds = lab.best(lambda: lab.device.launch(module, arguments.address, blocks, 0), sizes.rounds)
    if lab.read(sums, np.float32).sum(dtype=np.float64) != sizes.copied // 4:
        raise SystemExit("the read probe read wrongly")
    return _told(sizes.copied, seconds, "GB/s", 1e9)


def _arithmetic(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    module = lab.build(ARITHMETIC, "probe")
    blocks = _blocks(lab, module)
    sums = lab.device.allocate(blocks * THREADS * 4)
    arguments = lab.words(sums.address, sizes.steps)
    seconds = lab.best(lambda: lab.device.launch(module, arguments.address, blocks, 0), sizes.rounds)
    return _told(2.0 * 16 * sizes.steps * blocks * THREADS, seconds, "TFLOP/s", 1e12)


def _run(lab: Lab, text: str, arguments: Memory, rounds: int) -> list[float]:
    module = lab.build(text, "probe")
    return lab.best(lambda: lab.device.launch(module, arguments.address, _blocks(lab, module), 0), rounds)


def _counted(lab: Lab, sizes: Sizes, text: str, blocks: Callable[[Module], int]) -> list[float]:
    """Seconds of probes whose counters must start at zero each time."""
    module, seconds = lab.build(text, "probe"), list[float]()
    for _ in range(sizes.rounds + 1):
        counters = lab.memory(np.zeros(32, np.int64))
        arguments = lab.words(counters.address, lab.device.abort_address, sizes.turns)
        lab.device.synchronise()
        seconds.append(
            lab.seconds(lambda a=arguments.address: lab.device.launch(module, a, blocks(module), 0))  # type: ignore[misc]
        )
    return seconds[1:]


def _hand_over(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    return _cost(_counted(lab, sizes, HAND_OVER, lambda _: 2), 2 * sizes.turns)


def _barrier(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    found = _cost(_counted(lab, sizes, BARRIER, lambda m: _blocks(lab, m)), sizes.turns)
    return found | {"blocks": _blocks(lab, lab.build(BARRIER, "probe"))}


def _nothing(lab: Lab) -> tuple[Module, Memory, int]:
    module = lab.build(NOTHING, "probe")
    return module, lab.words(0), _blocks(lab, module)


def _launch_queued(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    """One after the other without waiting: what the device needs for each."""
    module, word, blocks = _nothing(lab)

    def many() -> None:
        for _ in range(sizes.launches):
            lab.device.launch(module, word.address, blocks, 0)

    return _cost(lab.best(many, sizes.rounds), sizes.launches)


def _launch_waited(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    """What the host waits for a launch that does nothing."""
    module, word, blocks = _nothing(lab)
    seconds = []
    for _ in range(sizes.launches):
        start = time.perf_counter()
        lab.device.launch(module, word.address, blocks, 0)
        lab.device.synchronise()
        seconds.append(time.perf_counter() - start)
    return _cost(seconds, 1)


def _launch_graph(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    """What each launch of a graph of many costs the device."""
    module, word, blocks = _nothing(lab)
    graph = lab.device.capture([Launch(module, word.address, blocks, 0)] * sizes.launches)
    return _cost(lab.best(graph.replay, sizes.rounds), sizes.launches)


def _library_roofs(lab: Lab, sizes: Sizes) -> dict[str, Any]:
    """What cuBLAS reaches, where there is a GPU: the yardstick for tensor cores."""
    out: dict[str, Any] = {}
    for dtype in () if lab.emulated else ("bfloat16", "float32"):
        n = 8192
        found = cublas(n, n, n, dtype)
        if found is not None:
            found.run()
            out[f"cuBLAS {dtype} {n}"] = _told(
                2.0 * n**3, [_wall(found.run) for _ in range(sizes.rounds)], "TFLOP/s", 1e12
            )
    return out


def _wall(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
