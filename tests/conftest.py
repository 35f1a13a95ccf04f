"""Shared by all tests: a private code cache, how thorough a run is, and the summary line of the ONNX suite."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections import Counter

import pytest
from hypothesis import settings

# before anything of fusec is imported: tests never touch the user's cache, and workers of one run share theirs
OWN_CACHE = "" if "FUSEC_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="fusec-test-cache-")
os.environ.setdefault("FUSEC_CACHE_DIR", OWN_CACHE)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
for name in ("FUSEC_DEBUG", "FUSEC_DUMP", "FUSEC_DEVICE", "FUSEC_NUM_THREADS", "FUSEC_CACHE"):
    os.environ.pop(name, None)

settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=500, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one switch between what every change runs and what there is time for now and then."""
    parser.addoption("--thorough", action="store_true", help="run slow tests too, and ten times the random examples")


def pytest_configure(config: pytest.Config) -> None:
    """How many examples tests of properties draw, where they do not say."""
    settings.load_profile("thorough" if config.getoption("thorough") else "quick")


def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later garbage collection: a tenth of the time of short tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether a test may take its time: it then tries more of what it tries anyway."""
    return bool(request.config.getoption("thorough"))


def pytest_unconfigure() -> None:
    """The code cache goes with the run that made it."""
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests, each of which has a quicker sibling, unless the run is thorough."""
    if not config.getoption("thorough"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: runs with --thorough"))


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
