"""Tile programs run with numpy: every task, every stage, vectorised over the axes of a stage. The judge of emitters."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Dim, Extent
from fusec.ir.evaluate import evaluate_expr
from fusec.ir.expr import Expr, Load
from fusec.ir.types import DType
from fusec.tile.fold import fold_rule
from fusec.tile.program import Axis, Fold, Let, Stage, Store, TileProgram

Array = npt.NDArray[Any]
FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "floordiv": operator.floordiv,
    "ceildiv": lambda a, b: -(-a // b),
    "mod": operator.mod,
    "max": np.maximum,
    "min": np.minimum,
}


def run_program(
    program: TileProgram,
    params: Mapping[str, int],
    operands: Mapping[str, Array | float | int | bool],
    tile: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The outputs (and inout operands, as copies) of a program.

    `operands` gives inputs, weights, inouts and scalars by name; an array of another shape is read in its C order.
    `tile` is the extent of a tile per task axis (absent: all of it), so that tests can show that results do not depend on
    it. Locals hold NaN or rubbish at the beginning of each task. BugError where an index leaves its operand without fill.
    """
    return _Run(program, dict(params), operands).all(dict(tile or {}))


class _Run:
    """One execution: buffers, and the part of the task axes that the current task covers."""

    def __init__(self, p: TileProgram, params: dict[str, int], operands: Mapping[str, Any]) -> None:
        self.p, self.params = p, params
        self.buffers: dict[str, Array] = {}
        self.scalars: dict[str, Array] = {}
        for o in p.operands:
            shape = tuple(int(evaluate_extent(d, params)) for d in o.shape)
            if o.role == "scalar":
                self.scalars[o.name] = np.asarray(operands[o.name], o.dtype.numpy)
            elif o.role in ("output", "local"):
                self.buffers[o.name] = np.zeros(shape, o.dtype.numpy)
            else:
                given = np.asarray(operands[o.name], o.dtype.numpy).reshape(shape)
                self.buffers[o.name] = given.copy() if o.role == "inout" else given
        self.written = {
            o.name: np.zeros(self.buffers[o.name].shape, np.int64) for o in p.operands if o.role == "output"
        }

    def all(self, tile: dict[str, int]) -> dict[str, Array]:
        spans = []
        for a in self.p.axes:
            extent = int(evaluate_extent(a.extent, self.params))
            step = 1 if a.sequential else max(1, min(tile.get(a.name, extent), extent))
            spans.append([np.arange(lo, min(lo + step, extent)) for lo in range(0, extent, step)])
        # sequential axes outermost: all tiles of one step come before the next step
        order = sorted(range(len(spans)), key=lambda j: not self.p.axes[j].sequential)
        for parts in itertools.product(*(spans[j] for j in order)):
            ranges = {self.p.axes[j].name: part for j, part in zip(order, parts, strict=True)}
            self.task(ranges)
        for name, counts in self.written.items():
            if (counts != 1).any() and 0 not in (len(s) for s in spans):
                raise BugError(
                    f"tile program {self.p.name}: elements of {name} were written {sorted(set(counts.flat))} times"
                )
        return {o.name: self.buffers[o.name] for o in self.p.operands if o.role in ("output", "inout")}

    def task(self, ranges: dict[str, Array]) -> None:
        for o in self.p.operands:
            if o.role == "local":
                self.buffers[o.name][...] = np.nan if o.dtype.is_float else 77 if o.dtype is not DType.BOOL else True
        for stage in self.p.stages:
            self.stage(stage, ranges)

    def stage(self, stage: Stage, ranges: dict[str, Array]) -> None:
        outer = [ranges[a] if isinstance(a, str) else self.range(a) for a in stage.axes]
        inner = [self.range(a) for a in stage.folds]
        names = [*stage.axis_names, *(a.name for a in stage.folds)]
        rank = len(names)
        env: dict[str, Any] = dict(self.params)
        for j, (n, r) in enumerate(zip(names, [*outer, *inner], strict=True)):
            env[n] = r.reshape([-1 if i == j else 1 for i in range(rank)])
        space = tuple(len(r) for r in outer)
        folded = tuple(len(r) for r in inner)
        if 0 in space:
            return
        if ordered := stage.ordered():
            for places in itertools.product(*(env[n].reshape(-1) for n in ordered)):
                here = {n: np.full((1,) * rank, p) for n, p in zip(ordered, places, strict=True)}
                fixed = tuple(1 if n in ordered else len(r) for n, r in zip(stage.axis_names, outer, strict=True))
                self.body(stage, env | here, fixed, folded)
            return
        self.body(stage, env, space, folded)

    def body(self, stage: Stage, env: dict[str, Any], space: tuple[int, ...], folded: tuple[int, ...]) -> None:
        refs: dict[str, Array] = dict(self.scalars)
        for s in stage.body:
            match s:
                case Let(name, value):
                    refs[name] = self.value(value, env, refs)
                case Fold(name, monoid, args):
                    values = [np.broadcast_to(self.value(a, env, refs), space + folded) for a in args]
                    refs[name] = fold_values(monoid, values, len(folded))
                case Store():
                    self.store(s, env, refs, space + (1,) * len(folded))

    def store(self, s: Store, env: Mapping[str, Any], refs: dict[str, Array], space: tuple[int, ...]) -> None:
        value = np.broadcast_to(self.value(s.value, env, refs), space)
        index = tuple(np.broadcast_to(self.entry(i, env, refs), space) for i in s.index)
        if s.partial:
            sizes = self.buffers[s.operand].shape
            here = np.all([(i >= 0) & (i < n) for i, n in zip(index, sizes, strict=True)], axis=0)
            value, index = value[here], tuple(i[here] for i in index)
        _inside(self.p.name, s.operand, index, self.buffers[s.operand].shape)
        self.buffers[s.operand][index] = value if index else value.reshape(())
        if s.operand in self.written:
            np.add.at(self.written[s.operand], index, 1)

    def value(self, e: Expr, env: Mapping[str, Any], refs: dict[str, Array]) -> Array:
        def load(x: Load, index: tuple[Any, ...]) -> Array:
            buffer = self.buffers[x.operand]
            at = (
                np.broadcast_arrays(*(evaluate_extent(i, env) if isinstance(i, int | Dim) else i for i in index))
                if index
                else ()
            )
            outside = np.zeros((), bool)
            for i, n in zip(at, buffer.shape, strict=True):
                outside = outside | (i < 0) | (i >= n)
            gathers = not all(isinstance(i, int | Dim) for i in x.index)
            if x.fill is None and not gathers:
                _inside(self.p.name, x.operand, tuple(at), buffer.shape)
            if 0 in buffer.shape:
                got = np.zeros(np.broadcast_shapes(*(i.shape for i in at)), buffer.dtype)
            else:
                got = buffer[tuple(np.clip(i, 0, n - 1) for i, n in zip(at, buffer.shape, strict=True))]
            fill = x.fill.value if x.fill is not None else 0
            return np.where(outside, np.asarray(fill, buffer.dtype), got) if outside.any() else np.asarray(got)

        return evaluate_expr(e, refs, load, lambda x: np.asarray(evaluate_extent(x, env), np.int64))

    def entry(self, i: Extent | Expr, env: Mapping[str, Any], refs: dict[str, Array]) -> Array:
        return evaluate_extent(i, env) if isinstance(i, int | Dim) else self.value(i, env, refs)

    def range(self, a: Axis) -> Array:
        return np.arange(int(evaluate_extent(a.extent, self.params)))


