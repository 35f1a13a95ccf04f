"""The steps of a compiled model: regions of kernel calls, and host steps between them."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Node
from fusec.kernels.kernel import Call


@dataclass(frozen=True, slots=True)
class HostStep:
    """An opaque node: it runs in Python between regions. Dimensions of its outputs that are fresh symbols are bound by it."""

    node: Node


@dataclass(frozen=True, slots=True)
class RegionStep:
    """Kernels in program order that run as one persistent launch.

    `inputs` are the values that it reads and that exist before it (graph inputs and values of earlier steps; weights are
    not listed), `outputs` those that it makes and that someone reads later. Everything else it makes lives in its arena.
    """

    calls: tuple[Call, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Step = HostStep | RegionStep
