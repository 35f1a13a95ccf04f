"""Building for the emulator: a module's text with a C++ compiler, linked to the runtime, as a shared library's bytes.

The runtime is compiled once and kept as an object file in the cache of compiled code.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.module import DEVICE, ModuleText, headers_hash
from fusec.kernels.cuda.nvrtc import essence
from fusec.target import runs_here

HERE = Path(__file__).parent
SANITIZERS = {
    "": ((), ()),
    "portable": (("-DFX_UCONTEXT",), ()),  # no sanitizer: fibers as on processors that there is no assembly for
    # the runtime is not instrumented: it tells the race detector itself what it reads, writes and orders
    "address": (("-DFX_ASAN",), ("-fsanitize=address", "-g1")),
    "thread": (("-DFX_TSAN",), ("-fsanitize=thread", "-g1")),
}
"""Name -> flags of the runtime, flags of modules. The process that loads such code must have the library preloaded."""
OPTIMISATION = "-O1"
"""Of modules: real ones take 0.6 of the time to compile that -O2 takes, and run as fast, since switching takes most of it."""
COMMON = (
    "-std=c++17",
    "-fno-exceptions",
    "-fno-asynchronous-unwind-tables",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-w",
)
HINT = "install g++ or clang++, or name a C++ compiler in CXX"


@cache
def compiler() -> str | None:
    """The C++ compiler: CXX, g++, clang++ or c++; None where there is none."""
    for name in (os.environ.get("CXX", "").split(" ")[0], "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def build(module: ModuleText, level: str, kept: ObjectCache | None = None, *, sanitizer: str = "") -> bytes:
    """The shared library of a module for a level such as `sm_80`, from the cache where it is there.

    CompileError where the compiler refuses it.
    """
    digest = hashlib.sha256(module.text.encode()).hexdigest()
    key = " ".join(("emulated", *_module_flags(level, sanitizer), fingerprint(), headers_hash(), digest))
    found = kept.get(key) if kept is not None else None
    if found is None:
        found = link(module, level, kept, sanitizer=sanitizer)
        if kept is not None:
            kept.put(key, found)
    return found


def link(module: ModuleText, level: str, kept: ObjectCache | None = None, *, sanitizer: str = "") -> bytes:
    """The same, compiled always: only the runtime comes from the cache. For callers that keep modules themselves."""
    runtime = _runtime(sanitizer, kept)
    flags = (*_module_flags(level, sanitizer), "-shared", f"-I{DEVICE}", f"-I{HERE}")
    return _compile(module.text, "region", runtime, flags)


@cache
def fingerprint() -> str:
    """What decides about code beside a module's text and the device headers: the compiler and the runtime."""
    return " ".join((_version(), *_flags(), _runtime_hash()))


def _module_flags(level: str, sanitizer: str) -> tuple[str, ...]:
    architecture = f"-DFX_ARCH={LEVELS[level].instructions}"
    return (*_flags(), OPTIMISATION, *SANITIZERS[sanitizer][1], "-DFX_EMULATED", architecture)


def _runtime(sanitizer: str, kept: ObjectCache | None) -> bytes:
    no_red_zone = ("-mno-red-zone",) if platform.machine() in ("x86_64", "AMD64") else ()  # see fiber.h
    flags = (*_flags(), "-O2", "-ftree-vectorize", *no_red_zone, *SANITIZERS[sanitizer][0], "-c")
    key = " ".join(("emulator", *flags, _version(), _runtime_hash()))
    found = kept.get(key) if kept is not None else _made.get(key)
    if found is None:
        found = _compile((HERE / "runtime.cpp").read_text("utf-8"), "runtime", b"", (*flags, f"-I{HERE}"))
        if kept is not None:
            kept.put(key, found)
        _made[key] = found
    return found


_made: dict[str, bytes] = {}


@cache
def _flags() -> tuple[str, ...]:
    # kernels use fused multiply-adds everywhere; without the instruction each is a call of a slow function
    return (*COMMON, *(("-march=haswell",) if runs_here("avx2") else ()))


@cache
def _version() -> str:
    found = compiler()
    if found is None:
        raise CompileError("emulating a CUDA device needs a C++ compiler, and there is none", hint=HINT)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    return f"{found} {said.partition(chr(10))[0]}"


@cache
def _runtime_hash() -> str:
    texts = [p.read_bytes() for p in sorted((*HERE.glob("*.h"), *HERE.glob("*.cpp")))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _environment() -> dict[str, str]:
    """Our own without preloaded libraries: a sanitizer is meant for us, and would make the compiler ten times as slow."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _compile(text: str, name: str, other: bytes, flags: Sequence[str]) -> bytes:
    _version()
    with tempfile.TemporaryDirectory(prefix="fusec-") as folder:
        source, out, linked = Path(folder) / f"{name}.cpp", Path(folder) / "out", Path(folder) / "other.o"
        source.write_text(text, "utf-8")
        inputs = [str(source)]
        if other:
            linked.write_bytes(other)
            inputs.append(str(linked))
        command = [str(compiler()), *flags, *inputs, "-o", str(out)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, errors="replace", env=_environment()
            )
        except OSError as e:
            raise CompileError(f"cannot run {command[0]}: {e.strerror or e}", hint=HINT) from e
        if done.returncode != 0:
            raise CompileError(f"{command[0]} refuses a module: {essence(done.stderr) or done.stderr[-400:]}")
        return out.read_bytes()
