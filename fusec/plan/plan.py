"""Plan: everything that is needed to run a model, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from fusec.errors import BugError, PlanError
from fusec.ir.graph import Metadata, Value
from fusec.ir.requirement import Requirement
from fusec.ir.types import Type
from fusec.kernels.kernel import Kernel
from fusec.kernels.layout import Layout
from fusec.kernels.steps import HostStep, RegionStep, Step
from fusec.target import Target

__all__ = ["HostStep", "Plan", "PlanWeight", "RegionStep", "Step", "layout_key"]


@dataclass(frozen=True, slots=True)
class PlanWeight:
    """A constant as stored: `array` has the physical shape of `layout` over the logical type of `value`."""

    value: Value
    layout: Layout
    array: npt.NDArray[Any]
    recipe: str


def layout_key(layout: Layout) -> str:
    """How a layout is named in `Plan.weights`: all row-major ones are one, whatever shape a program gives the bytes."""
    return "" if layout.is_row_major else str(layout)


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled model.

    `requirements` are what it needs of its sizes; each is checked when its symbols get numbers.
    `aliases` maps a value to the value whose bytes it shares (a reshape of it); resolve until it is no key. `kernels` is
    the menu per program name; of the kernels whose guard admits a binding the first is used. `weights` is keyed by
    (value name, layout key). `fused` is the fused graph as text, for people and for recompiling; `source_sha256` is
    the hash of the model file, `metadata` what that says about itself. `fuse` and `passes` are the options of the compile:
    the bodies of its host steps are compiled with the same. `from_file` marks a plan that was read: who wrote the file is
    not known.
    """

    name: str
    target: Target
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: Mapping[str, Type]
    aliases: Mapping[str, str]
    steps: tuple[Step, ...]
    kernels: Mapping[str, tuple[Kernel, ...]]
    weights: Mapping[tuple[str, str], PlanWeight]
    requirements: tuple[Requirement, ...] = ()
    numerics: Mapping[str, str] = field(default_factory=dict)
    fuse: bool = True
    passes: str = ""
    fused: str = ""
    source_sha256: str = ""
    metadata: Metadata = field(default=Metadata())
    from_file: bool = False

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Broken promises that show up in here are the file's where the plan was read from one: PlanError, not BugError."""
        try:
            yield
        except BugError as e:
            if not self.from_file:
                raise
            hint = "compile the model again; where that does not help, please report it"
            raise PlanError(f"the plan contradicts itself: {e.message}", hint=hint, node=e.node) from e

    def root(self, value: str) -> str:
        """The value that owns the bytes of `value`."""
        while value in self.aliases:
            value = self.aliases[value]
        return value
