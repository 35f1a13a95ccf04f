"""Walks over the points of some axes, shared out among threads: consecutive threads take neighbours along the last axis.

The indices along several axes advance as device/walk.cuh says, without divisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fusec.kernels.cuda.expression import Point


@dataclass(frozen=True, slots=True)
class Span:
    """The part of an axis that is walked over, from `low` up to `high`; with a `width`, that many indices are one step."""

    axis: str
    low: str
    high: str
    width: int = 1

    @property
    def count(self) -> str:
        """How many steps there are."""
        size = self.high if self.low == "0" else f"({self.high} - {self.low})"
        return size if self.width == 1 else f"({size} / {self.width})"


@contextmanager
def walk(point: Point, spans: Sequence[Span], start: str, step: int) -> Iterator[dict[str, str]]:
    """The body of the loop over every `step`-th point from number `start` on; yields the indices' names by axis."""
    w = point.writer
    single = [s for s in spans if (s.low, s.high, s.width) == ("0", "1", 1)]
    spans = [s for s in spans if s not in single]
    names = {s.axis: w.name(f"{s.axis}_") for s in spans}
    if not spans:
        with w.block(f"if ({start} == 0)" if step > 1 else "", pinned=True):
            for s in single:
                point.place(s.axis, "0")
            yield {s.axis: "0" for s in single}
        return
    if len(spans) == 1:
        (span,), (name,) = spans, names.values()
        first = _plus(span.low, start if span.width == 1 else f"{span.width} * {start}")
        beyond = "" if span.width == 1 else f" + {span.width - 1}"
        going = f"{name}{beyond} < {span.high}"
        header = f"for (fx_int {name} = {first}; {going}; {name} += {step * span.width})"
        with w.block(header, guard=f"({first}){beyond} < {span.high}"):
            _enter(point, single, names)
            yield names | {s.axis: "0" for s in single}
        return
    number = w.name("points")
    counts = ", ".join(s.count for s in spans)
    w.line(f"fx_points<{len(spans)}> {number} = {{{{{counts}}}}};")
    w.line(f"{number}.start({start}, {step});")
    with w.block(f"for (; {number}.going(); {number}.advance())", guard=f"{number}.going()"):
        for k, s in enumerate(spans):
            index = f"{number}.at[{k}]" if s.width == 1 else f"{s.width} * {number}.at[{k}]"
            w.line(f"const fx_int {names[s.axis]} = {_plus(s.low, index)};")
        _enter(point, single, names)
        yield names | {s.axis: "0" for s in single}


@dataclass(frozen=True, slots=True)
class Place:
    """A point of a walk that takes several at once: names of the indices by axis, and of whether there is such a point.

    `there` is "" for the first. Where there is none, the indices are those of the first.
    """

    names: dict[str, str]
    there: str


@contextmanager
def walk_several(point: Point, spans: Sequence[Span], start: str, step: int, copies: int) -> Iterator[list[Place]]:
    """`walk`, some points at a time: their loads can be under way together. Indices are bound by who uses them."""
    w = point.writer
    number = w.name("points")
    counts = ", ".join(s.count for s in spans)
    w.line(f"fx_points<{len(spans)}> {number} = {{{{{counts}}}}};")
    w.line(f"{number}.start({start}, {step});")
    with w.block(f"for (; {number}.going(); {number}.advance())", guard=f"{number}.going()"):
        places: list[Place] = []
        for copy in range(copies):
            there, names = "", dict[str, str]()
            if copy:
                there = w.name("there")
                w.line(f"{number}.advance();")
                w.line(f"const bool {there} = {number}.going();")
            for k, s in enumerate(spans):
                names[s.axis] = w.name(f"{s.axis}_")
                index = _plus(s.low, f"{number}.at[{k}]" if s.width == 1 else f"{s.width} * {number}.at[{k}]")
                index = f"{there} ? {index} : {places[0].names[s.axis]}" if copy else index
                w.line(f"const fx_int {names[s.axis]} = {index};")
            places.append(Place(names, there))
        yield places


def _enter(point: Point, single: Sequence[Span], names: dict[str, str]) -> None:
    for axis, name in names.items():
        point.place(axis, name)
    for s in single:
        point.place(s.axis, "0")


def _plus(low: str, x: str) -> str:
    return x if low == "0" else f"{low} + {x}"
