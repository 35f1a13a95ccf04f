"""Back ends: who turns Kernels into machine code for a kind of device, and where they are found by name.

`cpu` is built in. A package adds another one with an entry point, a `Backend` or a function without arguments that makes one:

    [project.entry-points."fusec.backends"]
    mychip = "my_package.backend:MyChip"

Names are listed without importing anything; a back end is imported when a device of its kind is asked for. These are
*host-memory* back ends: their kernels read and write the memory of this process, and the worker team calls them as the CPU
ABI in kernels/kernel.py says (`Source.entry`). Devices with memory and a launch of their own need a protocol of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fusec.errors import UsageError, nearest
from fusec.kernels.kernel import Binary, Kernel, Source
from fusec.plug_ins import PlugIns, package_of
from fusec.target import Isa, Target

if TYPE_CHECKING:
    from fusec.cache import ObjectCache

OWN = ("cpu",)
PLUG_INS = PlugIns("fusec.backends", "back end", own=OWN)


class Loaded(Protocol):
    """Code in memory, for the rest of the process' life."""

    @property
    def address(self) -> int:
        """The address of `void entry(i64* slots, i64 first_tile, i64 count, i8* scratch)`."""


@runtime_checkable
class Backend(Protocol):
    """One kind of device. Methods raise CompileError where code cannot be made; everything may be called from any thread."""

    @property
    def kind(self) -> str:
        """The first part of a target's name."""

    @property
    def levels(self) -> tuple[str, ...]:
        """The second parts, the best one first."""

    def runs_here(self, level: str) -> bool:
        """Whether this machine can execute code for a level."""

    def isa(self, level: str) -> Isa:
        """Lanes and registers that tilings for a level are made for."""

    def class_key(self, kernel: Kernel, target: Target) -> str:
        """Equal for kernels that may share machine code."""

    def emit(self, kernel: Kernel, target: Target) -> Source:
        """A kernel as text for the compiler."""

    def assembly(self, source: Source, target: Target) -> str:
        """The machine code of a source, to be read by people."""

    def build_all(self, kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None) -> dict[str, Binary]:
        """Machine code for every class among the kernels, by `class_key`, from the cache where it is there."""

    def load(self, binary: Binary) -> Loaded:
        """Put machine code into memory, or find it there."""


_loaded: dict[str, Backend] = {}


def known() -> tuple[str, ...]:
    """The kinds of devices that there are back ends for; no package is imported."""
    return (*OWN, *sorted(PLUG_INS.points()))


def get(kind: str) -> Backend:
    """The back end of a kind of device. UsageError where there is none or its package is broken."""
    found = _loaded.get(kind)
    if found is None:
        found = _loaded[kind] = _find(kind)
    return found


def resolve(target: Target) -> Target:
    """The target with its level: the one it names, or the best that runs here. UsageError where there is no such device."""
    backend = get(target.kind)
    if not target.level:
        best = next((n for n in backend.levels if backend.runs_here(n)), backend.levels[0])
        return Target(target.kind, best)
    if target.level not in backend.levels:
        raise UsageError(
            f"unknown level {target.level!r} of device {target.kind!r}", hint=nearest(target.level, backend.levels)
        )
    return target


def runs_here(target: Target) -> bool:
    """Whether this process can execute code for a target: its back end is installed and says so."""
    if target.kind not in known():
        return False
    backend = get(target.kind)
    return target.level in backend.levels and backend.runs_here(target.level)


def _find(kind: str) -> Backend:
    if kind in OWN:
        from fusec.kernels.cpu.backend import CpuBackend

        return CpuBackend()
    if (point := PLUG_INS.find(kind)) is None:
        raise UsageError(f"unknown device {kind!r}", hint=nearest(kind, known()))
    made = PLUG_INS.load(kind)
    if isinstance(made, type) or (callable(made) and not isinstance(made, Backend)):
        try:
            made = made()
        except Exception as e:  # whatever a stranger's constructor raises
            raise UsageError(
                f"package {package_of(point)!r} offers back end {kind!r}, but {point.value!r} fails: "
                f"{type(e).__name__}: {e}",
                hint="fix or uninstall the package",
            ) from e
    if not isinstance(made, Backend) or made.kind != kind or not made.levels:
        raise UsageError(
            f"package {package_of(point)!r} offers back end {kind!r}, but {point.value!r} is none: it needs the members of "
            f"fusec.kernels.backend.Backend, the kind {kind!r} and at least one level",
            hint="fix or uninstall the package",
        )
    return made
