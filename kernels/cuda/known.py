"""Kernels that are for one value of a parameter: the value stands in the program instead, for the compiler to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fusec.ir.dim import Dim, Extent, substitute
from fusec.ir.expr import Expr, replace_axes
from fusec.kernels.kernel import Kernel
from fusec.tile.program import Axis, Fold, Let, Stage, Statement, Store, TileProgram


def known_parameter(kernel: Kernel) -> dict[str, int]:
    """The parameter whose value the guard tells, with the value; empty where it tells none."""
    guard = kernel.tiling.guard
    return {guard.param: guard.low} if guard is not None and guard.low == guard.high else {}


def with_known(kernel: Kernel) -> Kernel:
    """The kernel with the parameter's value in its program and tile. Its slots are evaluated as before."""
    known: dict[str, Extent] = dict(known_parameter(kernel))
    if not known:
        return kernel
    tile = tuple((a, substitute(x, known)) for a, x in kernel.tiling.tile)
    return Kernel(program_with(kernel.program, known), replace(kernel.tiling, tile=tile))


def program_with(p: TileProgram, known: Mapping[str, Extent]) -> TileProgram:
    """A program with values in place of some parameters, which it still names."""
    return TileProgram(
        p.name,
        p.params,
        tuple(_axis(a, known) for a in p.axes),
        tuple(replace(o, shape=tuple(substitute(d, known) for d in o.shape)) for o in p.operands),
        tuple(_stage(s, known) for s in p.stages),
    )


def _axis(a: Axis, known: Mapping[str, Extent]) -> Axis:
    return replace(a, extent=substitute(a.extent, known))


def _stage(s: Stage, known: Mapping[str, Extent]) -> Stage:
    return Stage(
        tuple(a if isinstance(a, str) else _axis(a, known) for a in s.axes),
        tuple(_axis(a, known) for a in s.folds),
        tuple(_statement(x, known) for x in s.body),
    )


def _statement(s: Statement, known: Mapping[str, Extent]) -> Statement:
    match s:
        case Let(name, value):
            return Let(name, replace_axes(value, known))
        case Fold(name, monoid, args):
            return Fold(name, monoid, tuple(replace_axes(a, known) for a in args))
        case Store(operand, index, value, partial):
            entries = tuple(_entry(i, known) for i in index)
            return Store(operand, entries, replace_axes(value, known), partial)


def _entry(i: Extent | Expr, known: Mapping[str, Extent]) -> Extent | Expr:
    return substitute(i, known) if isinstance(i, int | Dim) else replace_axes(i, known)
