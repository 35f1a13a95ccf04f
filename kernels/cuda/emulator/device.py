"""The emulated device: host memory, and launches that run when somebody waits for them.

A launch runs in slices of time, so that Python sees signals and a timeout can be kept. What fails in it (a deadlock, a barrier
that some threads never reach, a bad address) ends the launch and is raised as an ExecutionError; the process goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ExecutionError, ResourceError
from fusec.kernels.cuda.device import Launch, Memory, Module
from fusec.kernels.cuda.levels import LEVELS

SLICE_NS = 50_000_000
BLOCKS = 4
_DONE, _UNFINISHED, _FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Emulation:
    """How to run: `seed` 0 is a fixed order of threads, others are random orders; `lazy` lets asynchronous copies happen as
    late as they may; `poison` fills shared memory and scratch with NaN before every tile, not only at the start; `keep_files`
    leaves libraries on disk for debuggers."""

    seed: int = 0
    lazy: bool = False
    poison: bool = False
    keep_files: bool = False


@dataclass(eq=False)
class EmulatedMemory:
    """A block of host memory."""

    block: npt.NDArray[np.uint8]
    address: int
    nbytes: int


@dataclass(eq=False)
class EmulatedModule:
    """A library in memory, for the rest of the process' life."""

    library: ctypes.CDLL
    entry: str
    function: int


@dataclass(eq=False)
class EmulatedGraph:
    """Launches to be queued again."""

    device: EmulatedDevice
    launches: tuple[Launch, ...]

    def replay(self) -> None:
        """Queue the launches, in order."""
        for x in self.launches:
            self.device.launch(x.module, x.frame, x.blocks, x.shared)


