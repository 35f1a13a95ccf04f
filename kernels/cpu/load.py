"""Loading: object bytes become an address, through one ORC JIT for the life of the process.

Fresh code and cached code take this same path. LLVM crashes on a damaged object, so the SHA-256 is checked before
LLVM sees the bytes. Nothing is ever unloaded: a worker may be inside the code at any moment, and identical objects
are loaded once.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from dataclasses import dataclass, field
from functools import cache

import llvmlite.binding as llvm

from fusec.errors import CompileError
from fusec.kernels.cpu.llvm import LIBRARY_SYMBOLS, new_target_machine
from fusec.kernels.kernel import Binary
from fusec.target import ISAS


@dataclass(frozen=True, slots=True)
class Loaded:
    """Code in memory: the address of `void entry(i64* slots, i64 first_tile, i64 count, i8* scratch)`."""

    address: int
    binary: Binary
    library: llvm.ResourceTracker = field(repr=False, compare=False)


_loaded: dict[tuple[str, str], Loaded] = {}
_lock = threading.Lock()


def load(binary: Binary) -> Loaded:
    """Put a binary into memory, or find it there. CompileError where its bytes are not the ones its hash names."""
    with _lock:
        known = _loaded.get((binary.sha256, binary.entry))
        if known is None:
            known = Loaded(*_link(binary))
            _loaded[binary.sha256, binary.entry] = known
        return known


def call(loaded: Loaded, slots: int, first: int, count: int, scratch: int) -> None:
    """Run tiles from Python, given addresses: for tests and benchmarks. The runtime calls through pointers instead."""
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    entry(loaded.address)(slots, first, count, scratch)


def load_symbol(code: bytes, sha256: str, symbol: str) -> tuple[int, llvm.ResourceTracker]:
    """Load one object and look one symbol up. The address lives as long as the tracker: keep it for ever."""
    if hashlib.sha256(code).hexdigest() != sha256:
        raise CompileError(f"the machine code of {symbol!r} is damaged: its SHA-256 is not {sha256[:16]}...")
    library = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(symbol)
    for name, address in _library_addresses().items():
        library.import_symbol(name, address)
    try:
        tracker = library.link(_jit(), f"{sha256}.{symbol}")
    except RuntimeError as e:
        raise CompileError(f"LLVM cannot link {symbol!r}: {str(e).strip()}") from e
    return int(tracker[symbol]), tracker


def _link(binary: Binary) -> tuple[int, Binary, llvm.ResourceTracker]:
    address, tracker = load_symbol(binary.code, binary.sha256, binary.entry)
    return address, binary, tracker


@cache
def _jit() -> llvm.LLJIT:
    # The JIT takes its machine over, so it gets one that nobody else holds. It never compiles, it only links: any level
    # will do.
    import platform

    level = "neon" if platform.machine() in ("aarch64", "arm64") else "generic"
    jit: llvm.LLJIT = llvm.create_lljit_compiler(new_target_machine(ISAS[level]), suppress_errors=True)
    return jit


@cache
def _library_addresses() -> dict[str, int]:
    process = ctypes.CDLL(None)
    return {n: int(ctypes.cast(getattr(process, n), ctypes.c_void_p).value or 0) for n in LIBRARY_SYMBOLS}
