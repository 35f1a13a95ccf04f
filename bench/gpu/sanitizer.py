"""NVIDIA's compute-sanitizer over the checks: what no emulator can see, where the tool is there."""

from __future__ import annotations

import glob
import re
import shutil
import subprocess
import sys
from typing import Any

TOOLS = ("memcheck", "racecheck", "synccheck")
TIMEOUT = 150


def find() -> str | None:
    """The tool on PATH or in a toolkit's folder."""
    places = (shutil.which("compute-sanitizer"), *sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")))
    return next((p for p in places if p), None)


def sanitize(level: str, cases: str) -> dict[str, Any]:
    """Tool -> how many errors it reported and the first of them."""
    tool = find()
    if tool is None:
        return {"absent": "compute-sanitizer is not here; it comes with the CUDA toolkit"}
    return {name: _run(tool, name, level, cases) for name in TOOLS}


def _run(tool: str, name: str, level: str, cases: str) -> dict[str, Any]:
    command = [tool, "--tool", name, "--error-exitcode", "99", sys.executable, "-m", "bench.gpu"]
    command += ["--only", "checks", "--cases", cases, "--level", level, "--no-save"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"problem": f"took more than {TIMEOUT} s"}
    return read_report(done.stdout + done.stderr, done.returncode)


def read_report(text: str, code: int) -> dict[str, Any]:
    """The tool's own summary; the first error's lines."""
    counts = [int(n) for n in re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+)", text)]
    lines = [line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")]
    first = next(
        (i for i, line in enumerate(lines) if re.match(r"(Error|Invalid|Barrier error|Program hit)", line)), None
    )
    out: dict[str, Any] = {"exit_code": code, "errors": sum(counts) if counts else None}
    if first is not None:
        out["first"] = " | ".join(lines[first : first + 4])
    return out
