"""Convolutions as models of their own, with bias and relu: what a user gets, against onnxruntime and OpenVINO.

    python -m bench.conv_models [--threads 1,2] [--rounds 15] [--only TEXT] [--save FILE.json]

Images come and go channels-first, so each runtime pays for the layout that it prefers; fusec compiles as it always does, with
Winograd's transforms where they win. bench/conv.py times the kernels alone. Outputs are compared first; rounds are
interleaved, and a ratio above 1 means that fusec is faster.
"""

# ruff: noqa: E402 - the variables must be set before numpy is imported
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

import fusec
from bench.conv import model_of
from bench.conv_cases import CASES, Convolution
from bench.kernels import case_arguments
from bench.machine import machine
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.measure.rivals import onnxruntime_subject, openvino_subject
from fusec.measure.rounds import geometric_mean, measure

TOLERANCE = 1e-4
"""Of the largest element: Winograd's transforms cost two digits of float32 (docs/numerics.md)."""


def row(case: Convolution, threads: int, rounds: int) -> dict[str, Any]:
    """One convolution: microseconds of fusec, and the ratios to the others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, case.c, *case.size), dtype=np.float32)
    w = rng.standard_normal((case.o, case.c // case.groups, *case.kernel), dtype=np.float32)
    w /= np.float32((w.size / case.o) ** 0.5)
    model, feeds = model_of(case, x, w, rng.standard_normal(case.o, dtype=np.float32)), {"x": x}
    session = fusec.compile(model, threads=threads)
    subjects = {"fusec": lambda: session.run_list(feeds), "onnxruntime": onnxruntime_subject(model, feeds, threads)}
    if find_spec("openvino"):
        subjects["openvino"] = openvino_subject(model, feeds, threads)
    (own,) = subjects["fusec"]()
    for name in list(subjects)[1:]:
        (want,) = subjects[name]()
        error = float(np.abs(own - want).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(want).max())):
            sys.exit(f"{case.name}: differs from {name} by {error}")
    samples = measure(subjects, rounds=rounds, warmup_seconds=0.02)
    return {
        "case": f"{case.name} {'x'.join(map(str, case.size))} {case.c} -> {case.o}",
        "threads": threads,
        "us": samples.percentile("fusec", 50) * 1e6,
        "winograd": any("winograd" in c.label for s in session.plan.steps for c in getattr(s, "calls", ())),
        **{f"vs_{n}": vars(samples.ratio(n, "fusec")) for n in list(subjects)[1:]},
    }


def main() -> None:
    """Measure, print and perhaps save."""
    parser = case_arguments(__doc__, 15)
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    rows = []
    for threads in map(int, given.threads.split(",")):
        for case in CASES:
            if given.only in case.name:
                rows.append(row(case, threads, given.rounds))
                print(f"  {rows[-1]['case']} on {threads} thread(s)", file=sys.stderr)
    rivals = sorted({k for r in rows for k in r if k.startswith("vs_")}, reverse=True)
    print_table(
        machine()["cpu"] + ": interleaved; a ratio above 1 means that fusec is faster",
        ["convolution", "threads", "fusec us", "winograd", *(k.removeprefix("vs_") for k in rivals)],
        [
            [
                r["case"],
                r["threads"],
                f"{r['us']:.1f}",
                "yes" if r["winograd"] else "",
                *(ratio_text(r[k]) for k in rivals),
            ]
            for r in rows
        ],
        "12",
    )
    for k in rivals:
        means = [r[k]["median"] for r in rows]
        print(f"{k.removeprefix('vs_')}: geometric mean {geometric_mean(means):.2f}x over {len(means)}")
    if given.save:
        save_records(given.save, rows, rounds=given.rounds)


if __name__ == "__main__":
    main()
