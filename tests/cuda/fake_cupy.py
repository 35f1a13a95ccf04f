"""What stands in for CuPy where there is no driver: the same names and signatures over host memory, with a diary.

Launches are queued and run when somebody waits, as on a device; `on_launch` says what a launch does.
"""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Callable
from typing import Any


class FakeError(RuntimeError):
    """CuPy's CUDARuntimeError and CUDADriverError: a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class FakeCupy:
    """The package. `diary` lists what was asked of it, `memory` limits what its pool gives."""

    def __init__(self, processors: int = 4, blocks_each: int = 2, shared: int = 232448, memory: int = 1 << 30) -> None:
        self.diary: list[tuple[Any, ...]] = []
        self.on_launch: Callable[[str, int, int, int], None] = lambda entry, frame, blocks, shared: None
        self.blocks_each, self.memory, self.kept = blocks_each, memory, list[Any]()
        self.attributes = {
            "MultiProcessorCount": processors,
            "MaxSharedMemoryPerBlockOptin": shared,
            "CooperativeLaunch": 1,
        }
        fake = self

        class Stream:
            def __init__(self, null: bool = False, ptds: bool = False, non_blocking: bool = False) -> None:
                assert non_blocking
                fake.diary.append(("stream",))
                self.ptr, self.queue, self.busy, self.capturing = id(self), list[Any](), False, None
                self.error: FakeError | None = None
                fake.streams[self.ptr] = self

            def __enter__(self) -> Any:
                fake.current.append(self)
                return self

            def __exit__(self, *_: Any) -> None:
                assert fake.current.pop() is self

            def synchronize(self) -> None:
                assert not self.busy, "this would wait forever"
                error, self.error = self.error, None
                if error is not None:
                    raise error
                self.drain()

            def drain(self) -> None:
                with fake.running:  # a stream does one thing after the other, whoever waits for it
                    while self.queue:
                        self.queue.pop(0)()

            def begin_capture(self, mode: Any = None) -> None:
                assert fake.current[-1] is self
                self.capturing = []

            def end_capture(self) -> Any:
                work, self.capturing = self.capturing, None
                return Graph(work)

        class Graph:
            def __init__(self, work: Any) -> None:
                self.work = work

            def upload(self, stream: Any) -> None:
                fake.diary.append(("upload graph", len(self.work)))

            def launch(self, stream: Any) -> None:
                stream.queue.extend(self.work)

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
                self.stream: Any = None

            def record(self, stream: Any) -> None:
                self.stream = stream

            def synchronize(self) -> None:
                if self.stream is not None:
                    self.stream.synchronize()

        class Pointer:
            """Gives its block back at once: whatever is queued after it may get it, as with a pool of one stream."""

            def __init__(self, size: int, buffer: Any) -> None:
                self.size, self.buffer = size, buffer
                self.ptr = -(-ctypes.addressof(buffer) // 256) * 256

            def __del__(self) -> None:
                fake.free[self.size].append(self.buffer)

        class MemoryPool:
            def malloc(self, nbytes: int) -> Any:
                assert fake.current, "the pool must know whose stream it is"
                assert nbytes > 0
                if nbytes > fake.memory:
                    raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
                fake.diary.append(("malloc", nbytes))
                size = -(-nbytes // 512) * 512
                free = fake.free.setdefault(size, [])
                return Pointer(size, free.pop() if free else ctypes.create_string_buffer(size + 256))

            def free_bytes(self) -> int:
                return 5

        class Function:
            def __init__(self, module: Any, name: str) -> None:
                if name not in module.names:
                    raise FakeError(500, "CUDA_ERROR_NOT_FOUND: named symbol not found")
                self.ptr, self.name, self.module = id(self), name, module
                fake.functions[self.ptr] = self

        class Module:
            def load(self, cubin: bytes) -> None:
                assert type(cubin) is bytes
                if not cubin.startswith(b"\x7fELF"):
                    raise FakeError(200, "CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
                self.names = cubin[4:].decode().split()
                fake.diary.append(("load", len(cubin)))

            def get_function(self, name: str) -> Any:
                return Function(self, name)

        self.running = threading.RLock()
        self.free: dict[int, list[Any]] = {}
        self.streams: dict[int, Any] = {}
        self.functions: dict[int, Any] = {}
        self.current: list[Any] = []
        self.cuda = types.SimpleNamespace(
            Stream=Stream,
            Event=Event,
            MemoryPool=MemoryPool,
            function=types.SimpleNamespace(Module=Module),
            alloc_pinned_memory=self._pinned,
            get_elapsed_time=lambda a, b: 2.5,
            runtime=self._runtime(),
            driver=self._driver(),
        )

    def _pinned(self, nbytes: int) -> Any:
        self.diary.append(("pinned", nbytes))
        buffer = ctypes.create_string_buffer(nbytes)
        return types.SimpleNamespace(ptr=ctypes.addressof(buffer), buffer=buffer)

    def _runtime(self) -> Any:
        def copy(to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
            self.diary.append(("copy", {1: "to device", 2: "to host"}[kind], nbytes))
            self.streams[stream].queue.append(lambda: ctypes.memmove(to, source, nbytes))

        def query(stream: int) -> int:
            """A status, and no exception: as CuPy's."""
            at = self.streams[stream]
            if at.busy:
                return 600
            try:
                at.drain()
            except FakeError as e:
                at.error = e
            return 0 if at.error is None else at.error.status

        def host_alloc(nbytes: int, flags: int) -> int:
            assert flags == 1 | 2
            self.kept.append(ctypes.create_string_buffer(nbytes))
            return ctypes.addressof(self.kept[-1])

        return types.SimpleNamespace(
            setDevice=lambda index: None,
            getDeviceProperties=lambda index: {"name": b"NVIDIA Paper 90"},
            deviceGetAttribute=lambda which, index: self.attributes[which],
            memGetInfo=lambda: (1000, 2000),
            memcpyAsync=copy,
            streamQuery=query,
            hostAlloc=host_alloc,
            pointerGetAttributes=lambda pointer: types.SimpleNamespace(devicePointer=pointer),
            hostAllocPortable=1,
            hostAllocMapped=2,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            **{f"cudaDevAttr{n}": n for n in self.attributes},
        )

    def _driver(self) -> Any:
        def launch(function: int, *given: int) -> None:
            gx, gy, gz, bx, by, bz, shared, stream, arguments = given
            assert (gy, gz, by, bz) == (1, 1, 1, 1)
            address = ctypes.c_void_p.from_address(arguments).value
            assert address is not None
            frame = ctypes.c_uint64.from_address(address).value
            name = self.functions[function].name
            self.diary.append(("launch", name, gx, bx, shared))
            at = self.streams[stream]
            (at.queue if at.capturing is None else at.capturing).append(lambda: self.on_launch(name, frame, gx, shared))

        return types.SimpleNamespace(
            launchCooperativeKernel=launch,
            occupancyMaxActiveBlocksPerMultiprocessor=lambda f, threads, shared: self._occupancy(threads, shared),
            funcSetAttribute=lambda f, which, value: self.diary.append(("attribute", which, value)),
            funcGetAttribute=lambda which, f: 168,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            CU_FUNC_ATTRIBUTE_NUM_REGS=4,
        )

    def _occupancy(self, threads: int, shared: int) -> int:
        self.diary.append(("occupancy", threads, shared))
        return self.blocks_each
