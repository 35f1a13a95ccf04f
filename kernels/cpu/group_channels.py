"""Loads of grouped convolutions whose lanes are the filters of several groups: `x[.., o // 4 * 4 + k]`, o the lane.

The channels that a vector of filters reads lie side by side, as many as it has lanes: they are loaded as they are, and a
shuffle gives each filter channel k of its group. Taps and channels share the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusec.ir.dim import Atom, Dim, Extent, symbol, symbols_of

if TYPE_CHECKING:
    from fusec.kernels.cpu.access import Access
    from fusec.kernels.cpu.expression import Point


def along_filters(i: Extent, axis: str) -> Extent:
    """An index with the axis itself in the place of the first channel of its group: so it moves through memory."""
    if not isinstance(i, Dim):
        return i
    total: Extent = 0
    for mono, coefficient in i.terms:
        atom = mono[0] if len(mono) == 1 else ""
        grouped = isinstance(atom, Atom) and atom.fn == "floordiv" and atom.a == symbol(axis) and atom.b == coefficient
        total = total + (symbol(axis) if grouped else Dim(((mono, coefficient),)))
    return total


def group_channel(point: Point, a: Access) -> tuple[Extent, int, int] | None:
    """For such a load the offset of the vector to load, the size of a group and the channel; None for any other.

    Vectors begin at a multiple of their lanes, since tiles along the lane axis do; so a group is never cut.
    """
    if not isinstance(a.offset, Dim) or not point.lane or point.rows is not None or not point.lanes:
        return None
    found: tuple[int, Extent] | None = None
    for mono, coefficient in a.offset.terms:
        if len(mono) != 1 or point.lane not in symbols_of(Dim(((mono, 1),))):
            continue
        (atom,) = mono
        if found is not None or not isinstance(atom, Atom) or atom.fn != "floordiv":
            return None
        if atom.a != symbol(point.lane) or atom.b != coefficient or point.lanes % coefficient:
            return None
        found = coefficient, a.offset - Dim(((mono, coefficient),))
    if found is None:
        return None
    size, rest = found
    if point.lane in symbols_of(rest):
        return None
    constant = rest if isinstance(rest, int) else next((c for mono, c in rest.terms if not mono), 0)
    channel = constant % size
    return rest - channel + symbol(point.lane), size, channel
