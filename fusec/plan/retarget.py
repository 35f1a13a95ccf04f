"""A plan for another machine: the portable part is kept, tilings and packed weights are made again for this one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from fusec.errors import PlanError
from fusec.ir.graph import Graph, Value, Weight
from fusec.ir.types import TensorType
from fusec.plan.pack import pack_weights
from fusec.plan.plan import Plan, PlanWeight
from fusec.target import Target


def retarget(plan: Plan, target: Target) -> Plan:
    """The same model for another target. PlanError where a weight was stored in another shape than the graph gives it."""
    from fusec.tiling.choose import menu

    precision = plan.numerics.get("precision", "f32")
    kernels = {name: menu(old[0].program, target, precision=precision) for name, old in plan.kernels.items()}
    weights: dict[str, Weight] = {}
    for w in plan.weights.values():
        if w.value.name not in weights:
            weights[w.value.name] = Weight(_declared(plan, w), _logical(plan, w), w.recipe)
    graph = Graph(plan.name, plan.inputs, plan.outputs, (), weights)
    try:
        packed = pack_weights(graph, plan.steps, kernels, plan.aliases)
    except ValueError as e:
        raise PlanError(f"a weight of the plan has another shape than its program: {e}") from e
    return replace(plan, target=target, kernels=kernels, weights=packed)


def _declared(plan: Plan, w: PlanWeight) -> Value:
    kind = plan.values.get(w.value.name, w.value.type)
    if not isinstance(kind, TensorType) or not kind.is_static:
        raise PlanError(f"weight {w.value.name!r} of the plan has the type {kind}")
    return Value(w.value.name, kind)


def _logical(plan: Plan, w: PlanWeight) -> npt.NDArray[Any]:
    shape = [int(d) for d in w.value.shape if isinstance(d, int)]
    declared = [int(d) for d in _declared(plan, w).shape if isinstance(d, int)]
    try:
        array = w.array if w.layout.is_row_major else w.layout.unpack(w.array, shape)
        return array.reshape(declared)
    except ValueError as e:
        raise PlanError(f"weight {w.value.name!r} of the plan has the shape {shape}, its value {declared}: {e}") from e
