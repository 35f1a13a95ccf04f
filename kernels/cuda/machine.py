"""What a machine has for CUDA, told without importing CuPy: driver, devices, CuPy's package.

The driver is asked through ctypes. A process that has asked it must not fork and use CUDA in the child, so nothing here
runs at import.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusec.kernels.cuda.levels import LEVELS

LIBRARY = "libcuda.so.1"
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of the driver API."""
_MAJOR, _MINOR, _PROCESSORS, _COOPERATIVE = 75, 76, 16, 95
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, .._MINOR, .._MULTIPROCESSOR_COUNT, .._COOPERATIVE_LAUNCH."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device: its name, compute capability, processors (SMs), bytes of memory, and whether blocks can be co-resident."""

    name: str
    capability: tuple[int, int]
    processors: int
    memory: int
    cooperative: bool

    def runs(self, level: str) -> bool:
        """Whether it executes code of a level such as `sm_90`."""
        return level in LEVELS and LEVELS[level].runs_on(self.capability)


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: the newest CUDA that it can run, its own version, its devices; `problem` says why there are none."""

    cuda: tuple[int, int] = (0, 0)
    version: str = ""
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the library could be loaded and asked."""
        return self.cuda != (0, 0)


@cache
def driver() -> Driver:
    """The driver of this machine, asked once."""
    return ask_driver(lambda: ctypes.CDLL(LIBRARY))


def ask_driver(load: Callable[[], Any]) -> Driver:
    """What the library that `load` gives says; a Driver with a `problem` where it says nothing good."""
    try:
        library = load()
    except OSError:
        return Driver(problem=f"{LIBRARY} is not on this machine")
    number = ctypes.c_int()
    if code := library.cuInit(0):
        cuda = _version(library, number)
        why = "the driver sees no device" if code == NO_DEVICE else f"cuInit fails: {_error(library, code)}"
        return Driver(cuda, _driver_version(), problem=why)
    cuda = _version(library, number)
    if code := library.cuDeviceGetCount(ctypes.byref(number)):
        return Driver(cuda, _driver_version(), problem=f"cuDeviceGetCount fails: {_error(library, code)}")
    gpus = tuple(_gpu(library, i) for i in range(number.value))
    return Driver(cuda, _driver_version(), gpus, "" if gpus else "the driver sees no device")


def gpu_for(level: str) -> int | None:
    """The number of the first device that runs code for a level such as `sm_90`; None where there is none."""
    return next((i for i, g in enumerate(driver().gpus) if g.runs(level) and g.cooperative), None)


def cupy_packages() -> list[tuple[str, str]]:
    """Which of CuPy's packages are installed, with versions; more than one is a mistake."""
    found = []
    for name in CUPY_PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def has_cupy() -> bool:
    """Whether `import cupy` would find a package; it is not imported."""
    return importlib.util.find_spec("cupy") is not None


def compiler() -> str | None:
    """The C++ compiler that emulation uses."""
    from fusec.kernels.cuda.emulator import build

    return build.compiler()


def missing_for(level: str) -> str:
    """Why this machine cannot run `cuda:<level>`, in a sentence; empty where it can."""
    found = driver()
    if found.problem:
        return found.problem
    if gpu_for(level) is None:
        names = ", ".join(f"{g.name} ({g.capability[0]}.{g.capability[1]})" for g in found.gpus)
        return f"no device here executes code for {level}: {names}"
    if not has_cupy():
        return "CuPy is not installed"
    return ""


def _gpu(library: Any, index: int) -> Gpu:
    device, number, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), device)

    def attribute(which: int) -> int:
        library.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    capability = attribute(_MAJOR), attribute(_MINOR)
    label = name.value.decode("utf-8", "replace")
    return Gpu(label, capability, attribute(_PROCESSORS), size.value, bool(attribute(_COOPERATIVE)))


def _version(library: Any, number: Any) -> tuple[int, int]:
    library.cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _error(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode('utf-8', 'replace')} ({code})"


def _driver_version() -> str:
    """The number that NVIDIA's download pages use, such as 580.65.06."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else ""
