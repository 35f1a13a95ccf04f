"""A device to measure on, a GPU or the emulator, and kernels of our own that are built and launched directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.api import open_cache
from fusec.kernels.cuda.device import Device, Memory, Module
from fusec.kernels.cuda.module import PRELUDE, ModuleText


@dataclass(frozen=True, eq=False)
class Lab:
    """A device and how its code is made. `level` is that of a GPU, as `sm_90`, also where it is emulated."""

    device: Device
    level: str
    emulated: bool

    @property
    def target(self) -> str:
        """What `--device` and `fusec.compile` call it."""
        return f"cuda:{self.level}" + ("-emulated" if self.emulated else "")

    def build(self, text: str, entry: str, headers: Sequence[str] = ()) -> Module:
        """A module of a kernel's text; headers of kernels/cuda/device are included."""
        lines = "".join(f'#include "{name}"\n' for name in (*PRELUDE, *headers))
        module = ModuleText(lines + text, entry, False)
        if self.emulated:
            from fusec.kernels.cuda.emulator.build import build

            return self.device.load(build(module, self.level, open_cache()), entry)
        from fusec.kernels.cuda.nvrtc import build as build_cubin

        return self.device.load(build_cubin(module, self.level, open_cache()).code, entry)

    def memory(self, array: npt.NDArray[Any]) -> Memory:
        """An array's bytes on the device."""
        memory = self.device.allocate(array.nbytes)
        self.device.upload(memory, 0, array)
        return memory

    def words(self, *values: int) -> Memory:
        """A structure of 64-bit words: the argument of a kernel."""
        return self.memory(np.array(values, np.int64))

    def read(self, memory: Memory, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A whole block as an array."""
        return self.device.download(memory, 0, memory.nbytes).view(dtype)

    def seconds(self, work: Callable[[], None]) -> float:
        """How long the device takes for what `work` queues: by its own clock where it has one."""
        elapsed = getattr(self.device, "elapsed", None)
        if elapsed is not None:
            return float(elapsed(work))
        self.device.synchronise()
        start = time.perf_counter()
        work()
        self.device.synchronise()
        return time.perf_counter() - start

    def best(self, work: Callable[[], None], rounds: int) -> list[float]:
        """Seconds of each of several rounds, after one that warms up."""
        work()
        self.device.synchronise()
        return [self.seconds(work) for _ in range(rounds)]


def open_lab(level: str, emulated: bool) -> Lab:
    """A GPU of a level, or the emulator. ExecutionError where there is none."""
    if emulated:
        from fusec.kernels.cuda.emulator.device import EmulatedDevice

        return Lab(EmulatedDevice(level), level, True)
    from fusec.kernels.cuda.cupy_device import open_device

    return Lab(open_device(level), level, False)


def here() -> tuple[str, bool] | None:
    """The level of this machine's GPU; None where there is none that runs code of ours."""
    from fusec.kernels.cuda import machine
    from fusec.kernels.cuda.levels import LEVELS

    ready = [n for n in LEVELS if not machine.missing_for(n)]
    return (ready[0], False) if ready else None
