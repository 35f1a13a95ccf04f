"""A GPU behind the Device protocol, through CuPy: its memory pool, one stream of our own, cubins, cooperative launches.

This is the only file that imports CuPy, and it does so when a device is opened. Kernels are launched through CuPy's thin
wrapper of the driver: `RawKernel` would make a grid that does not fit smaller without a word, and compiles for `sm_90` where
`sm_90a` is needed.

Memory of the pool belongs to our stream: what is freed while the stream still works is only given to what comes after it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError, ExecutionError, FusecError, ResourceError
from fusec.kernels.cuda import machine
from fusec.kernels.cuda.abi import THREADS
from fusec.kernels.cuda.device import Launch, Memory, Module
from fusec.kernels.cuda.levels import WALK
from fusec.kernels.cuda.staging import Staging

LARGE_SHARED = 48 << 10
"""Bytes of dynamic shared memory that a kernel may ask for without an attribute being set (CUDA programming guide)."""
SPIN_SECONDS = 2e-3
"""So long a wait asks the stream without sleeping: a short launch is not delayed by the system's timer."""
SLEEP_SHARE, LONGEST_SLEEP = 0.02, 1e-3
"""After that a wait sleeps for this share of what it has waited: no launch takes much longer for it."""
NOT_READY = 600
"""cudaErrorNotReady."""
OUT_OF_MEMORY = 2
TOO_LARGE = 720
"""cudaErrorMemoryAllocation and cudaErrorCooperativeLaunchTooLarge; the driver's numbers are the same."""
STICKY = {700, 701, 702, 710, 714, 715, 716, 717, 718, 719}
"""Errors of kernels that leave the process' context unusable (cudaErrorIllegalAddress, .._LaunchFailure, ...)."""
_ABORT_BYTES = 4096


@dataclass(frozen=True, eq=False)
class GpuMemory:
    """A block of the pool."""

    address: int
    nbytes: int
    pointer: Any
    """CuPy's MemoryPointer, which gives the block back when it is dropped."""


@dataclass(frozen=True, eq=False)
class GpuModule:
    """A loaded cubin and its kernel."""

    entry: str
    function: Any
    """CuPy's Function, which keeps the module loaded."""


class GpuGraph:
    """A captured sequence of launches."""

    def __init__(self, device: CupyDevice, graph: Any, launches: Sequence[Launch]) -> None:
        self._device, self._graph = device, graph
        self._launches = tuple(launches)  # whose modules must stay loaded

    def replay(self) -> None:
        """Queue all of them."""
        with self._device.at_work("replaying a graph"):
            self._graph.launch(self._device.stream)


