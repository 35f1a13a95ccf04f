"""Where the time of large matrix products goes: every task timed by itself, what disturbed it left out, against the FMA peak.

    python -m bench.gemm_tasks [--rounds N] [--level avx2] [--save FILE.json] [MxKxN ...]

A product of 25 ms is interrupted, and others empty its caches; a task of 0.1 ms mostly not. Of each task's times over the
rounds a low quantile is taken, and these are summed: 5 % is what the kernel does where nobody disturbs it, 50 % what it does
beside the processes of this moment. Pieces of the peak with as many operations as a task are timed in the same rounds, the same
way. `whole` times the same product as bench.gemm does, by the thread's own clock.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.gemm import GEMM, aligned, kernel_tiles
from bench.kernels import arguments, target_of
from bench.peak import peak, peak_flops
from bench.store import save_records
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import choose, menu

SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (128, 768, 3072), (512, 3072, 768)]
"""M, K, N."""
QUANTILES = (0.05, 0.25, 0.5)
PIECES = 20
"""Pieces of the peak per round."""


def shares(target: Target, shape: tuple[int, int, int], rounds: int) -> tuple[list[float], float]:
    """The share of the peak at each quantile, and of whole products."""
    m, k, n = shape
    params, rng = {"M": m, "K": k, "N": n}, np.random.default_rng(0)
    kernel = choose(menu(parse_program(GEMM), target, [params]), params)
    arrays: dict[str, Any] = {name: aligned(size) for name, size in (("x", m * k), ("y", m * n))}
    arrays["x"][:] = rng.standard_normal(m * k, np.float32)
    stored = kernel.layouts["w"].pack(rng.standard_normal((k, n), np.float32))
    arrays["w"] = aligned(stored.size)
    arrays["w"][:] = stored.reshape(-1)
    run, tiles = kernel_tiles(kernel, target, params, arrays)

    flops = 2.0 * m * k * n
    each, all_at_once = peak(target, flops / tiles), peak(target, flops)
    clock, own = time.perf_counter, time.thread_time
    tasks, pieces = np.zeros((rounds, tiles)), np.zeros((rounds, PIECES))
    whole, best = np.zeros(rounds), np.zeros(rounds)
    for r in range(rounds):
        for t in range(tiles):
            start = clock()
            run(t, 1)
            tasks[r, t] = clock() - start
        for p in range(PIECES):
            start = clock()
            each()
            pieces[r, p] = clock() - start
        start = own()
        run(0, tiles)
        whole[r] = own() - start
        start = own()
        all_at_once()
        best[r] = own() - start
    pieces *= flops / tiles / peak_flops(target, flops / tiles)
    best *= flops / peak_flops(target, flops)
    found = [tiles * np.quantile(pieces, q) / np.quantile(tasks, q, axis=0).sum() for q in QUANTILES]
    return [float(x) for x in found], float(np.median(best / whole))


def main() -> None:
    """Measure all shapes and print a line for each."""
    parser = arguments(__doc__)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    target, rows = target_of(given), list[dict[str, Any]]()
    print(f"{target}, float32, 1 thread; percent of the FMA peak")
    print(f"{'M x K x N':>18}" + "".join(f"{f'tasks, {q:.0%}':>12}" for q in QUANTILES) + f"{'whole':>8}")
    for m, k, n in [tuple(map(int, s.split("x"))) for s in given.shapes] or SHAPES:
        found, whole = shares(target, (m, k, n), given.rounds)
        print(f"{f'{m} x {k} x {n}':>18}" + "".join(f"{x:12.0%}" for x in found) + f"{whole:8.0%}", flush=True)
        shares_of = {f"tasks, {q:.0%}": x for q, x in zip(QUANTILES, found, strict=True)}
        rows.append({"shape": [m, k, n], **shares_of, "whole": whole})
    if given.save:
        save_records(given.save, rows, target=str(target))


if __name__ == "__main__":
    main()