def evaluate_extent(x: Extent, env: Mapping[str, Any]) -> Array:
    """A polynomial where symbols may be arrays of indices: what `dim.evaluate` is for single numbers."""
    if isinstance(x, int):
        return np.asarray(x, np.int64)
    total: Array = np.zeros((), np.int64)
    for mono, coef in x.terms:
        term: Array = np.asarray(coef, np.int64)
        for atom in mono:
            factor = env[atom] if isinstance(atom, str) else _atom(atom.fn, atom.a, atom.b, env)
            term = term * factor
        total = total + term
    return total


def _atom(fn: str, a: Extent, b: Extent, env: Mapping[str, Any]) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(FUNCTIONS[fn](evaluate_extent(a, env), evaluate_extent(b, env)))


def fold_values(monoid: str, args: list[Array], folds: int) -> Array:
    """Fold the last `folds` axes of each argument; they stay as axes of extent 1."""
    over = tuple(range(args[0].ndim - folds, args[0].ndim))
    x = args[0]
    with np.errstate(all="ignore"):
        match monoid:
            case "sum":
                return np.add.reduce(x, axis=over, keepdims=True, dtype=x.dtype)
            case "prod":
                return np.multiply.reduce(x, axis=over, keepdims=True, dtype=x.dtype)
            case "max" | "min" | "any" | "all":
                start = fold_rule(monoid, DType.of(x.dtype)).init[0].value  # type: ignore[union-attr]
                ufunc = {"max": np.maximum, "min": np.minimum, "any": np.logical_or, "all": np.logical_and}[monoid]
                return np.asarray(ufunc.reduce(x, axis=over, keepdims=True, initial=start))
            case "argmax" | "argmin":
                return _extreme_at(monoid, x, args[1], folds)
    raise BugError(f"unknown fold {monoid!r}")


def _extreme_at(monoid: str, x: Array, index: Array, folds: int) -> Array:
    """The index of the extreme element; the state of nothing is -1."""
    kept = x.shape[: x.ndim - folds]
    flat, at = x.reshape(*kept, -1), index.reshape(*kept, -1)
    if not flat.shape[-1]:
        return np.full(kept + (1,) * folds, -1, np.int64)
    order = np.argsort(at, axis=-1, kind="stable")
    flat, at = np.take_along_axis(flat, order, -1), np.take_along_axis(at, order, -1)
    first = (np.argmax if monoid == "argmax" else np.argmin)(flat, axis=-1)
    return np.asarray(np.take_along_axis(at, first[..., None], -1).reshape(kept + (1,) * folds))


def _inside(program: str, operand: str, index: tuple[Array, ...], shape: tuple[int, ...]) -> None:
    for d, (i, n) in enumerate(zip(index, shape, strict=True)):
        if i.size and (i.min() < 0 or i.max() >= n):
            raise BugError(
                f"tile program {program}: dimension {d} of {operand}, of {n}, is indexed by {i.min()}..{i.max()}"
            )
