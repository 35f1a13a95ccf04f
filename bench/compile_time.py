"""How long does it take from a model to the first answer: cold, with a warm cache, and from a plan?

    python -m bench.compile_time [--runs 3] [NAME]

Every run is a fresh process; `compile` and `load` count from after `import fusec`, as a server that is already up sees it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.models.architectures import ARCHITECTURES

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


def main() -> None:
    """Print medians of several fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="minilm_size", choices=sorted(ARCHITECTURES))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    import numpy as np
    import onnx

    built = ARCHITECTURES[options.name]()
    with tempfile.TemporaryDirectory() as folder:
        model, plan, inputs = (Path(folder) / n for n in ("m.onnx", "m.fplan", "inputs.npz"))
        onnx.save(built.model(), model)
        np.savez(inputs, **built.feeds)
        for kind in ("cold", "warm", "plan"):
            times = []
            for i in range(options.runs):
                cache = Path(folder) / (f"cache{i}" if kind == "cold" else "cache0")
                command = [
                    sys.executable,
                    "-c",
                    PROGRAM,
                    kind,
                    str(plan if kind == "plan" else model),
                    str(inputs),
                    str(plan),
                ]
                done = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "FUSEC_CACHE_DIR": str(cache)},
                )
                times.append(json.loads(done.stdout))
            ready, first = (statistics.median(t[i] for t in times) for i in (0, 1))
            spread = f"{min(t[1] for t in times):.2f} .. {max(t[1] for t in times):.2f}"
            told = f"ready {ready:.2f} s, first answer {first:.2f} s"
            print(f"{options.name}, {kind}: {told} ({spread} over {options.runs} processes)")


if __name__ == "__main__":
    main()
