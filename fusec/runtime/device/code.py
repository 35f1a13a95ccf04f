"""Modules for the regions of a plan: all kernel classes that a region may choose, built or found in the cache, and loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.kernels import backend
from fusec.kernels.backend import Body
from fusec.kernels.cuda.device import Module
from fusec.kernels.kernel import Kernel
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.device.opened import Opened
from fusec.schedule.region import BoundRegion

if TYPE_CHECKING:
    from fusec.cache import ObjectCache

WIDE = 1 << 31
"""Elements of an operand from which on an index needs 64 bits."""


@dataclass(frozen=True, eq=False)
class RegionCode:
    """A loaded module, and its bodies by class."""

    module: Module
    bodies: Mapping[str, Body]


class Modules:
    """The modules of a plan. An emulated device gets one for all regions: a C++ compiler takes a second for each."""

    def __init__(self, plan: Plan, opened: Opened, cache: ObjectCache | None) -> None:
        maker = backend.device(plan.target.kind)
        if maker is None:
            raise BugError(f"{plan.target} has no memory of its own")
        self._maker, self._plan, self._opened, self._cache = maker, plan, opened, cache
        self._keys: dict[int, str] = {}
        self._made: dict[tuple[frozenset[str], bool], RegionCode] = {}
        self._lock = threading.Lock()

    def of(self, step: RegionStep, wide: bool) -> RegionCode:
        """The module for a region. CompileError where it cannot be built."""
        kernels = list(self._kernels([step]))
        if self._opened.is_emulated:
            kernels = list(self._kernels(s for s in self._plan.steps if isinstance(s, RegionStep)))
        key = frozenset(self.class_key(k) for k in kernels), wide
        with self._lock:
            if key not in self._made:
                built = self._maker.build_module(kernels, self._plan.target, self._cache, wide=wide)
                with self._opened.gate:
                    module = self._opened.device.load(built.code, built.entry)
                self._made[key] = RegionCode(module, built.bodies)
            return self._made[key]

    def class_key(self, kernel: Kernel) -> str:
        """The class of one of the plan's own kernels."""
        found = self._keys.get(id(kernel))
        if found is None:
            found = self._keys[id(kernel)] = self._maker.class_key(kernel, self._plan.target)
        return found

    def prepare(self) -> None:
        """Build what regions need at sizes that nearly all runs have, so that the first run does not wait for it."""
        for step in self._plan.steps:
            if isinstance(step, RegionStep):
                self.of(step, False)

    def _kernels(self, steps: Iterable[RegionStep]) -> Iterable[Kernel]:
        programs = dict.fromkeys(c.program.name for s in steps for c in s.calls)
        return (k for name in programs for k in self._plan.kernels.get(name, ()))


def is_wide(region: BoundRegion) -> bool:
    """Whether some operand has so many elements that indices need 64 bits."""
    return any(prod(shape) >= WIDE for call in region.calls for shape in call.kernel.shapes.values())
