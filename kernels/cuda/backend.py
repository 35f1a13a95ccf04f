"""CUDA as a back end. Emitters, compilers and CuPy are imported by the first method that needs them.

Each level exists twice: `sm_90` is compiled by NVRTC and runs on a GPU, `sm_90-emulated` is the same text compiled for the
processor, with the emulator in place of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusec.kernels.backend import EMULATED
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.kernel import Kernel, Source
from fusec.target import Target

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.kernels.backend import ModuleCode
    from fusec.kernels.cuda.device import Device


class CudaBackend:
    """NVIDIA's GPUs, and their emulation."""

    kind = "cuda"
    levels = (*LEVELS, *(f"{name}{EMULATED}" for name in LEVELS))

    def runs_here(self, level: str) -> bool:
        """Whether there is a GPU of the level, or a C++ compiler to emulate it."""
        return level in self.levels and not self.missing(level)

    def missing(self, level: str) -> str:
        """Why code for a level cannot run here; empty where it can."""
        if level.endswith(EMULATED):
            from fusec.kernels.cuda.emulator.build import compiler

            return "" if compiler() is not None else "emulation needs a C++ compiler such as g++"
        from fusec.kernels.cuda import machine

        return machine.missing_for(level)

    def class_key(self, kernel: Kernel, target: Target) -> str:
        """See kernels.cuda.kernel_class."""
        from fusec.kernels.cuda.kernel_class import class_key

        return class_key(kernel, target)

    def emit(self, kernel: Kernel, target: Target) -> Source:
        """C++ text."""
        from fusec.kernels.cuda.emit import emit

        return emit(kernel, target)

    def assembly(self, source: Source, target: Target) -> str:
        """The machine code of a module with this kernel alone, after what the compiler says about its registers."""
        from fusec.kernels.cuda import lint, nvrtc
        from fusec.kernels.cuda.module import module_text

        cubin = nvrtc.build(module_text([source]), target.level.removesuffix(EMULATED))
        return f"{cubin.log}\n{lint.sass(cubin)}"

    def build_module(
        self, kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None, *, wide: bool = False
    ) -> ModuleCode:
        """A translation unit of all classes, compiled by NVRTC or for the emulator."""
        from fusec.kernels.cuda.build import build_module

        return build_module(kernels, target, cache, wide=wide)

    def open(self, level: str) -> Device:
        """The device of a level."""
        if level.endswith(EMULATED):
            from fusec.kernels.cuda.emulator.device import EmulatedDevice

            return EmulatedDevice(level.removesuffix(EMULATED))
        from fusec.kernels.cuda.cupy_device import open_device

        return open_device(level)