@dataclass(eq=False)
class EmulatedDevice:
    """A device of `multiprocessors` blocks at once."""

    level: str = "sm_80"
    multiprocessors: int = BLOCKS
    emulation: Emulation = field(default_factory=Emulation)
    switches: int = 0
    """How often threads changed, since the device was made."""

    def __post_init__(self) -> None:
        self._queue: list[Launch] = []
        self._running: tuple[EmulatedModule, int] | None = None
        self._abort = self.allocate(4)
        self.set_abort(0)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"emulated {self.level}"

    @property
    def shared_limit(self) -> int:
        """The most bytes of dynamic shared memory that a block can have."""
        return LEVELS[self.level].shared

    @property
    def memory_free(self) -> int:
        """Bytes of the machine's memory that are free, about."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    @property
    def abort_address(self) -> int:
        """The address of the abort word."""
        return self._abort.address

    def allocate(self, nbytes: int) -> EmulatedMemory:
        """Memory of exactly that size, so that AddressSanitizer sees what lies outside, filled with NaN."""
        pointer = ctypes.c_void_p()
        size = max(4, nbytes)
        if _C.posix_memalign(ctypes.byref(pointer), ctypes.c_size_t(256), ctypes.c_size_t(size)) != 0:
            raise ResourceError(f"no memory for {nbytes} bytes of an emulated device")
        address = pointer.value or 0
        held = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(held, _C.free, ctypes.c_void_p(address))
        ctypes.memset(address, 0xFF, size)  # NaN: what is read before it is written shows
        return EmulatedMemory(np.ctypeslib.as_array(held)[:nbytes], address, nbytes)

    def upload(self, memory: Memory, offset: int, data: npt.NDArray[Any]) -> None:
        """Copy an array's bytes to `offset`."""
        self.synchronise()
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._bytes(memory, offset, raw.nbytes)[:] = raw

    def download(self, memory: Memory, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes from `offset` on."""
        self.synchronise()
        return self._bytes(memory, offset, nbytes).copy()

    def load(self, code: bytes, entry: str) -> EmulatedModule:
        """Put a module into memory, or find it there."""
        key = hashlib.sha256(code).hexdigest()
        library = _libraries.get(key)
        if library is None:
            library = _libraries[key] = _open(code, self.emulation.keep_files)
        try:
            function = ctypes.cast(getattr(library, entry), ctypes.c_void_p).value
        except AttributeError as e:
            raise ExecutionError(f"an emulated module has no entry {entry!r}") from e
        return EmulatedModule(library, entry, function or 0)

    def resident(self, module: Module, shared: int) -> int:  # noqa: ARG002 - a GPU asks the module's registers
        """How many blocks fit at once: one per multiprocessor."""
        return self.multiprocessors if shared <= self.shared_limit else 0

    def launch(self, module: Module, frame: int, blocks: int, shared: int) -> None:
        """Queue a cooperative launch."""
        if not isinstance(module, EmulatedModule):
            raise ExecutionError("a module of another device cannot be launched on an emulated one")
        if shared > self.shared_limit:
            raise ExecutionError(
                f"a launch asks for {shared} bytes of shared memory per block, {self.name} has {self.shared_limit}"
            )
        if blocks > self.multiprocessors:
            raise ExecutionError(
                f"{blocks} blocks cannot be resident at once: {self.name} has {self.multiprocessors} multiprocessors"
            )
        self._queue.append(Launch(module, frame, blocks, shared))

    def synchronise(self, timeout_s: float | None = None) -> bool:
        """Run what is queued: False where that takes longer than `timeout_s`. ExecutionError where a launch fails."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._running is not None or self._queue:
            module, state = self._running or self._begin(self._queue.pop(0))
            left = SLICE_NS if until is None else min(SLICE_NS, int((until - time.monotonic()) * 1e9))
            if left <= 0:
                return False
            code = module.library.fx_emulator_run(state, left)
            if code == _UNFINISHED:
                continue
            self._running = None
            report = module.library.fx_emulator_report(state).decode("utf-8", "replace")
            self.switches += module.library.fx_emulator_switches(state)
            module.library.fx_emulator_end(state)
            if code == _FAILED:
                self._queue.clear()
                raise ExecutionError(f"a launch of {module.entry} on {self.name} failed: {report}")
        return True

    def set_abort(self, value: int) -> None:
        """Write the abort word."""
        self._abort.block.view(np.int32)[:] = value

    def capture(self, launches: Sequence[Launch]) -> EmulatedGraph:
        """Launches as a graph."""
        return EmulatedGraph(self, tuple(launches))

    def _begin(self, launch: Launch) -> tuple[EmulatedModule, int]:
        module, e = launch.module, self.emulation
        assert isinstance(module, EmulatedModule)
        state = module.library.fx_emulator_begin(
            module.function, launch.frame, launch.blocks, launch.shared, e.seed, int(e.lazy), int(e.poison)
        )
        if not state:
            raise ResourceError(f"no memory for the stacks of {launch.blocks} emulated blocks")
        self._running = module, state
        return self._running

    def _bytes(self, memory: Memory, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        assert isinstance(memory, EmulatedMemory)
        if not 0 <= offset <= offset + nbytes <= memory.nbytes:
            raise ExecutionError(f"bytes {offset} to {offset + nbytes} of a block of {memory.nbytes}")
        return memory.block[offset : offset + nbytes]


_C = ctypes.CDLL(None)
_libraries: dict[str, ctypes.CDLL] = {}


def _open(code: bytes, keep: bool) -> ctypes.CDLL:
    fd, path = tempfile.mkstemp(prefix="fusec-", suffix=".so")
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(code)
        library = ctypes.CDLL(path)
    except OSError as e:
        raise ExecutionError(f"an emulated module cannot be loaded: {e}") from e
    finally:
        if not keep:
            with contextlib.suppress(OSError):
                os.unlink(path)
    pointer, long = ctypes.c_void_p, ctypes.c_longlong
    library.fx_emulator_begin.restype = pointer
    library.fx_emulator_begin.argtypes = [pointer, pointer, ctypes.c_int, long, long, ctypes.c_int, ctypes.c_int]
    library.fx_emulator_run.argtypes = [pointer, long]
    library.fx_emulator_report.restype = ctypes.c_char_p
    library.fx_emulator_report.argtypes = [pointer]
    library.fx_emulator_switches.restype = ctypes.c_ulonglong
    library.fx_emulator_switches.argtypes = [pointer]
    library.fx_emulator_end.argtypes = [pointer]
    library.fx_emulator_end.restype = None
    return library
