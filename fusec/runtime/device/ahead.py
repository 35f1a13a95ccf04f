"""Modules made ahead of their use, on a machine that need not have the device: they are left in the cache of compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusec.errors import BugError
from fusec.kernels import backend
from fusec.plan.plan import Plan
from fusec.runtime.device.code import settled_regions

if TYPE_CHECKING:
    from fusec.cache import ObjectCache


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was made: modules, the kernel classes in them, bytes of machine code."""

    modules: int
    classes: int
    bytes: int


def build_ahead(plan: Plan, cache: ObjectCache | None) -> Ahead:
    """Compile what the regions of a plan need, where that does not depend on sizes that are open.

    CompileError where the compiler is absent or refuses a module.
    """
    maker = backend.device(plan.target.kind)
    if maker is None:
        raise BugError(f"{plan.target} has no modules")
    sizes: dict[frozenset[str], int] = {}
    for kernels in settled_regions(plan):
        key = frozenset(maker.class_key(k, plan.target) for k in kernels)
        if key not in sizes:
            sizes[key] = len(maker.build_module(kernels, plan.target, cache).code)
    return Ahead(len(sizes), len({c for key in sizes for c in key}), sum(sizes.values()))
