"""Loops: bodies as plans against onnxruntime, and against the reference implementation that would run them otherwise.

    python -m bench.loops [--threads 1,2] [--rounds N] [--save FILE.json] [NAME ...]

Interleaved rounds in one process; outputs are compared with onnxruntime first. `turn` is the time of one turn; the compile
of the bodies, which happens in the first run, is not timed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import fusec
from bench.machine import machine
from bench.models.loops import LOOPS
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.measure.accuracy import compare
from fusec.measure.rivals import onnxruntime_session, onnxruntime_subject
from fusec.measure.rounds import geometric_mean, measure
from fusec.runtime.session import Session

TOLERANCE = 1e-4


def row(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """One model on so many threads."""
    model, feeds = LOOPS[name]()
    session = fusec.compile(model, threads=threads)
    interpreted = Session(session.plan, threads=threads)
    names = [v.name for v in session.outputs]
    want = onnxruntime_session(model, threads).run(names, feeds)
    for d in compare(names, session.run_list(feeds, names), want):
        if not d.passes(TOLERANCE):
            raise SystemExit(f"{name}: {d.name} differs from onnxruntime by {d.required}")
    (body,) = session.steps.bodies
    if body.why:
        raise SystemExit(f"{name}: the body is not compiled: {body.why}")
    turns = body.turns
    samples = measure(
        {
            "fusec": lambda: session.run_list(feeds, names),
            "again": lambda: session.run_list(feeds, names),
            "onnxruntime": onnxruntime_subject(model, feeds, threads),
            "interpreted": lambda: interpreted.run_list(feeds, names),
        },
        rounds=rounds,
    )
    return {
        "model": name,
        "threads": threads,
        "fusec_us": samples.percentile("fusec", 50) * 1e6,
        "turn us": samples.percentile("fusec", 50) * 1e6 / turns,
        **{f"vs_{n}": vars(samples.ratio(n, "fusec")) for n in ("onnxruntime", "interpreted", "again")},
    }


def main() -> None:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(map(repr, LOOPS))}")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--save", default=None, metavar="FILE.json")
    options = parser.parse_args()
    if unknown := set(options.names) - set(LOOPS):
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}; known are {', '.join(LOOPS)}")
    rows = [
        row(name, threads, options.rounds)
        for threads in map(int, options.threads.split(","))
        for name in options.names or LOOPS
    ]
    rivals = ("onnxruntime", "interpreted", "again")
    print_table(
        machine()["cpu"] + ": float32, interleaved; a ratio above 1 means that fusec is faster",
        ["model", "threads", "fusec us", "turn us", *(f"{n} / fusec" for n in rivals)],
        [
            [r["model"], r["threads"], f"{r['fusec_us']:.0f}", f"{r['turn us']:.1f}"]
            + [ratio_text(r[f"vs_{n}"]) for n in rivals]
            for r in rows
        ],
        "123456",
    )
    for rival in rivals:
        print(f"geometric mean, {rival}: {geometric_mean([r[f'vs_{rival}']['median'] for r in rows]):.2f}x")
    if options.save:
        save_records(options.save, rows, rounds=options.rounds)


if __name__ == "__main__":
    main()
