"""Modules for the regions of a plan: all kernel classes that a region may choose, built or found in the cache, and loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.kernels import backend
from fusec.kernels.backend import Body, ModuleCode
from fusec.kernels.cuda.device import Module
from fusec.kernels.kernel import Kernel
from fusec.plan.plan import Plan, RegionStep
from fusec.runtime.device.opened import Opened
from fusec.runtime.workers import usable_cores
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
        self.made: dict[tuple[frozenset[str], bool], RegionCode] = {}
        self._lock = threading.Lock()

    def of(self, step: RegionStep, wide: bool) -> RegionCode:
        """The module for a region. CompileError where it cannot be built."""
        kernels = self._kernels_for(step)
        key = frozenset(self.class_key(k) for k in kernels), wide
        with self._lock:
            if key not in self.made:
                self.made[key] = self._load(self._build(kernels, wide))
            return self.made[key]

    def _build(self, kernels: Sequence[Kernel], wide: bool) -> ModuleCode:
        return self._maker.build_module(kernels, self._plan.target, self._cache, wide=wide)

    def _load(self, built: ModuleCode) -> RegionCode:
        with self._opened.gate:
            return RegionCode(self._opened.device.load(built.code, built.entry), built.bodies)

    def class_key(self, kernel: Kernel) -> str:
        """The class of one of the plan's own kernels."""
        found = self._keys.get(id(kernel))
        if found is None:
            found = self._keys[id(kernel)] = self._maker.class_key(kernel, self._plan.target)
        return found

    def prepare(self) -> None:
        """Build what regions need at sizes that nearly all runs have, several at a time: compilers run outside Python."""
        wanted: dict[tuple[frozenset[str], bool], list[Kernel]] = {}
        for step in self._plan.steps:
            if isinstance(step, RegionStep):
                kernels = self._kernels_for(step)
                wanted.setdefault((frozenset(self.class_key(k) for k in kernels), False), kernels)
        if len(wanted) < 2:
            built = [self._build(kernels, False) for kernels in wanted.values()]
        else:
            with ThreadPoolExecutor(min(len(wanted), usable_cores())) as pool:
                built = list(pool.map(lambda kernels: self._build(kernels, False), wanted.values()))
        with self._lock:
            for key, code in zip(wanted, built, strict=True):
                self.made[key] = self._load(code)

    def _kernels_for(self, step: RegionStep) -> list[Kernel]:
        if self._opened.is_emulated:
            return self._kernels(s for s in self._plan.steps if isinstance(s, RegionStep))
        return self._kernels([step])

    def _kernels(self, steps: Iterable[RegionStep]) -> list[Kernel]:
        programs = dict.fromkeys(c.program.name for s in steps for c in s.calls)
        return [k for name in programs for k in self._plan.kernels.get(name, ())]


def is_wide(region: BoundRegion) -> bool:
    """Whether some operand has so many elements that indices need 64 bits."""
    return any(prod(shape) >= WIDE for call in region.calls for shape in call.kernel.shapes.values())