class CupyDevice:
    """Device number `index`, for code of `level`. Any thread may call it; calls are queued in the order in which they come.

    `cupy` is the package, or what stands in for it in tests; `stream` is the stream on which everything is queued.
    """

    def __init__(self, index: int, level: str, cupy: Any = None) -> None:
        self.cupy: Any = _import_cupy() if cupy is None else cupy
        self.index = index
        self.level = level
        self._runtime, self._driver = self.cupy.cuda.runtime, self.cupy.cuda.driver
        self._lock = threading.RLock()
        self._modules: dict[tuple[bytes, str], GpuModule] = {}
        self._resident: dict[tuple[int, int], int] = {}
        self._allowed: dict[int, int] = {}
        with self.at_work("opening the device"):
            properties = self._runtime.getDeviceProperties(index)
            self.name = bytes(properties["name"]).decode("utf-8", "replace")
            self.multiprocessors = self._attribute("cudaDevAttrMultiProcessorCount")
            self.shared_limit = self._attribute("cudaDevAttrMaxSharedMemoryPerBlockOptin") - WALK
            if not self._attribute("cudaDevAttrCooperativeLaunch"):
                raise ExecutionError(f"{self.name} cannot launch kernels cooperatively", hint="see fusec doctor")
            self.stream: Any = self.cupy.cuda.Stream(non_blocking=True)
            self._pool = self.cupy.cuda.MemoryPool()
            self._staging = Staging(self.cupy, self.stream)
            self._abort = self._mapped_word()

    @property
    def memory_free(self) -> int:
        """Bytes that can still be allocated, about."""
        with self.at_work("asking for free memory"):
            free, _ = self._runtime.memGetInfo()
            return int(free) + int(self._pool.free_bytes())

    @property
    def abort_address(self) -> int:
        """Where kernels read the abort word: host memory that is mapped into the device."""
        return self._abort[1]

    def allocate(self, nbytes: int) -> GpuMemory:
        """Memory of the pool. ResourceError where the device has no more."""
        if nbytes < 0:
            raise BugError(f"{nbytes} bytes were asked for")
        with self.at_work("allocating", nbytes), self.stream:
            pointer = self._pool.malloc(max(nbytes, 1))
        return GpuMemory(int(pointer.ptr), nbytes, pointer)

    def upload(self, memory: Memory, offset: int, data: npt.NDArray[Any]) -> None:
        """Copy an array's bytes to `offset`; the array may be changed as soon as this returns."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        _inside(memory, offset, raw.size)
        with self._lock, self.at_work("copying to the device", raw.size):
            self._staging.upload(memory.address + offset, raw)

    def download(self, memory: Memory, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes from `offset` on, after everything that was queued before."""
        _inside(memory, offset, nbytes)
        with self._lock, self.at_work("copying from the device", nbytes):
            return self._staging.download(memory.address + offset, nbytes)

    def load(self, code: bytes, entry: str) -> GpuModule:
        """Load a cubin, or find it loaded. ExecutionError where the driver refuses it."""
        with self._lock:
            found = self._modules.get((code, entry))
            if found is None:
                with self.at_work("loading a cubin"):
                    module = self.cupy.cuda.function.Module()
                    module.load(code)
                    found = self._modules[code, entry] = GpuModule(entry, module.get_function(entry))
            return found

    def resident(self, module: Module, shared: int) -> int:
        """How many blocks fit at once: 0 where one block wants more shared memory than a multiprocessor can give it."""
        if shared > self.shared_limit:
            return 0
        with self._lock, self.at_work("asking for the occupancy"):
            key = id(module), shared  # modules are never dropped
            if key not in self._resident:
                self._allow_shared(module, shared)
                each = self._driver.occupancyMaxActiveBlocksPerMultiprocessor(_pointer(module), THREADS, shared)
                self._resident[key] = int(each) * self.multiprocessors
            return self._resident[key]

    def launch(self, module: Module, frame: int, blocks: int, shared: int) -> None:
        """Queue a cooperative launch. ExecutionError with the reason where its blocks cannot all be resident."""
        self._check_resident(module, blocks, shared)
        with self.at_work("launching a region"):
            self._queue(Launch(module, frame, blocks, shared), self.stream)

    def synchronise(self, timeout_s: float | None = None) -> bool:
        """Wait for the stream: False where that takes longer than `timeout_s`. ExecutionError where a launch failed."""
        with self.at_work("waiting for the device"):
            if timeout_s is None:
                self.stream.synchronize()
                return True
            start = time.perf_counter()
            while status := self._runtime.streamQuery(self.stream.ptr):
                if status != NOT_READY:
                    self.stream.synchronize()  # raises: a query only tells a number, `Stream.done` not even that
                passed = time.perf_counter() - start
                if passed > timeout_s:
                    return False
                if passed > SPIN_SECONDS:
                    time.sleep(min(passed * SLEEP_SHARE, LONGEST_SLEEP))
            return True

    def set_abort(self, value: int) -> None:
        """Write the abort word; kernels see it over the bus."""
        self._abort[0].value = value

    def capture(self, launches: Sequence[Launch]) -> GpuGraph:
        """Launches as a CUDA graph, captured on a stream of its own: ours may be working meanwhile."""
        for x in launches:
            self._check_resident(x.module, x.blocks, x.shared)
        with self._lock, self.at_work("capturing a graph"):
            stream = self.cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                try:
                    for x in launches:
                        self._queue(x, stream)
                finally:
                    graph = stream.end_capture()  # also where a launch failed: the stream must leave its capture
            graph.upload(self.stream)
            return GpuGraph(self, graph, launches)

    def elapsed(self, work: Callable[[], None]) -> float:
        """Seconds that the device took for what `work` queued, by its own clock."""
        with self.at_work("timing"):
            first, last = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            first.record(self.stream)
            work()
            last.record(self.stream)
            last.synchronize()
            return float(self.cupy.cuda.get_elapsed_time(first, last)) / 1e3

    @contextmanager
    def at_work(self, what: str, nbytes: int | None = None) -> Iterator[None]:
        """Make this device the thread's current one, and every error of CuPy one of ours."""
        try:
            self._runtime.setDevice(self.index)
            yield
        except FusecError:
            raise
        except Exception as e:
            raise self._told(what, nbytes, e) from e

    def _told(self, what: str, nbytes: int | None, e: Exception) -> FusecError:
        """The error to raise for one of CuPy's."""
        name = getattr(self, "name", f"CUDA device {self.index}")
        status = getattr(e, "status", None)
        size = "" if nbytes is None else f" {nbytes:,} bytes"
        if isinstance(e, MemoryError) or status == OUT_OF_MEMORY:
            return ResourceError(
                f"{name} has not enough memory: {what}{size} failed",
                hint="use a smaller batch, or free memory that other programs hold; `nvidia-smi` shows who holds it",
            )
        if status == TOO_LARGE:
            return ExecutionError(f"{name} refuses a cooperative launch: its blocks cannot all be resident: {e}")
        hint = "`fusec doctor` says what this machine has"
        if status in STICKY:
            hint = (
                "a kernel broke CUDA's state for this process: start a new one; with compute-sanitizer to find out why"
            )
        return ExecutionError(f"{what} failed on {name}: {e}", hint=hint)

    def _attribute(self, name: str) -> int:
        return int(self._runtime.deviceGetAttribute(getattr(self._runtime, name), self.index))

    def _allow_shared(self, module: Module, shared: int) -> None:
        """Let a kernel have as much as it was ever asked for: regions of one module, or other shapes, need different sizes."""
        if shared > self._allowed.get(id(module), LARGE_SHARED):
            self._allowed[id(module)] = shared
            which = self._driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._driver.funcSetAttribute(_pointer(module), which, shared)

    def _check_resident(self, module: Module, blocks: int, shared: int) -> None:
        fits = self.resident(module, shared)
        if 1 <= blocks <= fits:
            return
        if shared > self.shared_limit:
            why = f"a block can have {self.shared_limit:,} bytes of shared memory, this region asks for {shared:,}"
        else:
            registers = self._driver.funcGetAttribute(self._driver.CU_FUNC_ATTRIBUTE_NUM_REGS, _pointer(module))
            why = (
                f"{fits} fit at once on {self.multiprocessors} multiprocessors, with {registers} registers a thread and "
                f"{shared:,} bytes of shared memory a block"
            )
        raise ExecutionError(
            f"{self.name} cannot launch {blocks} blocks that wait for each other: {why}",
            hint="blocks that are not resident together would wait forever",
        )

    def _queue(self, launch: Launch, stream: Any) -> None:
        """One cooperative launch. The driver copies the arguments before it returns."""
        argument = ctypes.c_uint64(launch.frame)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        self._driver.launchCooperativeKernel(
            _pointer(launch.module),
            launch.blocks,
            1,
            1,
            THREADS,
            1,
            1,
            launch.shared,
            stream.ptr,
            ctypes.addressof(arguments),
        )

    def _mapped_word(self) -> tuple[ctypes.c_int32, int]:
        """An int32 in pinned host memory, and its address on the device. It lives as long as the process."""
        flags = self._runtime.hostAllocMapped | self._runtime.hostAllocPortable
        pointer = int(self._runtime.hostAlloc(_ABORT_BYTES, flags))
        ctypes.memset(pointer, 0, _ABORT_BYTES)
        mapped = int(self._runtime.pointerGetAttributes(pointer).devicePointer)
        return ctypes.c_int32.from_address(pointer), mapped or pointer


