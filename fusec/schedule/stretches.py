"""Stretches: neighbouring calls that hand on more than a core's caches hold, to one that does little with each byte.

In program order all of it would go through memory. In a stretch tasks are bands, small enough for a core's own cache, and run
depth first: what a band leaves is read while it is there. No kernel changes for that, and nothing is computed twice where
windows overlap: the order of tasks alone does what fusing the calls would.
"""

from __future__ import annotations

from fusec.schedule.region import BoundCall, BoundRegion
from fusec.schedule.tasks import is_sequential

FAR = 4 << 20
"""Bytes handed on from which on the shared cache does not have them either, as a rule, when they are read."""
BAND = 256 << 10
"""Bytes that a task makes or reads: with those of its neighbours they fit into a second-level cache."""
MOST_BANDS = 512
"""Tasks of a call, so that planning takes no longer than a run; their bands are larger then, up to twice as large."""
WEIGHT_BYTES = 256 << 10
"""Weights that stay in that cache beside the bands."""
FLOPS_PER_BYTE = 24.0
"""Arithmetic that takes as long as bringing a byte from memory; more of it hides that."""
LONGEST = 4
"""Calls of a stretch: what they hand on to each other is all alive at once, and none of it shares memory."""


def find_stretches(region: BoundRegion, far: int = FAR) -> tuple[range, ...]:
    """The calls of each stretch, in order. None where `far` is 0."""
    if not far:
        return ()
    links = [_link(region, c, far) if c else 0 for c in range(len(region.calls))]
    return tuple(s for s in _cut(links) if len(s) > 1)


def _cut(links: list[int]) -> list[range]:
    """All calls in parts of linked ones, none of them too long, such that the most bytes are handed on within parts."""
    kept, start = [0], [0]  # of the calls before each: the bytes, and where their last part starts
    for end in range(1, len(links) + 1):
        choices = []
        for first in range(end - 1, max(0, end - LONGEST) - 1, -1):
            choices.append((kept[first] + sum(links[first + 1 : end]), first))
            if not links[first]:
                break
        most, first = max(choices)
        kept.append(most)
        start.append(first)
    out, end = list[range](), len(links)
    while end:
        out.append(range(start[end], end))
        end = start[end]
    return out[::-1]


def bands(region: BoundRegion, call: BoundCall) -> int:
    """How many tasks of a call are bands."""
    size = max((region.buffers[b].used for b in call.buffers.values()), default=0)
    return max(1, min(MOST_BANDS, call.kernel.tiles, -(-size // BAND)))


def _link(region: BoundRegion, c: int, far: int) -> int:
    """The bytes that a call reads of what the one before it wrote; 0 where the two do not belong to a stretch."""
    before, call = region.calls[c - 1], region.calls[c]
    size = sum(region.buffers[b].used for b in _touched(before, "output").intersection(_touched(call, "input")))
    if not far <= size <= 2 * BAND * MOST_BANDS or call.kernel.flops * call.kernel.tiles > FLOPS_PER_BYTE * size:
        return 0
    return 0 if any(is_sequential(x.kernel) or _weights(x) > WEIGHT_BYTES for x in (before, call)) else size


def _touched(call: BoundCall, role: str) -> set[str]:
    """The buffers that a call reads ("input") or writes ("output")."""
    roles = call.call.program.operand
    return {b for o, b in call.buffers.items() if roles[o].role in (role, "inout")}


def _weights(call: BoundCall) -> float:
    """Bytes of weights that a call's tasks read."""
    roles = call.call.program.operand
    return sum(size for o, size in call.kernel.footprint.items() if roles[o].role == "weight")
