"""Accumulators: the running states of one Fold, a value or a vector each, in one or several independent copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusec.errors import BugError
from fusec.ir.expr import Const, Expr, Prim, Ref
from fusec.ir.types import DType
from fusec.kernels.cpu.builder import Value
from fusec.kernels.cpu.context import Context
from fusec.kernels.cpu.expression import Point
from fusec.kernels.cpu.vector import literal
from fusec.tile.fold import fold_rule
from fusec.tile.program import Fold


class Accumulator:
    """One fold of a nest. States are listed copy by copy, `width` for each; `shared` ones are scalars, in one copy."""

    def __init__(self, point: Point, fold: Fold, shared: bool, terms: Sequence[tuple[Expr, ...]] | None = None) -> None:
        self.point = point
        self.fold = fold
        self.terms = [[point.intern(a) for a in args] for args in terms or (fold.args,)]
        """Arguments of each step, one tuple after the other."""
        self.rule = fold_rule(fold.monoid, fold.args[0].dtype)
        self.width = len(self.rule.state)
        self.shared = shared

    def start(self, copies: int) -> list[Value]:
        """The states of nothing."""
        lanes = 0 if self.shared else self.point.lanes
        init = [self._literal(e, lanes) for e in self.rule.init]
        return init * (1 if self.shared else copies)

    def step(self, states: list[Value]) -> list[Value]:
        """Add the element at the point to every copy; lanes beyond the end keep their state."""
        out: list[Value] = []
        b, mask = self.point.b, None if self.shared else self.point.mask
        for copy in range(len(states) // self.width):
            old = states[copy * self.width : (copy + 1) * self.width]
            if len(self.terms) > 1 and self.fold.monoid in ("max", "min") and self.fold.args[0].dtype.is_float:
                new = [self._add_extremes(old[0], copy)]
            else:
                new = old
                for args in self.terms:
                    new = self._add(new, args, copy)
            out += [n if mask is None or n == o else b.select(mask, n, o) for n, o in zip(new, old, strict=True)]
        return out

    def _add(self, old: list[Value], args: Sequence[Expr], copy: int) -> list[Value]:
        point, (first, *_) = self.point, args
        if self._is_product_sum(first) and isinstance(first, Prim):
            x, y = (self._arg(a, copy) for a in first.args)
            return [point.ctx.arithmetic.fma(x, y, old[0])]
        refs = {f"s{k}": v for k, v in enumerate(old)}
        refs |= {f"a{k}": self._arg(a, copy) for k, a in enumerate(args)}
        return [evaluate(point.ctx, e, refs) for e in self.rule.step]

    def _add_extremes(self, best: Value, copy: int) -> Value:
        """Several elements at once: each takes an instruction, and each two another one that looks for NaN."""
        arithmetic, b = self.point.ctx.arithmetic, self.point.b
        xs = [self._arg(args[0], copy) for args in self.terms]
        for x in xs:
            best = arithmetic.plain_extreme("ogt" if self.fold.monoid == "max" else "olt", x, best)
        bad = [b.compare("uno", x, y) for x, y in zip(xs[::2], xs[1::2] + xs[-1:], strict=False)]
        while len(bad) > 1:
            bad = [b.op("or", x, y) for x, y in zip(bad[::2], bad[1::2], strict=False)] + bad[len(bad) // 2 * 2 :]
        return arithmetic.nan_where(bad[0], best)

    def _arg(self, e: Expr, copy: int) -> Value:
        return self.point.value(e, copy) if self.shared else self.point.vector(e, copy)

    def _is_product_sum(self, e: Expr) -> bool:
        """A sum of products: the multiplication joins the addition, unless it can be done once outside."""
        if self.fold.monoid != "sum" or not isinstance(e, Prim) or e.name != "mul":
            return False
        return e.dtype in (DType.F32, DType.F64) and self.point.fact(e)[0] == self.point.depth

    def merge(self, states: list[Value]) -> list[Value]:
        """Join copies, then lanes, by halves: scalars remain."""
        w, b = self.width, self.point.b
        parts = [states[k : k + w] for k in range(0, len(states), w)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self._join(parts[k], parts[k + half]) for k in range(half)]
        state = parts[0]
        while state[0].lanes > 1:
            half = state[0].lanes // 2
            low = [b.shuffle(v, None, range(half)) for v in state]
            high = [b.shuffle(v, None, range(half, 2 * half)) for v in state]
            state = self._join(low, high)
        return [b.extract(v, 0) for v in state]

    def _join(self, s: list[Value], t: list[Value]) -> list[Value]:
        refs = {f"s{k}": v for k, v in enumerate(s)} | {f"t{k}": v for k, v in enumerate(t)}
        return [evaluate(self.point.ctx, e, refs) for e in self.rule.merge]

    def finish(self, states: list[Value]) -> list[Value]:
        """The fold's result, one per copy."""
        if len(self.rule.finish) != 1:
            raise BugError(f"fold {self.rule.name} has {len(self.rule.finish)} results")
        out = []
        for k in range(0, len(states), self.width):
            refs = {f"s{j}": v for j, v in enumerate(states[k : k + self.width])}
            out.append(evaluate(self.point.ctx, self.rule.finish[0], refs))
        return out

    def _literal(self, e: Expr, lanes: int) -> Value:
        if not isinstance(e, Const):
            raise BugError(f"the start of fold {self.rule.name} is no literal")
        return literal(e.dtype, e.value, lanes)


def evaluate(ctx: Context, e: Expr, refs: Mapping[str, Value]) -> Value:
    """A small expression over registers; shared parts are computed once."""
    lanes = next(iter(refs.values())).lanes
    done: dict[int, Value] = {}

    def value(x: Expr) -> Value:
        found = done.get(id(x))
        if found is None:
            match x:
                case Ref(name):
                    found = refs[name]
                case Const(v, dtype):
                    found = literal(dtype, v, lanes)
                case Prim(name, args, dtype):
                    found = ctx.arithmetic.apply(name, args[-1].dtype, tuple(map(value, args)), dtype)
                case _:
                    raise BugError(f"a fold's rule may not contain {x!r}")
            done[id(x)] = found
        return found

    return value(e)
