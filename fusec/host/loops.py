"""The turns of Loop and Scan, whoever runs their bodies: a plan of its own, or the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from fusec.host.subgraph import declared

Array = npt.NDArray[Any]
Turn = Callable[[list[Any]], Sequence[Any]]
"""Runs the body once: the values of its inputs in order -> those of its outputs."""


class Leap(Protocol):
    """Runs the body several times: the number of the first turn, states and slices -> states and rows."""

    turns: int

    def __call__(self, done: int, states: list[Any], slices: list[Any], /) -> tuple[list[Any], list[Any]]: ...  # noqa: D102


FindLeap = Callable[[Sequence[Any], Sequence[Any]], Leap | None]
"""From what the first turn was given and what it made; None where the body must run turn by turn."""


def run_loop(
    turn: Turn,
    trips: Any,
    condition: Any,
    carried: Sequence[Any],
    scanned: Sequence[onnx.TypeProto],
    find_leap: FindLeap | None = None,
) -> list[Any]:
    """The final carried values, then what was scanned, stacked; `scanned` are the types that are declared of the latter.

    `find_leap` is asked after the first turn of a loop whose end is known, if it is given.
    """
    states, rows = list(carried), [list[Any]() for _ in scanned]
    limit = None if trips is None else int(_only(trips))
    going, done, leap = condition is None or bool(_only(condition)), 0, None
    while going and (limit is None or done < limit):
        if leap is not None and limit is not None and limit - done >= leap.turns:
            states, made = leap(done, states, [])
            _extend(rows, made)
            done += leap.turns
            continue
        given = [np.array(done, np.int64), np.array(True), *states]
        outputs = turn(given)
        going, done = bool(_only(outputs[0])), done + 1
        states = list(outputs[1 : 1 + len(states)])
        _extend(rows, [np.asarray(new)[None] for new in outputs[1 + len(states) :]])
        if done == 1 and limit is not None and going and find_leap is not None:
            leap = find_leap(given, outputs)
    return [*states, *_stacked(rows, scanned)]


@dataclass(frozen=True)
class Scanning:
    """The attributes of a Scan: how many inputs are scanned, and axes and directions (1 is backwards), 0 where missing.

    A batched one, of opset 8, has a batch in front of everything and lengths as its first input.
    """

    count: int
    is_batched: bool
    input_axes: Sequence[int] = field(default=())
    input_directions: Sequence[int] = field(default=())
    output_axes: Sequence[int] = field(default=())
    output_directions: Sequence[int] = field(default=())

    def states(self, inputs: int) -> int:
        """How many of so many inputs are states."""
        return inputs - self.count - self.is_batched


def scanning(attributes: Mapping[str, Any], opset: int) -> Scanning:
    """The attributes of a Scan: the first has directions only, those of the inputs."""

    def numbers(name: str) -> Sequence[int]:
        return tuple(attributes.get(name) or ())

    return Scanning(
        int(attributes["num_scan_inputs"]),
        opset < 9,
        numbers("scan_input_axes"),
        numbers("scan_input_directions") or numbers("directions"),
        numbers("scan_output_axes"),
        numbers("scan_output_directions"),
    )


def run_scan(
    turn: Turn,
    args: Sequence[Any],
    scan: Scanning,
    scanned: Sequence[onnx.TypeProto],
    find_leap: FindLeap | None = None,
) -> list[Any]:
    """The final states, then what was scanned. ValueError where the scanned inputs differ in length."""

    def one(values: Sequence[Any]) -> list[Any]:
        return _run_one(turn, values, scan, scanned, find_leap)

    return _each_of_batch(one, args, scan) if scan.is_batched else one(args)


def _run_one(
    turn: Turn, args: Sequence[Any], scan: Scanning, scanned: Sequence[onnx.TypeProto], find_leap: FindLeap | None
) -> list[Any]:
    states, inputs = list(args[: len(args) - scan.count]), args[len(args) - scan.count :]
    sources = [np.ascontiguousarray(np.moveaxis(v, a, 0)) if a else v for v, a in _with(inputs, scan.input_axes)]
    sources = [v[::-1] if back else v for v, back in _with(sources, scan.input_directions)]
    lengths = {len(v) for v in sources}
    if len(lengths) > 1:
        raise ValueError(f"the scanned inputs differ in length: {sorted(lengths)}")
    rows: list[list[Any]] = [[] for _ in scanned]
    length, done, leap = min(lengths, default=0), 0, None
    while done < length:
        if leap is not None and length - done >= leap.turns:
            states, made = leap(done, states, [v[done : done + leap.turns] for v in sources])
            _extend(rows, made)
            done += leap.turns
            continue
        given = [*states, *[v[done, ...] for v in sources]]
        outputs = turn(given)
        states, done = list(outputs[: len(states)]), done + 1
        _extend(rows, [np.asarray(new)[None] for new in outputs[len(states) :]])
        if done == 1 and find_leap is not None:
            leap = find_leap(given, outputs)
    stacked = [v[::-1] if back else v for v, back in _with(_stacked(rows, scanned), scan.output_directions)]
    return [*states, *(np.moveaxis(v, 0, a) for v, a in _with(stacked, scan.output_axes))]


def _each_of_batch(one: Callable[[Sequence[Any]], list[Any]], args: Sequence[Any], scan: Scanning) -> list[Any]:
    """Each of a batch has a length of its own; what is behind that stays zero."""
    lengths, values = args[0], args[1:]
    states = scan.states(len(args))
    rows = []
    for b in range(len(values[0])):
        length = None if lengths is None else int(lengths[b])
        row = [v[b, ...] if i < states else v[b, :length] for i, v in enumerate(values)]
        rows.append(one(row))
    whole = values[states].shape[1]
    return [
        np.stack([r if i < states else _lengthened(r, whole) for r in column])
        for i, column in enumerate(zip(*rows, strict=True))
    ]


def _only(x: Any) -> Any:
    return np.asarray(x).reshape(-1)[0]


def _extend(rows: Sequence[list[Any]], made: Sequence[Any]) -> None:
    for row, new in zip(rows, made, strict=True):
        row.append(new)


def _stacked(rows: Sequence[list[Any]], types: Sequence[onnx.TypeProto]) -> list[Array]:
    kinds = declared(types)
    return [
        np.concatenate(row) if row else np.zeros((0, *shape), dtype)
        for row, (dtype, shape) in zip(rows, kinds, strict=True)
    ]


def _with(values: Sequence[Any], settings: Sequence[int]) -> list[tuple[Any, int]]:
    """The values, each with its axis or direction, 0 where none is given."""
    return [(v, settings[i] if i < len(settings) else 0) for i, v in enumerate(values)]


def _lengthened(x: Any, length: int) -> Any:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)]) if len(x) < length else x
