"""Accumulators: the running state of one Fold in C++ variables, and the merge of the states of a warp or a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusec.errors import BugError
from fusec.ir.expr import Const, Expr, Prim, Ref
from fusec.ir.types import DType
from fusec.kernels.cuda.abi import THREADS, WARP
from fusec.kernels.cuda.expression import Point
from fusec.kernels.cuda.scalar import literal, primitive, rounded, value_type
from fusec.tile.fold import fold_rule
from fusec.tile.program import Fold

_NARROW = (DType.F16, DType.BF16)
WARPS = THREADS // WARP


class Accumulator:
    """One fold of a nest. 16-bit floats are folded in float and rounded at the end."""

    def __init__(self, point: Point, fold: Fold) -> None:
        self.point = point
        self.fold = fold
        self.terms = [point.intern(a) for a in fold.args]
        self.dtype = fold.args[0].dtype
        self.rule = fold_rule(fold.monoid, DType.F32 if self.dtype in _NARROW else self.dtype)
        self.names: list[str] = []
        self._struct = ""

    def start(self) -> None:
        """Declare the state of nothing."""
        w = self.point.writer
        for dtype, init in zip(self.rule.state, self.rule.init, strict=True):
            self.names.append(w.name("s"))
            w.line(f"{value_type(dtype)} {self.names[-1]} = {evaluate(init, {})};")

    def step(self) -> None:
        """Add the element at the point."""
        refs = {f"s{k}": n for k, n in enumerate(self.names)}
        refs |= {f"a{k}": self._term(a) for k, a in enumerate(self.terms)}
        self._assign([evaluate(e, refs) for e in self.rule.step])

    def _term(self, e: Expr) -> str:
        """The value of an argument; a product of 16-bit floats goes into the sum as it is."""
        if self.dtype in _NARROW and self.fold.monoid == "sum" and isinstance(e, Prim) and e.name == "mul":
            x, y = (self.point.value(a) for a in e.args)
            return f"({x} * {y})"
        return self.point.value(e)

    def merge(self, template: str) -> None:
        """Give every thread the state of all that share the fold: of its warp, of its block, or of its lane in all warps."""
        w = self.point.writer
        fields = [f"{value_type(d)} s{k}" for k, d in enumerate(self.rule.state)]
        struct, state, merge = w.name("State"), w.name("s"), w.name("merge")
        w.line(f"struct {struct} {{ {' '.join(f + ';' for f in fields)} }};")
        refs = {f"{x}{k}": f"{x}.s{k}" for k in range(len(fields)) for x in "st"}
        joined = ", ".join(evaluate(e, refs) for e in self.rule.merge)
        w.line(f"const auto {merge} = [](const {struct}& s, const {struct}& t) -> {struct} {{ return {{{joined}}}; }};")
        w.line(f"{struct} {state} = {{{', '.join(self.names)}}};")
        size = sum(max(d.itemsize, 4) for d in self.rule.state) * 2
        if template == "warp":
            w.line(f"{state} = fx_warp_merge({state}, {merge});")
        else:
            states, function = (WARPS, "fx_block_merge") if template == "block" else (THREADS, "fx_lane_merge")
            w.line(f"{state} = {function}({state}, {self.point.ctx.merging(states * size)}, {merge});")
        self._assign([f"{state}.s{k}" for k in range(len(fields))])

    def finish(self) -> None:
        """Bind the fold's result."""
        if len(self.rule.finish) != 1:
            raise BugError(f"fold {self.rule.name} has {len(self.rule.finish)} results")
        refs = {f"s{k}": n for k, n in enumerate(self.names)}
        text = evaluate(self.rule.finish[0], refs)
        result = self.rule.finish[0].dtype
        if self.dtype in _NARROW and result is DType.F32:
            text = rounded(text, self.dtype)
        name = self.point.writer.name()
        self.point.writer.line(f"const {value_type(result)} {name} = {text};")
        self.point.bind(self.fold.name, name)

    def _assign(self, values: Sequence[str]) -> None:
        w = self.point.writer
        if len(values) == 1:
            w.line(f"{self.names[0]} = {values[0]};")
            return
        news = [w.name() for _ in values]
        for dtype, new, value in zip(self.rule.state, news, values, strict=True):
            w.line(f"const {value_type(dtype)} {new} = {value};")
        for name, new in zip(self.names, news, strict=True):
            w.line(f"{name} = {new};")


def evaluate(e: Expr, refs: Mapping[str, str]) -> str:
    """A small expression over names, in one line."""
    match e:
        case Ref(name):
            return refs[name]
        case Const(v, dtype):
            return literal(dtype, v)
        case Prim(name, args, dtype):
            return f"({primitive(name, args[-1].dtype, [evaluate(a, refs) for a in args], dtype)})"
    raise BugError(f"a fold's rule may not contain {e!r}")
