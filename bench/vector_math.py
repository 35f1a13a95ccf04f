"""The error of a vectorised function over all 2^32 float32 values, on the code that kernels contain.

    python -m bench.vector_math [exp tanh ...] [--level avx2] [--step K] [--save FILE.json]

The reference is numpy in float64 (for erf this compiler's own float64 code, whose error is far below a unit of float32).
Prints the largest error in units of the last place, where it is, how many results are exactly rounded, special values
that are wrong, and the time per value. With --step K only every K-th bit pattern is tried.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.gemm import aligned
from bench.kernels import arguments, target_of
from bench.nests import kernel_call
from bench.store import save_records
from fusec.kernels.kernel import Kernel, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.text import parse_program

CHUNK = 1 << 21
PROGRAM = """
program function(I)
task i: I
input x: {t}[I]
output y: {t}[I]
stage i
  y[i] = {value}
"""
BODIES = {
    f: f"{f}(x[i])" for f in "exp log tanh erf sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt".split()
}
REFERENCE: dict[str, Callable[[Any], Any]] = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh,
    **{f: getattr(np, f) for f in "exp log tanh sin cos tan sinh cosh sqrt".split()},
}  # fmt: skip
"""In float64; functions that are missing here are computed by our own float64 code."""


def compiled(name: str, dtype: str, target: Target) -> tuple[Callable[[], None], Any, Any]:
    """A closure that computes one chunk, its argument and its result."""
    kernel = Kernel(parse_program(PROGRAM.format(t=dtype, value=BODIES[name])), Tiling((), (StageTiling("nest", "i"),)))
    x, y = (
        aligned(CHUNK * (2 if dtype == "f64" else 1)).view(np.float64 if dtype == "f64" else np.float32) for _ in "xy"
    )
    return kernel_call(kernel, target, {"I": CHUNK}, {"x": x, "y": y}, {}), x, y


def errors(got: Any, expected: Any) -> tuple[Any, Any]:
    """Errors in units of the last place of the rounded reference, and where one is special and the other is not."""
    rounded = expected.astype(np.float32)
    size = np.abs(rounded)
    unit = np.spacing(np.minimum(size, np.float32(3.4028235e38))).astype(np.float64)
    plain = np.isfinite(rounded) & np.isfinite(got)
    error = np.where(plain, np.abs(got.astype(np.float64) - expected) / unit, 0.0)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    edge = np.isfinite(expected) & (np.abs(expected) > 3.4028e38)  # next to the largest value one may be infinite
    return error, ~plain & ~same & ~edge


def sweep(name: str, target: Target, step: int, report: bool = True) -> dict[str, Any]:
    """Run over all bit patterns, or every `step`-th."""
    run, x, y = compiled(name, "f32", target)
    wide = None if name in REFERENCE else compiled(name, "f64", target)
    total = (1 << 32) // step
    worst, where, exact, wrong, busy, slow = 0.0, 0.0, 0, 0, 0.0, 0.0
    started, shown = time.perf_counter(), 0.0
    for first in range(0, total, CHUNK):
        bits = (np.arange(first, first + CHUNK, dtype=np.uint64) * step).astype(np.uint32)
        x[:] = bits.view(np.float32)
        start = time.perf_counter()
        run()
        spent = time.perf_counter() - start
        busy, slow = busy + spent, max(slow, spent)
        with np.errstate(all="ignore"):
            if wide is None:
                expected = REFERENCE[name](x.astype(np.float64))
            else:
                wide[1][:] = x
                wide[0]()
                expected = wide[2]
            error, bad = errors(y, expected)
            exact += int((error <= 0.5).sum())
        k = int(np.argmax(error))
        if error[k] > worst:
            worst, where = float(error[k]), float(x[k])
        if bad.any() and wrong == 0:
            k = int(np.argmax(bad))
            print(f"{name}({x[k]!r}) = {y[k]!r}, expected {expected[k]!r}", file=sys.stderr)
        wrong += int(bad.sum())
        now = time.perf_counter() - started
        if report and now - shown > 10.0:
            shown = now
            print(f"  {name}: {first / total:4.0%}, {worst:.3f} ulp so far", file=sys.stderr, flush=True)
    count = -(-total // CHUNK) * CHUNK
    return {
        "function": name, "target": str(target), "values": count, "max_ulp": worst, "at": where, "rounded": exact / count,
        "wrong": wrong, "ns": busy / count * 1e9, "slowest_chunk_ns": slow / CHUNK * 1e9,
    }  # fmt: skip


def main() -> None:
    """Sweep the functions that are named, or all."""
    parser = arguments(__doc__)
    parser.add_argument("functions", nargs="*", metavar="FUNCTION", help=f"of {', '.join(BODIES)}")
    parser.add_argument("--step", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.functions) - set(BODIES):
        sys.exit(f"unknown functions: {', '.join(sorted(unknown))}; known are {', '.join(BODIES)}")
    target = target_of(given)
    head = f"{'function':9} {'values':>12} {'max ulp':>8} {'at':>16} {'rounded':>8} {'wrong':>6} {'ns':>7}"
    print(f"{target}; {head} {'slowest':>8}")
    rows = []
    for name in given.functions or BODIES:
        r = sweep(name, target, given.step)
        rows.append(r)
        line = f"{r['values']:12} {r['max_ulp']:8.3f} {r['at']:16.9g} {r['rounded']:8.2%} {r['wrong']:6} {r['ns']:7.3f}"
        print(f"{'':{len(str(target)) + 1}} {name:9} {line} {r['slowest_chunk_ns']:8.3f}", flush=True)
    if given.save:
        save_records(given.save, rows)


if __name__ == "__main__":
    main()
