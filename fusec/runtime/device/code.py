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
from fusec.plan.plan import Plan, RegionStep, Step
from fusec.runtime.device.opened import Opened
from fusec.runtime.workers import usable_cores
from fusec.schedule.region import BoundRegion

if TYPE_CHECKING:
    from fusec.cache import ObjectCache

WIDE = 7 << 28
"""Elements of an operand from which on indices have 64 bits: some pass the end by a tile before they are compared with it."""


@dataclass(frozen=True, eq=False)
class RegionCode:
    """A loaded module, and its bodies by class."""

    module: Module
    bodies: Mapping[str, Body]


class Modules:
    """The modules of a plan: for each region one of the kernels that its sizes choose.

    An emulated device gets one for all regions where there are several: a C++ compiler takes a second for each.
    """

    def __init__(self, plan: Plan, opened: Opened, cache: ObjectCache | None) -> None:
        maker = backend.device(plan.target.kind)
        if maker is None:
            raise BugError(f"{plan.target} has no memory of its own")
        self._maker, self._plan, self._opened, self._cache = maker, plan, opened, cache
        self._keys: dict[int, str] = {}
        self.made: dict[tuple[frozenset[str], bool], RegionCode] = {}
        self._is_shared = opened.is_emulated and sum(isinstance(s, RegionStep) for s in plan.steps) > 1
        self._lock = threading.Lock()

    def of(self, region: BoundRegion) -> RegionCode:
        """The module for a region whose kernels are chosen. CompileError where it cannot be built."""
        kernels = list({id(c.kernel.kernel): c.kernel.kernel for c in region.calls}.values())
        if self._is_shared:
            kernels = kernels_of(self._plan, self._plan.steps)
        wide = is_wide(region)
        key = self._key(kernels, wide)
        with self._lock:
            if key not in self.made:
                self.made[key] = self._load(self._build(kernels, wide))
            return self.made[key]

    def _key(self, kernels: Sequence[Kernel], wide: bool) -> tuple[frozenset[str], bool]:
        return frozenset(self.class_key(k) for k in kernels), wide

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
        """Build what is known to be needed, several modules at a time: compilers run outside Python."""
        wanted: dict[tuple[frozenset[str], bool], list[Kernel]] = {}
        regions = [kernels_of(self._plan, self._plan.steps)] if self._is_shared else settled_regions(self._plan)
        for kernels in regions:
            wanted.setdefault(self._key(kernels, False), kernels)
        if len(wanted) < 2:
            built = [self._build(kernels, False) for kernels in wanted.values()]
        else:
            with ThreadPoolExecutor(min(len(wanted), usable_cores())) as pool:
                built = list(pool.map(lambda kernels: self._build(kernels, False), wanted.values()))
        with self._lock:
            for key, code in zip(wanted, built, strict=True):
                self.made[key] = self._load(code)


def kernels_of(plan: Plan, steps: Iterable[Step]) -> list[Kernel]:
    """All kernels that some steps of a plan may use."""
    programs = dict.fromkeys(c.program.name for s in steps if isinstance(s, RegionStep) for c in s.calls)
    return [k for name in programs for k in plan.kernels.get(name, ())]


def settled_regions(plan: Plan) -> list[list[Kernel]]:
    """The kernels of each region in which nothing is left to choose; others wait until their sizes are known.

    A module of everything that a region may choose would take minutes to build where many sizes are open.
    """
    regions = [s for s in plan.steps if isinstance(s, RegionStep)]
    return [
        kernels_of(plan, [s]) for s in regions if all(len(plan.kernels.get(c.program.name, ())) == 1 for c in s.calls)
    ]


def is_wide(region: BoundRegion) -> bool:
    """Whether some operand has so many elements that indices need 64 bits."""
    return any(prod(shape) >= WIDE for call in region.calls for shape in call.kernel.shapes.values())
