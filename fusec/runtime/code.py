"""Machine code for a plan's kernels: one class at a time by name, all of them built or found in the cache beforehand."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from fusec.errors import BugError, ExecutionError
from fusec.kernels import backend
from fusec.runtime.frame import CallCode
from fusec.runtime.team import Driver, load_driver
from fusec.target import Target, host

if TYPE_CHECKING:
    from fusec.cache import ObjectCache
    from fusec.kernels.kernel import Kernel
    from fusec.plan.plan import Plan

_drivers: dict[Target, Driver] = {}
_lock = threading.Lock()


class KernelCode:
    """The code of every kernel on a plan's menus. Loading into memory happens when a kernel is first asked for."""

    def __init__(self, plan: Plan, cache: ObjectCache | None = None) -> None:
        check_target(plan.target)
        self._backend = backend.host_memory(plan.target.kind)
        kernels = [k for menu in plan.kernels.values() for k in menu]
        binaries = self._backend.build_all(kernels, plan.target, cache)
        self._binaries = {id(k): binaries[self._backend.class_key(k, plan.target)] for k in kernels}
        self._kernels = kernels  # an id means nothing once its object is gone
        self._loaded: dict[int, CallCode] = {}

    def __call__(self, kernel: Kernel) -> CallCode:
        """The code of one kernel, which must be one of the plan's own objects."""
        found = self._loaded.get(id(kernel))
        if found is None:
            binary = self._binaries.get(id(kernel))
            if binary is None:
                raise BugError(f"no machine code was made for a kernel of {kernel.program.name!r}")
            found = self._loaded[id(kernel)] = CallCode(self._backend.load(binary).address, binary)
        return found


def check_target(target: Target) -> None:
    """ExecutionError where this machine cannot execute code for a target."""
    if not backend.runs_here(target):
        maker = backend.device(target.kind) if target.kind in backend.known() else None
        why = f": {maker.missing(target.level)}" if maker is not None else ""
        raise ExecutionError(f"this machine cannot run code for {target}{why}", hint="compile the model for 'cpu'")


def driver_for(target: Target, cache: ObjectCache | None = None) -> Driver:
    """The driver for a target: one per process, its machine code kept in the cache like a kernel's.

    Kernels of every host-memory back end are called by the CPU's driver.
    """
    from fusec.kernels.cpu.build import build, recall, remember
    from fusec.kernels.cpu.driver import driver_source

    if target.kind != "cpu":
        target = host()
    with _lock:
        if target not in _drivers:
            source = driver_source(target.level)
            key = f"driver {hashlib.sha256(source.text.encode()).hexdigest()}"
            binary = recall(cache, key, target)
            if binary is None:
                binary = build(source, target, name="driver")
                remember(cache, key, target, binary)
            _drivers[target] = load_driver(binary)
        return _drivers[target]


def forget_lock() -> None:
    """In the child of a fork: nobody is left to open the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
