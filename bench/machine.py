"""The machine and the versions behind a result."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fusec import __version__
from fusec.target import host


def machine() -> dict[str, Any]:
    """What a result file says about where it came from; no host or user names."""
    versions = {"python": platform.python_version(), "fusec": __version__}
    for name in ("numpy", "onnx", "onnxruntime", "llvmlite"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "target": str(host()),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            return next(line.partition(":")[2].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
