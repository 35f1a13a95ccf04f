"""Interleaved timing: in every round each subject runs once, in random order, so that drift hits all alike.

Timing one subject after the other is worthless on a shared machine: the same program against itself gave ratios of medians
from 0.66 to 1.54, interleaved pairs 0.98 to 1.03 (two virtual cores, 30 runs each).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Subject = Callable[[], object]
LONG_SECONDS = 0.05
"""A run this long pays little for the caches that another subject left, so it is not repeated for that."""
SAMPLE_SECONDS = 0.002
"""A sample repeats its subject until it lasts about this long; much longer samples drift apart within a round."""


@dataclass(frozen=True)
class Ratio:
    """How many times slower one subject is than another: median over rounds and a 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Samples:
    """Seconds per call: one row per subject, one column per round."""

    names: tuple[str, ...]
    seconds: npt.NDArray[np.float64]

    def row(self, name: str) -> npt.NDArray[np.float64]:
        """All samples of a subject."""
        row: npt.NDArray[np.float64] = self.seconds[self.names.index(name)]
        return row

    def percentile(self, name: str, q: float) -> float:
        """A percentile of a subject's seconds per call."""
        return float(np.percentile(self.row(name), q))

    def ratio(self, slow: str, fast: str, seed: int = 0) -> Ratio:
        """t(slow) / t(fast), as the median of paired log-ratios; the interval resamples rounds 2,000 times."""
        logs = np.log(self.row(slow) / self.row(fast))
        draws = np.random.default_rng(seed).integers(0, len(logs), (2000, len(logs)))
        medians = np.median(logs[draws], axis=1)
        low, high = np.percentile(medians, [2.5, 97.5])
        return Ratio(float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high)))


def measure(
    subjects: Mapping[str, Subject],
    rounds: int = 40,
    warmup_seconds: float = 0.3,
    sample_seconds: float = SAMPLE_SECONDS,
    seed: int = 0,
    between: Callable[[int], None] | None = None,
) -> Samples:
    """Time all subjects in interleaved rounds, garbage collection off. `between` is called after each round, untimed."""
    names = tuple(subjects)
    best = {n: _least_seconds(subjects[n], warmup_seconds) for n in names}
    repeats = {n: max(1, int(sample_seconds / max(best[n], 1e-9))) for n in names}
    seconds = np.empty((len(names), rounds))
    order, collecting = np.random.default_rng(seed), gc.isenabled()
    gc.disable()
    try:
        for r in range(rounds):
            for i in order.permutation(len(names)):
                run, count = subjects[names[i]], repeats[names[i]]
                if best[names[i]] < LONG_SECONDS:
                    run()  # the first call after another subject pays for the caches that the other left
                start = time.perf_counter_ns()
                for _ in range(count):
                    run()
                seconds[i, r] = (time.perf_counter_ns() - start) / count * 1e-9
            if between is not None:
                between(r)
    finally:
        if collecting:
            gc.enable()
    return Samples(names, seconds)


def _least_seconds(run: Subject, warmup_seconds: float) -> float:
    """Warm a subject up; its least seconds per call."""
    end, best = time.perf_counter() + warmup_seconds, float("inf")
    for i in range(1_000_000):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        if i >= (2 if best < LONG_SECONDS else 1) and time.perf_counter() > end:
            break
    return best


def geometric_mean(ratios: list[float]) -> float:
    """The geometric mean; nan of nothing."""
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")
