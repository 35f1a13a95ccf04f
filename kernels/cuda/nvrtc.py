"""NVIDIA's run-time compiler through ctypes: the units of a module become a cubin. No driver and no GPU is needed.

The library is called directly rather than through CuPy, which chooses the architecture itself (never sm_90a, which wgmma
needs), asks for a device, and cuts the last byte off a cubin.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cuda import libraries, linker, nvrtc_worker
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.module import ModuleText, headers, headers_hash

HINT = "pip install 'nvidia-cuda-nvrtc>=13,<14'"
TIMEOUT_S = 900.0
_LOG_SECTION = b"\0log\0"
_processes = threading.BoundedSemaphore(os.cpu_count() or 1)
"""Compilers at work at once."""


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code for one architecture, and what the compiler said: resource usage and warnings (see lint.py)."""

    code: bytes
    log: str


def is_installed() -> bool:
    """Whether the libraries of the compiler and of the linker are there."""
    return _library_or_why()[0] is not None and linker.is_installed()


def version() -> tuple[int, int]:
    """The compiler's version. CompileError where it is not installed."""
    try:
        return _library().version()
    except RuntimeError as e:
        raise CompileError(f"NVRTC does not tell its version: {e}") from e


def options(level: str, *, linked: bool = False) -> tuple[str, ...]:
    """All options that change code, stated rather than left to defaults; `linked` for a unit among others."""
    return (
        *(("--relocatable-device-code=true",) if linked else ()),
        f"--gpu-architecture={LEVELS[level].architecture}",
        "--std=c++17",
        "--device-as-default-execution-space",
        "--ftz=false",
        "--prec-div=true",
        "--prec-sqrt=true",
        "--fmad=true",
        "--ptxas-options=-v",
        f"-DFX_ARCH={LEVELS[level].instructions}",
    )


def build(module: ModuleText, level: str, kept: ObjectCache | None = None) -> Cubin:
    """The cubin of a module for a level, its units from the cache where they are there, compiled at the same time where not.

    CompileError where compiler or linker refuse it.
    """
    if level not in LEVELS:
        raise CompileError(f"no CUDA level {level!r}", hint=f"known: {', '.join(LEVELS)}")
    flags = options(level, linked=len(module.units) > 1)
    if len(module.units) == 1:
        return _unit(module.text, flags, kept)
    with ThreadPoolExecutor(len(module.units), "fusec-nvrtc") as pool:
        parts = list(pool.map(lambda text: _unit(text, flags, kept), module.units))
    code, log = linker.link([p.code for p in parts], LEVELS[level].architecture)
    return Cubin(code, "\n".join([*(p.log for p in parts), log]))


def _unit(text: str, flags: Sequence[str], kept: ObjectCache | None) -> Cubin:
    """The machine code of a translation unit, from the cache where it is there."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    key = " ".join(("cuda", *flags, str(version()), headers_hash(), digest))
    found = kept.get(key) if kept is not None else None
    if found is not None:
        code, _, log = found.rpartition(_LOG_SECTION)
        return Cubin(code, log.decode("utf-8", "replace"))
    with _processes:
        cubin = compile_text(text, flags)
    if kept is not None:
        kept.put(key, cubin.code + _LOG_SECTION + cubin.log.encode())
    return cubin


def compile_text(text: str, flags: Sequence[str]) -> Cubin:
    """Compile a translation unit with the device headers at hand. CompileError with the first errors of the log.

    The compiler runs in a process of its own: it has been seen to crash on valid code.
    """
    library = _library()
    if not sys.executable:  # Python inside another program: there is nothing to start
        failed, code, log = library.compile(text, headers(), flags)
    else:
        failed, code, log = _in_process(nvrtc_worker.request(library, text, headers(), flags))
    if failed:
        raise CompileError(f"NVRTC refuses a module: {essence(log) or failed}")
    return Cubin(code, log)


def _in_process(request: bytes) -> tuple[str, bytes, str]:
    command = [sys.executable, "-I", "-S", nvrtc_worker.__file__]
    try:
        done = subprocess.run(command, input=request, capture_output=True, check=False, timeout=TIMEOUT_S)
    except OSError as e:
        raise CompileError(f"cannot start a process for NVRTC: {e.strerror or e}") from e
    except subprocess.TimeoutExpired as e:
        raise CompileError(f"NVRTC has not compiled a module within {TIMEOUT_S:.0f} s") from e
    if done.returncode != 0:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise CompileError(f"NVRTC crashed ({how}) while it compiled a module{': ' if last else ''}{last[:300]}")
    try:
        return nvrtc_worker.answer(done.stdout)
    except (ValueError, KeyError, TypeError) as e:
        raise CompileError(f"the process that runs NVRTC answered nonsense: {e}") from e


def essence(log: str, most: int = 4) -> str:
    """The first errors of a compiler's log on one line, with their places."""
    errors = [line.strip() for line in log.splitlines() if re.search(r"\berror\b|\bfatal\b", line, re.IGNORECASE)]
    counted = f"; and {len(errors) - most} more" if len(errors) > most else ""
    return "; ".join(errors[:most]) + counted


def _library() -> nvrtc_worker.Library:
    found, why = _library_or_why()
    if found is None:
        raise CompileError(f"NVIDIA's run-time compiler is not there: {why}", hint=HINT)
    return found


@cache
def _library_or_why() -> tuple[nvrtc_worker.Library | None, str]:
    return libraries.first("nvrtc", nvrtc_worker.Library)
