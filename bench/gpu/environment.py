"""The GPU, driver and packages behind a result; no host or user names."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.gpu.lab import Lab
from bench.machine import machine

_ASKED = "driver_version,clocks.max.sm,clocks.max.memory,power.limit,ecc.mode.current,memory.total,mig.mode.current"
_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "nvidia-nvjitlink", "torch", "triton")


def environment(lab: Lab) -> dict[str, Any]:
    """What a result file says about where it came from."""
    from fusec.kernels.cuda import machine as cuda
    from fusec.kernels.cuda import nvrtc

    found = machine()
    versions = found["versions"]
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    told: dict[str, Any] = {
        "gpu": lab.device.name,
        "target": lab.target,
        "multiprocessors": lab.device.multiprocessors,
        "shared_limit": lab.device.shared_limit,
        "nvrtc": ".".join(map(str, nvrtc.version())) if nvrtc.is_installed() else "absent",
    }
    if not lab.emulated:
        driver = cuda.driver()
        told |= {"driver": driver.version, "driver_cuda": ".".join(map(str, driver.cuda)), **_smi()}
    return found | told


def _smi() -> dict[str, str]:
    """What nvidia-smi says of the first device; nothing where it cannot be asked."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [v.strip() for v in done.stdout.splitlines()[0].split(",")]
    return {n.replace(".", "_"): v for n, v in zip(_ASKED.split(","), values, strict=False)}
