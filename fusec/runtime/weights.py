"""A plan's weights in memory: aligned, found by value and layout, unpacked where Python reads them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.types import TensorType
from fusec.plan.plan import Plan, layout_key
from fusec.runtime.memory import address_of, aligned
from fusec.schedule.region import BoundCall


class Weights:
    """Addresses for kernels, arrays for host steps and outputs. Keeps what it hands out alive."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stored = {key: aligned(np.asarray(w.array)) for key, w in plan.weights.items()}
        self._addresses = {key: address_of(a) for key, a in self._stored.items()}
        self._layouts: dict[str, list[str]] = {}
        for name, layout in plan.weights:
            self._layouts.setdefault(name, []).append(layout)
        self._logical: dict[str, npt.NDArray[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._layouts

    @property
    def bytes(self) -> int:
        """Memory of all weights."""
        return sum(a.nbytes for a in self._stored.values())

    def address(self, call: BoundCall, operand: str) -> int:
        """Where a call finds a weight operand. BugError where the plan has not packed it as its kernel wants it."""
        return self._addresses[self.find(call, operand)]

    def stored(self, key: tuple[str, str]) -> npt.NDArray[Any]:
        """A weight as it is stored."""
        return self._stored[key]

    def find(self, call: BoundCall, operand: str) -> tuple[str, str]:
        """The name and layout key of the weight behind an operand. BugError where the plan has none in that layout."""
        layout = call.kernel.kernel.layouts[operand]
        value = dict(call.call.operands)[operand]
        for name in (value, self._plan.root(value)):
            key = name, layout_key(layout)
            if key in self._addresses:
                self._check(call, operand, key)
                return key
        raise BugError(f"{call.label}: the plan has no weight {value!r} in layout {layout}", node=call.label)

    def _check(self, call: BoundCall, operand: str, key: tuple[str, str]) -> None:
        """BugError where the stored weight is not what the call's program declares: kernels trust that it is."""
        weight, shape = self._plan.weights[key], call.kernel.shape(operand)
        dtype = call.call.program.operand[operand].dtype
        same = weight.value.shape == shape if key[1] else prod(shape) == self._stored[key].size
        if not same or weight.value.dtype is not dtype:
            raise BugError(
                f"operand {operand} of {call.label} is {dtype}{list(shape)}, the weight {key[0]!r} is {weight.value.type}",
                node=call.label,
            )

    def logical(self, name: str) -> npt.NDArray[Any]:
        """The constant as a plain array that nobody may write to."""
        if name not in self._logical:
            layout = min(self._layouts[name])  # row-major, whose key is empty, where it is stored
            weight = self._plan.weights[name, layout]
            kind = weight.value.type
            if not isinstance(kind, TensorType) or not kind.is_static:
                raise BugError(f"weight {name!r} has type {kind}")
            shape = [int(d) for d in kind.dims if isinstance(d, int)]
            stored = self._stored[name, layout]
            plain = stored.reshape(shape) if weight.layout.is_row_major else weight.layout.unpack(stored, shape)
            self._logical[name] = plain.view()
            self._logical[name].flags.writeable = False
        return self._logical[name]
