"""The CPU as a back end. Emitters and LLVM are imported by the first method that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusec.kernels.kernel import Binary, Kernel, Source
from fusec.target import ISAS, Isa, Target, runs_here

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.kernels.cpu.load import Loaded


class CpuBackend:
    """The instruction levels of fusec.target; each target's `level` picks one."""

    kind = "cpu"
    levels = ("avx512vnni", "avx512", "avx2vnni", "avx2", "generic", "neon")

    def runs_here(self, level: str) -> bool:
        """Whether processor and operating system have the level."""
        return runs_here(level)

    def isa(self, level: str) -> Isa:
        """What the level has."""
        return ISAS[level]

    def class_key(self, kernel: Kernel, target: Target) -> str:
        """See kernels.cpu.kernel_class."""
        from fusec.kernels.cpu.kernel_class import class_key

        return class_key(kernel, target)

    def emit(self, kernel: Kernel, target: Target) -> Source:
        """LLVM IR."""
        from fusec.kernels.cpu.emit import emit

        return emit(kernel, target)

    def assembly(self, source: Source, target: Target) -> str:
        """What LLVM makes of it, as text."""
        from fusec.kernels.cpu.llvm import assembly

        return assembly(source.text, target.level)

    def build_all(self, kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None) -> dict[str, Binary]:
        """Objects, made by worker processes where there are many to make."""
        from fusec.kernels.cpu.build import build_all

        return build_all(kernels, target, cache)

    def load(self, binary: Binary) -> Loaded:
        """Link it into this process."""
        from fusec.kernels.cpu.load import load

        return load(binary)
