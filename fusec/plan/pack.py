"""Weights as a plan stores them: each once per layout that some kernel reads it in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import substitute
from fusec.ir.graph import Graph, Value, Weight
from fusec.ir.types import TensorType
from fusec.kernels.kernel import Call, Kernel
from fusec.kernels.layout import Layout
from fusec.plan.plan import HostStep, PlanWeight, RegionStep, Step, layout_key


def pack_weights(
    graph: Graph,
    steps: Iterable[Step],
    kernels: Mapping[str, tuple[Kernel, ...]],
    aliases: Mapping[str, str],
) -> dict[tuple[str, str], PlanWeight]:
    """The stored weights by (name, layout key): those that kernels, host steps and graph outputs read.

    A program may declare another shape for a weight than the graph does (axes merged); its layout is over the program's
    shape, and so is the type that is stored with it.
    """
    packer = _Packer(graph, aliases)
    for step in steps:
        if isinstance(step, RegionStep):
            for call in step.calls:
                for kernel in kernels[call.program.name]:
                    packer.call(call, kernel)
        elif isinstance(step, HostStep):
            for v in step.node.operands:
                packer.plain(v.name)
    for v in graph.outputs:
        packer.plain(v.name)
    return packer.stored


class _Packer:
    def __init__(self, graph: Graph, aliases: Mapping[str, str]) -> None:
        self.weights, self.aliases = graph.weights, aliases
        self.stored: dict[tuple[str, str], PlanWeight] = {}

    def find(self, name: str) -> Weight | None:
        while name in self.aliases:
            name = self.aliases[name]
        return self.weights.get(name)

    def plain(self, name: str) -> None:
        if (w := self.find(name)) is not None:
            self._keep(w, Layout.row_major(w.array.ndim), w.array.shape)

    def call(self, call: Call, kernel: Kernel) -> None:
        params = dict(call.params)
        for operand, name in call.operands:
            if (w := self.find(name)) is None:
                continue
            layout = kernel.layouts[operand]
            if layout.is_row_major:
                self.plain(name)
                continue
            shape = [substitute(d, params) for d in call.program.operand[operand].shape]
            known = tuple(d for d in shape if isinstance(d, int))
            if len(known) != len(shape):
                raise BugError(f"{call.label}: weight {name!r} has the symbolic shape {shape} in {call.program.name}")
            self._keep(w, layout, known)

    def _keep(self, w: Weight, layout: Layout, shape: Sequence[int]) -> None:
        key = w.value.name, layout_key(layout)
        if key in self.stored:
            return
        array: npt.NDArray[Any] = np.ascontiguousarray(w.array).reshape(shape)
        if not layout.is_row_major:
            array = layout.pack(array)
        value = Value(w.value.name, TensorType(w.value.dtype, tuple(shape)))
        self.stored[key] = PlanWeight(value, layout, array, w.recipe)