def _pointer(module: Module) -> int:
    """The driver's handle of a module's kernel."""
    if not isinstance(module, GpuModule):
        raise BugError("a module of another device")
    return int(module.function.ptr)


def _inside(memory: Memory, offset: int, nbytes: int) -> None:
    if offset < 0 or nbytes < 0 or offset + nbytes > memory.nbytes:
        raise BugError(f"bytes {offset} to {offset + nbytes} of a block of {memory.nbytes}")


def _import_cupy() -> Any:
    """CuPy. ExecutionError that says what to install where it is absent or broken."""
    try:
        import cupy
        import cupy.cuda
    except Exception as e:  # a package that was built for another CUDA raises whatever its loader raises
        told = (
            "is not installed"
            if isinstance(e, ModuleNotFoundError) and e.name == "cupy"
            else f"cannot be imported: {e}"
        )
        raise ExecutionError(
            f"CuPy, which runs kernels on CUDA devices, {told}",
            hint="pip install 'fusec[cuda]', or cupy-cuda12x for drivers before 580; `fusec doctor` says which",
        ) from e
    return cupy


@cache
def open_device(level: str) -> CupyDevice:
    """The first device that runs code for a level such as `sm_90`. ExecutionError that says what is missing."""
    why = machine.missing_for(level)
    index = machine.gpu_for(level)
    if why or index is None:
        raise ExecutionError(
            f"cuda:{level} cannot run here: {why}",
            hint=f"`fusec doctor` says more; `--device cuda:{level}-emulated` runs the same kernels on the processor",
        )
    return CupyDevice(index, level)
