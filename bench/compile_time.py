"""How long does it take from a model to the first answer: cold, with a warm cache, and from a plan?

    python -m bench.compile_time [--runs 3] [--fresh] [NAME ...]

Every run is a fresh process; `ready` and `first answer` count from after `import fusec`, as a server that is already up
sees it. Results go to bench/results/compile.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.cases import CASES, arguments, to_measure
from bench.store import FOLDER, Table

FILE = FOLDER / "compile.json"
DEFAULT = ("resnet50", "bert_base", "mobilenet_v2", "detector", "gpt2_prompt", "lstm_stack", "ppocrv4_rec", "minilm")
LIMITS = {"resnet50": 10.0, "bert_base": 6.0}
"""Seconds that a cold compile may take."""
KINDS = ("cold", "warm", "plan")
PROGRAM = """
import sys, time, json, numpy as np
import fusec, fusec.api
kind, path = sys.argv[1:3]
feeds = dict(np.load(sys.argv[3]))
t0 = time.perf_counter()
session = fusec.load(path, threads=1) if kind == "plan" else fusec.compile(path, threads=1)
t1 = time.perf_counter()
session.run(feeds)
t2 = time.perf_counter()
if kind == "cold":
    from fusec.plan.file import save
    save(session.plan, sys.argv[4], force=True)
print(json.dumps([t1 - t0, t2 - t0]))
"""


def times(name: str, runs: int) -> dict[str, Any]:
    """Of every kind the seconds until a session is ready and until the first answer, a list entry per process."""
    import numpy as np

    made, feeds = CASES[name].make()
    out: dict[str, Any] = {kind: {"ready": [], "first": []} for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        model, plan, inputs = (Path(folder) / n for n in ("m.onnx", "m.fplan", "inputs.npz"))
        model.write_bytes(made)
        np.savez(inputs, **feeds)
        for kind in KINDS:
            for i in range(runs):
                source = plan if kind == "plan" else model
                command = [sys.executable, "-c", PROGRAM, kind, *map(str, (source, inputs, plan))]
                cache = Path(folder) / (f"cache{i}" if kind == "cold" else "cache0")
                environ = {**os.environ, "FUSEC_CACHE_DIR": str(cache)}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
                ready, first = json.loads(done.stdout)
                out[kind]["ready"].append(round(ready, 3))
                out[kind]["first"].append(round(first, 3))
    return out


def main() -> None:
    """Measure what is missing and print medians of several fresh processes."""
    parser = arguments(__doc__, FILE, f"by default {', '.join(DEFAULT)}")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    table = Table(options.save, "From a model to the first answer", "python -m bench.compile_time", options.fresh)
    for name in to_measure(options.names, DEFAULT, table.cases):
        told = times(name, options.runs)
        table.add(name, told | {"limit": LIMITS.get(name)})
        for kind in KINDS:
            first = told[kind]["first"]
            ready, middle = statistics.median(told[kind]["ready"]), statistics.median(first)
            spread = f"{min(first):.2f} .. {max(first):.2f} over {len(first)} processes"
            print(f"{name}, {kind}: ready {ready:.2f} s, first answer {middle:.2f} s ({spread})", flush=True)


if __name__ == "__main__":
    main()
