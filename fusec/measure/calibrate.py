"""Measuring what this machine can do at best: arithmetic, the bandwidth of every level, the cost of working together.

Probes run in interleaved rounds; the roof is the best round, because neighbours can only make a probe slower, and the
distance of the median from it is the noise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from fusec.cache import ObjectCache
from fusec.kernels.cpu import probe
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.load import Loaded, call, load
from fusec.kernels.kernel import Source
from fusec.measure.handover import team_costs
from fusec.measure.roofs import Level, Roofs, cpu_name
from fusec.runtime.code import driver_for
from fusec.runtime.memory import Block
from fusec.runtime.team import process_team
from fusec.target import Isa, Target

SAMPLE = 0.004
"""Seconds that one sample lasts at least."""
LARGEST = 256 << 20
"""Bytes of the array that stands for memory, where the caches are not larger still."""


class _Worker:
    """One worker's arrays and argument blocks; `run` calls release the interpreter lock."""

    def __init__(self, isa: Isa, size: int) -> None:
        self.memory = Block(size)
        self.memory.bytes[:] = 0  # touched, so that its pages exist
        self.scratch, self.slots = Block(64 * 32), Block(64)
        values = self.scratch.bytes.view(np.float32)
        values[:] = 0.5
        self._vector = isa.lanes * 4

    def prepare(self, size: int, copies: bool) -> None:
        """Point the slots at an array of so many bytes; a copy goes from its first half to its second."""
        part = size // 2 if copies else size
        self.slots.words[:3] = self.memory.address, part // self._vector, self.memory.address + part


class _Probes:
    """Compiled probes for workers 0 to `workers` - 1."""

    def __init__(self, target: Target, workers: int, size: int) -> None:
        isa = target.isa
        self._code = {
            s.entry: _load(s, target)
            for s in (probe.multiply_add(isa), probe.read(isa), probe.copy(isa), probe.empty())
        }
        self._workers = [_Worker(isa, size) for _ in range(workers)]
        self._flops = 2.0 * isa.lanes * probe.fma_chains(isa)

    @property
    def empty(self) -> int:
        """The address of a kernel that does nothing."""
        return self._code["probe_empty"].address

    def arithmetic(self, workers: int, repeats: int) -> tuple[float, float]:
        """(operations, seconds)."""
        return workers * repeats * self._flops, self._timed("probe_fma", workers, repeats)

    def bandwidth(self, name: str, size: int, workers: int, repeats: int) -> tuple[float, float]:
        """(bytes, seconds) of reading or copying arrays of `size` bytes, one for each worker."""
        for w in self._workers[:workers]:
            w.prepare(size, name == "probe_copy")
        return float(workers * repeats * size), self._timed(name, workers, repeats)

    def _timed(self, name: str, workers: int, repeats: int) -> float:
        code = self._code[name]

        def one(w: _Worker) -> None:
            call(code, w.slots.address, 0, repeats, w.scratch.address)

        if workers == 1:
            start = time.perf_counter()
            one(self._workers[0])
            return time.perf_counter() - start
        return _together([partial(one, w) for w in self._workers[:workers]])


def _together(calls: list[Callable[[], None]]) -> float:
    """Seconds from the first start to the last end of calls that begin at once, each in a thread of its own."""
    gate = threading.Barrier(len(calls))
    starts, ends = [0.0] * len(calls), [0.0] * len(calls)

    def body(i: int) -> None:
        gate.wait()
        starts[i] = time.perf_counter()
        calls[i]()
        ends[i] = time.perf_counter()

    threads = [threading.Thread(target=body, args=(i,)) for i in range(1, len(calls))]
    for t in threads:
        t.start()
    body(0)
    for t in threads:
        t.join()
    return max(ends) - min(starts)


def calibrate(
    target: Target,
    workers: int,
    cache: ObjectCache | None = None,
    rounds: int = 12,
    finished: Callable[[int], None] | None = None,
) -> Roofs:
    """Measure everything. `finished` is called after each round, untimed."""
    begun = time.perf_counter()
    sizes = level_sizes()
    probes = _Probes(target, workers, max(sizes.values()))
    cases: dict[tuple[object, ...], Callable[[int], tuple[float, float]]] = {}
    for n in dict.fromkeys((1, workers)):
        cases["fma", n] = partial(probes.arithmetic, n)
        for level, size in sizes.items():
            for name in ("probe_read", "probe_copy"):
                cases[level, name, n] = partial(probes.bandwidth, name, size, n)
    repeats = {key: _repeats(run) for key, run in cases.items()}
    rates: dict[tuple[object, ...], list[float]] = {key: [] for key in cases}
    for r in range(rounds):
        for key, run in cases.items():
            amount, seconds = run(repeats[key])
            rates[key].append(amount / seconds / 1e9)
        if finished is not None:
            finished(r)
    best = {key: max(values) for key, values in rates.items()}
    short = [1.0 - float(np.median(values)) / best[key] for key, values in rates.items()]
    costs = team_costs(driver_for(target, cache), process_team(), probes.empty, workers)
    levels = tuple(
        Level(level, size, *(best[level, name, n] for n in (1, workers) for name in ("probe_read", "probe_copy")))
        for level, size in sizes.items()
    )
    return Roofs(
        cpu=cpu_name(),
        target=str(target),
        workers=workers,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        fma=best["fma", 1],
        fma_all=best["fma", workers],
        levels=levels,
        handover=costs.handover if costs else 0.0,
        barrier=costs.barrier if costs else 0.0,
        launch=costs.launch if costs else 0.0,
        wake=costs.wake if costs else 0.0,
        noise=float(np.median(short)),
        seconds=time.perf_counter() - begun,
    )


def _repeats(run: Callable[[int], tuple[float, float]]) -> int:
    """How often a probe must repeat to last as long as a sample."""
    repeats = 1
    while True:
        _, seconds = run(repeats)
        if seconds >= SAMPLE or repeats >= 1 << 40:
            return repeats
        repeats = max(repeats + 1, int(repeats * min(16.0, 1.2 * SAMPLE / max(seconds, 1e-9))))


def level_sizes(root: Path = Path("/")) -> dict[str, int]:
    """Level -> bytes of the array that is measured for it: half of each cache of core 0, several times the last for memory."""
    caches: dict[int, int] = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((folder / n).read_text().strip() for n in ("type", "level", "size"))
            if kind != "Instruction" and size.endswith("K"):
                caches[int(level)] = int(size[:-1]) << 10
        except (OSError, ValueError):
            continue
    found = {f"L{n}": size // 2 for n, size in sorted((caches or {1: 32 << 10, 2: 512 << 10, 3: 16 << 20}).items())}
    unit = 64 * probe.GROUP * 2
    memory = min(max(4 * max(caches.values(), default=0), LARGEST // 4), LARGEST)
    return {n: s // unit * unit for n, s in found.items()} | {"memory": memory // unit * unit}


def _load(source: Source, target: Target) -> Loaded:
    return load(build(source, target, name=source.entry))
