"""Back ends: who turns Kernels into machine code for a kind of device, and where they are found by name.

`cpu` is built in. A package adds another one with an entry point, a `Backend` or a function without arguments that makes one:

    [project.entry-points."fusec.backends"]
    mychip = "my_package.backend:MyChip"

Names are listed without importing anything; a back end is imported when a device of its kind is asked for. There are two
protocols, with `Emitter` in common. A `Backend` makes *host-memory* code: its kernels read and write the memory of this
process, and the worker team calls them one by one as the CPU ABI in kernels/kernel.py says (`Source.entry`). A `DeviceBackend`
has memory and launches of its own: a whole region is one module and one launch, and running it is a matter of
runtime/device. Entry points are for the former; `cuda`, built in, is the only one of the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fusec.errors import BugError, UsageError, nearest
from fusec.kernels.kernel import Binary, Kernel, Source
from fusec.plug_ins import PlugIns, package_of
from fusec.target import Isa, Target

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.kernels.cuda.device import Device

OWN = ("cpu", "cuda")
EMULATED = "-emulated"
"""What names of levels end with whose code is executed by the processor, in place of the device."""
PLUG_INS = PlugIns("fusec.backends", "back end", own=OWN)


class Loaded(Protocol):
    """Code in memory, for the rest of the process' life."""

    @property
    def address(self) -> int:
        """The address of `void entry(i64* slots, i64 first_tile, i64 count, i8* scratch)`."""


class Emitter(Protocol):
    """One kind of device. Methods raise CompileError where code cannot be made; everything may be called from any thread."""

    @property
    def kind(self) -> str:
        """The first part of a target's name."""

    @property
    def levels(self) -> tuple[str, ...]:
        """The second parts, the best one first."""

    def runs_here(self, level: str) -> bool:
        """Whether this machine can execute code for a level."""

    def class_key(self, kernel: Kernel, target: Target) -> str:
        """Equal for kernels that may share machine code."""

    def emit(self, kernel: Kernel, target: Target) -> Source:
        """A kernel as text for the compiler."""

    def assembly(self, source: Source, target: Target) -> str:
        """The machine code of a source, to be read by people."""


@runtime_checkable
class Backend(Emitter, Protocol):
    """A kind of device whose kernels are functions in this process."""

    def isa(self, level: str) -> Isa:
        """Lanes and registers that tilings for a level are made for."""

    def build_all(self, kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None) -> dict[str, Binary]:
        """Machine code for every class among the kernels, by `class_key`, from the cache where it is there."""

    def load(self, binary: Binary) -> Loaded:
        """Put machine code into memory, or find it there."""


@dataclass(frozen=True, eq=False, slots=True)
class ModuleCode:
    """The code of a region: one entry for all kernels. `bodies` says by class key what a row calls it and what it needs."""

    code: bytes
    entry: str
    bodies: Mapping[str, Body]


@dataclass(frozen=True, slots=True)
class Body:
    """A kernel class within a module: its number, and its source for slots, scratch and shared memory."""

    number: int
    source: Source


@runtime_checkable
class DeviceBackend(Emitter, Protocol):
    """A kind of device with memory of its own, where a region is one launch of one module."""

    def missing(self, level: str) -> str:
        """Why this machine cannot execute code for a level, for people; empty where it can."""

    def build_module(
        self, kernels: Sequence[Kernel], target: Target, cache: ObjectCache | None, *, wide: bool = False
    ) -> ModuleCode:
        """One module of every class among the kernels; `wide` where some operand has 2^31 elements or more."""

    def open(self, level: str) -> Device:
        """A device that executes code for a level. ExecutionError where there is none."""


_loaded: dict[str, Emitter] = {}


def known() -> tuple[str, ...]:
    """The kinds of devices that there are back ends for; no package is imported."""
    return (*OWN, *sorted(PLUG_INS.points()))


def get(kind: str) -> Emitter:
    """The back end of a kind of device. UsageError where there is none or its package is broken."""
    found = _loaded.get(kind)
    if found is None:
        found = _loaded[kind] = _find(kind)
    return found


def host_memory(kind: str) -> Backend:
    """The back end of a kind of device whose kernels are functions in this process. BugError where it is another one."""
    found = get(kind)
    if not isinstance(found, Backend):
        raise BugError(f"kernels of device {kind!r} are no functions in this process")
    return found


def device(kind: str) -> DeviceBackend | None:
    """The back end of a kind of device with memory of its own; None where it is another one, or not installed."""
    found = get(kind) if kind in OWN or kind in known() else None
    return found if isinstance(found, DeviceBackend) else None


def resolve(target: Target) -> Target:
    """The target with its level: the one it names, or the best that runs here. UsageError where there is no such device.

    Emulated levels run anywhere, and slowly: they must be named.
    """
    backend = get(target.kind)
    if not target.level:
        real = [n for n in backend.levels if not n.endswith(EMULATED)]
        best = next((n for n in real if backend.runs_here(n)), None)
        if best is None and isinstance(backend, DeviceBackend):
            raise UsageError(
                f"no device {target.kind!r} here: {backend.missing(real[-1])}",
                hint=f"name a level to compile for another machine, such as '{target.kind}:{real[0]}'; "
                f"'{target.kind}:{real[-1]}{EMULATED}' runs here, slowly, to check results",
            )
        return Target(target.kind, best or backend.levels[0])
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


def _find(kind: str) -> Emitter:
    if kind == "cpu":
        from fusec.kernels.cpu.backend import CpuBackend

        return CpuBackend()
    if kind == "cuda":
        from fusec.kernels.cuda.backend import CudaBackend

        return CudaBackend()
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
