"""Shared by all tests: a private code cache, and the summary line of the ONNX suite."""

from __future__ import annotations

import os
import tempfile
from collections import Counter

import pytest

# before anything of fusec is imported: tests never touch the user's cache, and workers of one run share theirs
os.environ.setdefault("FUSEC_CACHE_DIR", tempfile.mkdtemp(prefix="fusec-test-cache-"))
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
for name in ("FUSEC_DEBUG", "FUSEC_DUMP", "FUSEC_DEVICE", "FUSEC_NUM_THREADS", "FUSEC_CACHE"):
    os.environ.pop(name, None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases of the ONNX suite ran natively, with a host step, or failed."""
    counts: Counter[str] = Counter()
    for outcome in ("passed", "failed", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, []):
            if "test_onnx_suite.py::test_case" not in getattr(report, "nodeid", ""):
                continue
            how = dict(report.user_properties).get("onnx_suite", "unsupported")
            counts[how if outcome == "passed" else "failed"] += 1
    if counts:
        line = ", ".join(f"{counts[k]} {k}" for k in ("native", "opaque", "failed"))
        terminalreporter.write_line(f"ONNX backend suite: {line}, {sum(counts.values())} in all")
