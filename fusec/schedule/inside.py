"""The proof that a kernel stays inside its operands, whoever wrote its program: a plan file is data that nobody trusts.

Machine code checks guarded loads and indices that are read from memory. Everything else must be shown here, with the
numbers of a call: each index polynomial of each load and store lies inside its operand over the whole iteration space.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from fusec.errors import BugError, ResourceError
from fusec.ir.dim import Extent, substitute, symbols_of
from fusec.ir.interval import LARGEST, Interval, interval
from fusec.kernels.kernel import BoundKernel, Entry, IntArray
from fusec.schedule.region import BoundRegion

MOST_TILES = 1 << 22
"""Tiles of one call: more would take seconds to plan."""
MOST_POINTS = 1 << 44
"""Points of one stage in one tile, which nothing can interrupt: hours of work, so a mistake or an attack."""
MOST_COUNTED = 1 << 20
"""Points up to which an index is evaluated everywhere where its bounds alone do not show that it is inside."""


def check_region(region: BoundRegion) -> None:
    """BugError naming call and operand where a kernel of a region may leave its operands; equal ones are checked once."""
    for call in {id(c.kernel): c for c in reversed(region.calls)}.values():
        check_inside(call.kernel, call.label)


def check_inside(bound: BoundKernel, label: str) -> None:
    """BugError naming the call `label` and the operand where an access may leave the operand, or sizes make no sense.

    ResourceError where there are too many tiles to plan.
    """
    try:
        _Check(bound).run()
    except KeyError as e:
        raise BugError(f"{label}: {e.args[0]!r} has no value", node=label) from e
    except (ZeroDivisionError, OverflowError) as e:
        raise BugError(f"{label}: a size or an index cannot be computed: {e}", node=label) from e
    except BugError as e:
        raise BugError(f"{label}: {e.message}", node=label) from e


class _Check:
    """One bound kernel."""

    def __init__(self, bound: BoundKernel) -> None:
        self.bound, self.kernel, self.program = bound, bound.kernel, bound.kernel.program
        self.ranges: dict[str, Interval] = {p: (n, n) for p, n in bound.params.items()}

    def run(self) -> None:
        bound = self.bound
        for what, numbers in (("parameter", bound.params), ("axis", bound.extents)):
            for name, n in numbers.items():
                if not 0 <= n < LARGEST:
                    raise BugError(f"{what} {name} is {n}")
        for o in self.program.operands:
            shape = bound.shape(o.name)
            if min(shape, default=0) < 0 or prod(shape) * o.dtype.itemsize >= LARGEST:
                raise BugError(f"operand {o.name} has the shape {list(shape)}")
        if bound.tiles > MOST_TILES:
            raise ResourceError(f"{bound.tiles} tiles of {bound.tile} in {bound.extents}; {MOST_TILES} are possible")
        part = bound.extents | bound.tile
        for stage in self.program.stages:
            points = prod(max(1, part[a]) for a in (*stage.axis_names, *(f.name for f in stage.folds)))
            if points > MOST_POINTS:
                raise BugError(f"a stage of {points} points in each tile")
        if bound.tiles:
            self.ranges |= {a: (0, n - 1) for a, n in bound.extents.items()}
            for entry in self.kernel.entries:
                self.entry(entry)

    def entry(self, e: Entry) -> None:
        if any(self.bound.extents.get(s) == 0 for s in symbols_of(e.index)):
            return  # a loop that does not run
        low, high = interval(e.index, self.ranges)
        if max(abs(low), abs(high)) > LARGEST:
            raise BugError(f"the index {e.index} reaches from {low} to {high}")
        if e.operand == "" or e.guarded:
            return
        size = self.bound.shape(e.operand)[e.dim]
        if (low < 0 or high >= size) and not self.is_inside(e.index, size):
            raise BugError(
                f"operand {e.operand} is accessed at {e.index} in dimension {e.dim}, from {low} to {high} where it has {size}"
            )

    def is_inside(self, index: Extent, size: int) -> bool:
        """A closer look, with the parameters put in, and where that does not help, at every point."""
        known = substitute(index, self.bound.params)
        low, high = interval(known, self.ranges)
        if low >= 0 and high < size:
            return True
        axes = sorted(symbols_of(known))
        extents = [self.bound.extents[a] for a in axes]
        if not axes or prod(extents) > MOST_COUNTED:
            return False
        grid = np.indices(extents, dtype=np.int64).reshape(len(axes), -1)
        points = _values(known, dict(zip(axes, grid, strict=True)))
        return bool((points >= 0).all() and (points < size).all())


def _values(x: Extent, env: Mapping[str, IntArray]) -> IntArray:
    low, _ = interval(x, {n: (v, v) for n, v in env.items()})
    return np.asarray(low)
