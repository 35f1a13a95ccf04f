"""How fast is fusec beside onnxruntime and OpenVINO on whole models? One command for the whole table; losses included.

    python -m bench.performance [--threads 1,2] [--seconds 12] [--fresh] [--only TEXT] [NAME ...]

Every model has a process of its own, in which all runtimes are loaded and take turns: outputs are compared first, then
interleaved rounds are timed. Results go to bench/results/models.json after each model; the next run goes on where this
one stopped, thread counts included. `python -m bench.report` makes docs/performance.md of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from bench.cases import CASES, arguments, is_float32
from bench.store import FOLDER, Table

FILE = FOLDER / "models.json"
RIVALS = ("onnxruntime", "openvino")
TOLERANCE = {True: 1e-3, False: 5e-2}
"""What outputs may differ by, of 1 + their peak, by whether the model is float32 throughout: quantised ones flip roundings."""
TIMEOUT = 900


def measure_case(name: str, threads: list[int], seconds: float) -> dict[str, Any]:
    """All thread counts of one model, in this process."""
    import fusec

    model, feeds = CASES[name].make()
    plain = is_float32(model)
    out: dict[str, Any] = {"kind": CASES[name].kind, "float32": plain, "inputs": _shapes(feeds), "threads": {}}
    for count in threads:
        start = time.perf_counter()
        session = fusec.compile(model, threads=count, shapes={n: a.shape for n, a in feeds.items()})
        out.setdefault("compile_s", time.perf_counter() - start)
        out["host_steps"] = sum(not hasattr(s, "calls") for s in session.plan.steps)
        out["threads"][str(count)] = _compare(session, model, feeds, count, seconds, TOLERANCE[plain])
    return out


def _compare(session: Any, model: bytes, feeds: Any, threads: int, seconds: float, tolerance: float) -> dict[str, Any]:
    """One thread count: which rivals agree, and how their times compare, with the noise of fusec against itself."""
    from fusec.measure.accuracy import compare
    from fusec.measure.rivals import RIVALS as KNOWN
    from fusec.measure.rounds import measure

    names = [v.name for v in session.outputs]
    subjects: dict[str, Any] = dict.fromkeys(("fusec", "again"), lambda: session.run_list(feeds, names))
    got = subjects["fusec"]()
    out: dict[str, Any] = {"rivals": {}}
    for rival in RIVALS:
        try:
            call = KNOWN[rival][1](model, feeds, threads)
            differences = compare(names, got, call())
        except Exception as e:
            out["rivals"][rival] = {"refused": (str(e).strip().splitlines() or [type(e).__name__])[-1][:200]}
            continue
        worst = max((d.required for d in differences), default=0.0)
        out["rivals"][rival] = {"difference": worst}
        if worst <= tolerance:
            subjects[rival] = call
        else:
            out["rivals"][rival]["differs"] = next((d.problem for d in differences if d.problem), "")
    samples = measure(subjects, rounds=_rounds(subjects, seconds), warmup_seconds=0.2)
    out["rounds"] = samples.seconds.shape[1]
    out["seconds"] = samples.percentile("fusec", 50)
    out["noise"] = vars(samples.ratio("again", "fusec"))
    for rival in subjects.keys() - {"fusec", "again"}:
        out["rivals"][rival] |= {"seconds": samples.percentile(rival, 50), "ratio": vars(samples.ratio(rival, "fusec"))}
    return out


def _rounds(subjects: dict[str, Any], seconds: float) -> int:
    """As many rounds as fit into the time, between 9 and 60; short runs are repeated in a round."""
    start = time.perf_counter()
    for run in subjects.values():
        run()
    once = time.perf_counter() - start
    return max(9, min(60, int(seconds / max(2 * once if once < 0.2 else once, len(subjects) * 0.004))))


def _shapes(feeds: Any) -> dict[str, str]:
    return {n: f"{a.dtype}{list(a.shape)}" for n, a in feeds.items()}


def _in_process(name: str, threads: list[str], seconds: float) -> dict[str, Any]:
    """A case in a process of its own; what went wrong, where something did."""
    command = [sys.executable, "-m", "bench.performance", "--one", name]
    command += ["--threads", ",".join(threads), "--seconds", str(seconds)]
    environ = {**os.environ, "OMP_NUM_THREADS": "", "ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environ, check=False)
    except subprocess.TimeoutExpired:
        return {"kind": CASES[name].kind, "failed": f"took more than {TIMEOUT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"kind": CASES[name].kind, "failed": lines[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(name: str, result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"{name}: FAILED {result['failed']}"
    parts = []
    for threads, told in result["threads"].items():
        rivals = [f"{r} {v['ratio']['median']:.2f}x" if "ratio" in v else f"{r} -" for r, v in told["rivals"].items()]
        parts.append(f"{threads}: {told['seconds'] * 1e3:.2f} ms, {', '.join(rivals)}")
    return f"{name}: " + "; ".join(parts)


def main() -> None:
    """Measure what is missing."""
    parser = arguments(__doc__, FILE, f"of {', '.join(CASES)}")
    parser.add_argument("--only", default="", metavar="TEXT", help="only names that contain it")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=12.0, help="of timing, per model and thread count")
    parser.add_argument("--again", action="store_true", help="measure the named models again")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        threads = [int(t) for t in options.threads.split(",")]
        print(json.dumps(measure_case(options.one, threads, options.seconds)))
        return
    table = Table(options.save, "Whole models", "python -m bench.performance", options.fresh)
    for name, case in CASES.items():
        if not (name in options.names if options.names else options.only in name):
            continue
        known = table.cases.get(name, {})
        known = {} if "failed" in known else known
        done = set() if options.again else set(known.get("threads", {}))
        missing = [t for t in options.threads.split(",") if t not in done]
        if not missing:
            continue
        if case.is_missing:
            print(f"{name}: not here; python -m bench.models.fetch", file=sys.stderr)
            continue
        result = _in_process(name, missing, options.seconds)
        if "failed" not in result:
            result["threads"] = {**known.get("threads", {}), **result["threads"]}
        table.add(name, result)
        print(_line(name, result), flush=True)


if __name__ == "__main__":
    main()
