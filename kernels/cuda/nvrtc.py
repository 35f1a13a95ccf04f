"""NVIDIA's run-time compiler through ctypes: a module's text becomes a cubin. No driver and no GPU is needed.

The library is called directly rather than through CuPy, which chooses the architecture itself (never sm_90a, which wgmma
needs), asks for a device, and cuts the last byte off a cubin.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cuda.module import ModuleText, headers, headers_hash

ARCHITECTURES = {"sm_80": "sm_80", "sm_90": "sm_90a"}
"""Level -> what is compiled for. The `a` stands for instructions that only this generation has, wgmma among them."""
HINT = "pip install 'nvidia-cuda-nvrtc>=13,<14'"
_LOG_SECTION = b"\0log\0"


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code for one architecture, and what the compiler said: resource usage and warnings (see lint.py)."""

    code: bytes
    log: str


def is_installed() -> bool:
    """Whether the compiler's library is there."""
    return _library_or_why()[0] is not None


def version() -> tuple[int, int]:
    """The compiler's version. CompileError where it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def options(level: str) -> tuple[str, ...]:
    """All options that change code, stated rather than left to defaults."""
    return (
        f"--gpu-architecture={ARCHITECTURES[level]}",
        "--std=c++17",
        "--device-as-default-execution-space",
        "--ftz=false",
        "--prec-div=true",
        "--prec-sqrt=true",
        "--fmad=true",
        "--ptxas-options=-v",
        f"-DFX_ARCH={level.removeprefix('sm_')}0",
    )


def build(module: ModuleText, level: str, kept: ObjectCache | None = None) -> Cubin:
    """The cubin of a module for a level, from the cache where it is there. CompileError where the compiler refuses it."""
    if level not in ARCHITECTURES:
        raise CompileError(f"no CUDA level {level!r}", hint=f"known: {', '.join(ARCHITECTURES)}")
    digest = hashlib.sha256(module.text.encode()).hexdigest()
    key = " ".join(("cuda", *options(level), str(version()), headers_hash(), digest))
    found = kept.get(key) if kept is not None else None
    if found is not None:
        code, _, log = found.rpartition(_LOG_SECTION)
        return Cubin(code, log.decode("utf-8", "replace"))
    cubin = compile_text(module.text, options(level))
    if kept is not None:
        kept.put(key, cubin.code + _LOG_SECTION + cubin.log.encode())
    return cubin


def compile_text(text: str, flags: Sequence[str]) -> Cubin:
    """Compile a translation unit with the device headers at hand. CompileError with the first errors of the log."""
    library = _library()
    names = [n.encode() for n in headers()]
    texts = [t.encode() for t in headers().values()]
    program = ctypes.c_void_p()
    array = ctypes.c_char_p * len(names)
    status = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"region.cu", len(names), array(*texts), array(*names)
    )
    _check(status, "nvrtcCreateProgram")
    try:
        flag_bytes = [f.encode() for f in flags]
        status = library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flag_bytes))
        log = _bytes(library, program, "ProgramLog").rstrip(b"\0").decode("utf-8", "replace")
        if status != 0:
            raise CompileError(f"NVRTC refuses a module: {essence(log) or _name(library, status)}")
        return Cubin(_bytes(library, program, "CUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def essence(log: str, most: int = 4) -> str:
    """The first errors of a compiler's log on one line, with their places."""
    errors = [line.strip() for line in log.splitlines() if re.search(r"\berror\b|\bfatal\b", line, re.IGNORECASE)]
    counted = f"; and {len(errors) - most} more" if len(errors) > most else ""
    return "; ".join(errors[:most]) + counted


def _bytes(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    buffer = ctypes.create_string_buffer(max(1, size.value))
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
    return buffer.raw[: size.value]


def _check(status: int, call: str) -> None:
    if status != 0:
        raise CompileError(f"{call} failed: {_name(_library(), status)}")


def _name(library: ctypes.CDLL, status: int) -> str:
    text = library.nvrtcGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else f"error {status}"


def _library() -> ctypes.CDLL:
    found, why = _library_or_why()
    if found is None:
        raise CompileError(f"NVIDIA's run-time compiler is not there: {why}", hint=HINT)
    return found


_lock = threading.Lock()


@cache
def _library_or_why() -> tuple[ctypes.CDLL | None, str]:
    with _lock:
        why = "no libnvrtc among the installed packages, in CUDA_PATH or where the system looks"
        for path in _candidates():
            try:
                library = ctypes.CDLL(path)
                _load_builtins(Path(path))
                library.nvrtcGetErrorString.restype = ctypes.c_char_p
                library.nvrtcGetCUBINSize  # noqa: B018 - older than 11.1 where it is missing
            except (OSError, AttributeError) as e:
                if os.path.sep in path:
                    why = f"{path} cannot be used: {e}"
                continue
            return library, ""
        return None, why


def _load_builtins(path: Path) -> None:
    """Load the part that the compiler opens by its bare name, which the loader does not look for beside it."""
    for builtins in sorted(path.parent.glob("libnvrtc-builtins.so*")) if path.is_absolute() else ():
        ctypes.CDLL(str(builtins))


def _candidates() -> Iterator[str]:
    """Where the library may be, the newest first: wheels (cu13, then cu12), CUDA_PATH, the loader's own places."""
    pattern = "nvrtc64_*.dll" if sys.platform == "win32" else "libnvrtc.so*"
    folders = [
        Path(p) / "nvidia" / part for p in sys.path for part in ("cu13/lib", "cuda_nvrtc/lib", "cu13/bin/x86_64")
    ]
    if root := os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME"):
        folders += [Path(root) / "lib64", Path(root) / "lib", Path(root) / "bin"]
    for folder in folders:
        yield from (str(p) for p in sorted(folder.glob(pattern), reverse=True) if ".alt" not in p.name)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
