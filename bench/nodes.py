"""Single nodes as models of their own: fusec against onnxruntime, the slowest beside it first.

    python -m bench.nodes [--threads 1,2] [--rounds 15] [--only TEXT] [--below 0.95] [--save FILE.json] [FAMILY ...]

Outputs are compared first. Both run with the same number of threads, in interleaved rounds, onnxruntime at its best
settings and with the faster of two ways to pass arrays. A ratio above 1 means that fusec is faster; `fastest` is that of the
fastest rounds, which says more on a busy machine. `host` counts the host steps of a plan. --below prints only the rows with
a smaller ratio.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import sys
from typing import Any

import numpy as np

import fusec
from bench.machine import machine
from bench.node_cases import FAMILIES, Node
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.kernels.steps import HostStep
from fusec.measure.rivals import onnxruntime_subject
from fusec.measure.rounds import geometric_mean, measure


def check(case: Node, names: list[str], got: list[Any], want: list[Any]) -> None:
    """Exit where outputs differ: integers and bools must be equal, floats within the case's tolerance."""
    for name, a, b in zip(names, got, want, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            sys.exit(f"{case.name}: {name} is {a.dtype}{a.shape}, onnxruntime's {b.dtype}{b.shape}")
        if b.dtype.kind != "f":
            worst = float(np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0))
            is_code = b.dtype.itemsize == 1 and b.dtype.kind != "b"
            fits = worst <= is_code  # a code may be rounded the other way
        else:
            worst = float(np.abs(a - b).max(initial=0.0))
            fits = worst <= case.least * max(1.0, float(np.abs(b).max(initial=0.0)))
        if not fits:
            sys.exit(f"{case.name}: {name} differs from onnxruntime by {worst}")


def row(case: Node, threads: int, rounds: int) -> dict[str, Any]:
    """One node: microseconds of fusec, and the ratio to onnxruntime."""
    data, feeds = case.model()
    session = fusec.compile(data, threads=threads)
    names = [f"y{i}" for i in range(case.outputs)]
    rival = onnxruntime_subject(data, feeds, threads)
    check(case, names, session.run_list(feeds, names), rival())
    samples = measure(
        {"fusec": lambda: session.run_list(feeds, names), "onnxruntime": rival}, rounds=rounds, warmup_seconds=0.02
    )
    return {
        "node": case.name,
        "threads": threads,
        "host": sum(isinstance(s, HostStep) for s in session.plan.steps),
        "us": samples.percentile("fusec", 50) * 1e6,
        "fastest": float(samples.row("onnxruntime").min() / samples.row("fusec").min()),
        "vs_onnxruntime": vars(samples.ratio("onnxruntime", "fusec")),
    }


def main() -> None:
    """Measure, print the slowest first, and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", metavar="TEXT", help="only nodes with it in their name")
    parser.add_argument("--below", type=float, default=float("inf"), metavar="RATIO")
    parser.add_argument("--save", default=None, metavar="FILE.json")
    given = parser.parse_args()
    if unknown := set(given.families) - set(FAMILIES):
        sys.exit(f"unknown families: {', '.join(sorted(unknown))}; known are {', '.join(FAMILIES)}")
    cases = [c for f in given.families or FAMILIES for c in FAMILIES[f]() if given.only in c.name]
    rows = []
    for threads in map(int, given.threads.split(",")):
        for case in cases:
            rows.append(row(case, threads, given.rounds))
            print(f"  {case.name} on {threads} thread(s): {rows[-1]['vs_onnxruntime']['median']:.2f}x", file=sys.stderr)
    rows.sort(key=lambda r: float(r["vs_onnxruntime"]["median"]))
    print_table(
        machine()["cpu"] + ": interleaved; a ratio above 1 means that fusec is faster",
        ["node", "threads", "host", "fusec us", "onnxruntime", "fastest"],
        [
            [
                r["node"],
                r["threads"],
                r["host"],
                f"{r['us']:.1f}",
                ratio_text(r["vs_onnxruntime"]),
                f"{r['fastest']:.2f}x",
            ]
            for r in rows
            if r["vs_onnxruntime"]["median"] < given.below
        ],
        "12345",
    )
    if rows:
        mean = geometric_mean([r["vs_onnxruntime"]["median"] for r in rows])
        print(f"geometric mean {mean:.2f}x over {len(rows)}")
    if given.save:
        save_records(given.save, rows, rounds=given.rounds)


if __name__ == "__main__":
    main()
