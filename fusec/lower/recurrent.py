"""Recurrent layers: one call that sets the states, one whose tiles are steps in order, one that hands out the last state.

A step reads the state that the step before left and writes its own into the other half of `h`, so that tiles of a step
never disturb each other. The recurrent product is a stage of its own, one matrix per gate; the second stage does all
that happens element by element. Columns are a task axis: workers keep their part of the weights in their caches for all
steps. A gru that resets before its product needs all of one product for the next one: its steps are not cut by columns. On
devices, where one worker alone would have to read all weights at every step, they are two steps each, see `_Step.halves`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusec.ir.dim import Extent, mod, symbol
from fusec.ir.expr import Const, Expr, Index, Load, Ref, cast, prim
from fusec.ir.graph import Graph, Node
from fusec.ir.types import DType, TensorType, Type
from fusec.kernels.kernel import Call
from fusec.lower.group import Programs
from fusec.ops.body import add, compare, mul, where
from fusec.ops.recurrent import (
    CELLS,
    functions_of,
    gru_state,
    level,
    lstm_cell,
    step_of_levels,
    wide,
    widened,
    zero_level,
)
from fusec.rewrite.fused import Group
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram

T, B, H, W, P = (symbol(n) for n in "TBHWP")
"""Steps, rows, columns; the width of a row of the projected input, and where the layer's part of it begins."""
t, b, j, k, q, i = (symbol(n) for n in "tbjkqi")
THEN, NOW = mod(t + 1, 2), mod(t, 2)
"""The halves of the state: the one that the step before wrote, and this step's own."""
s = symbol("s")
"""Of a step in two: the first reads plane 0, the state, and leaves what the gates reset of it in plane 1, the second reads that
and writes the state."""
ALONE = 128
"""Units up to which a block of a device keeps the weights of all gates, and has no need for others."""


@dataclass(frozen=True)
class Layer:
    """A recurrent group lowered: its calls in order, and the types of values that are not the graph's."""

    calls: tuple[Call, ...]
    values: dict[str, Type]


def lower_recurrent(
    group: Group, graph: Graph, programs: Programs, root: Callable[[str], str], many: bool = False
) -> Layer:
    """The calls of a group that is one recurrent node. `root` says which value owns the bytes of a value.

    `many`: there are so many workers that every step should be cut by columns, even where they meet twice for it.
    """
    return _Lowering(group, graph, programs, root, many).run()


class _Lowering:
    """One node."""

    def __init__(self, group: Group, graph: Graph, programs: Programs, root: Callable[[str], str], many: bool) -> None:
        (self.node,) = group.nodes
        self.group, self.graph, self.programs, self.root = group, graph, programs, root
        cell = CELLS[self.node.op]
        self.given = dict(zip(cell.inputs, self.node.inputs[2:]))
        x = self.node.operands[0]
        self.dtype = x.dtype
        self.steps, self.batch = x.shape[:2]
        self.hidden = self.node.operands[1].shape[-1]
        stored = {v.name for v in group.outputs}
        self.outputs = [v.name if v.name in stored else None for v in self.node.outputs]
        name = f"{self.node.outputs[0].name}/state"
        while name in graph.values:
            name += "_"
        self.state = name
        self.has_cell = cell.states == 2
        self.cell = self.node.outputs[2].name if self.has_cell else ""
        self.resets_first = self.node.op == "gru" and not self.node.attr("linear_before_reset")
        self.in_halves = self.resets_first and many and isinstance(self.hidden, int) and self.hidden > ALONE

    def run(self) -> Layer:
        calls = [self.start(), self.step()]
        if (last := self.outputs[1]) is not None:
            calls.append(self.last(last))
        values: dict[str, Type] = {self.state: TensorType(self.dtype, (2, self.batch, self.hidden))}
        if self.in_halves:
            for name, dtype in self.columns().items():
                values[f"{self.state}/{name}"] = TensorType(dtype, (self.batch, self.hidden))
        return Layer(tuple(calls), values)

    def start(self) -> Call:
        """Both halves of the state, since a run of no steps hands out what it began with; and the cell."""
        program = _Program(self.dtype, ["B", "H"], [Axis("b", B), Axis("j", H)])
        h = self.initial(program, "h")
        program.add("state", "output", (2, B, H), self.state)
        stores: list[Statement] = [Let("first", h)] if isinstance(h, Load) else []
        value = Ref("first", self.dtype) if stores else h
        stores += [Store("state", (half, b, j), value) for half in (0, 1)]
        if self.in_halves:
            stores += [Store("own", (b, j), value), Store("gate", (b, j), Const(0.0, wide(self.dtype)))]
            self.add_columns(program, "output")
        if self.has_cell:
            stores.append(Store("cell", (b, j), self.initial(program, "c")))
            program.add("cell", "output", (B, H), self.cell)
        program.stages.append(Stage(("b", "j"), (), tuple(stores)))
        return self.call(program, "start", {"B": self.batch, "H": self.hidden})

    def columns(self) -> dict[str, DType]:
        """What a step in two halves keeps of its own columns: the state, and the gate that the first half computes."""
        return {"own": self.dtype, "gate": wide(self.dtype)}

    def add_columns(self, program: _Program, role: str) -> None:
        for name, dtype in self.columns().items():
            program.add(name, role, (B, H), f"{self.state}/{name}", dtype)

    def initial(self, program: _Program, which: str) -> Expr:
        v = self.given.get(which)
        if v is None:
            return Const(0.0, self.dtype)
        program.add(which, self.role(v.name), (B, H), self.root(v.name))
        return Load(which, (b, j), self.dtype)

    def last(self, name: str) -> Call:
        """The state after the last step, or the initial one where there is no step."""
        program = _Program(self.dtype, ["B", "H", "S"], [Axis("b", B), Axis("j", H)])
        program.add("state", "input", (2, B, H), self.state)
        program.add("out", "output", (B, H), self.root(name))
        value = Load("state", (symbol("S"), b, j), self.dtype)
        program.stages.append(Stage(("b", "j"), (), (Store("out", (b, j), value),)))
        place = 0 if self.in_halves else mod(self.steps + 1, 2)
        return self.call(program, "last", {"B": self.batch, "H": self.hidden, "S": place})

    def step(self) -> Call:
        """All steps."""
        gates, node = CELLS[self.node.op].gates, self.node
        halves = [Axis("s", 2, sequential=True)] if self.in_halves else []
        columns = [Axis("j", H)] if self.in_halves or not self.resets_first else []
        axes = [Axis("t", T, sequential=True), *halves, Axis("b", B), *columns]
        program = _Program(self.dtype, ["T", "B", "H", "W", "P"], axes)
        x, r = node.operands[:2]
        program.add("x", self.role(x.name), (T, B, W), self.root(x.name))
        program.add("r", self.role(r.name), (gates, H, H), self.root(r.name), r.dtype)
        for name, shape in (("peepholes", (3, H)), ("bias", (H,)), ("lengths", (B,)), ("scales", (gates, H))):
            if (v := self.given.get(name)) is not None:
                program.add(name, self.role(v.name), shape, self.root(v.name), v.dtype)
        program.add("state", "inout", (2, B, H), self.state)
        if self.in_halves:
            self.add_columns(program, "inout")
        if self.has_cell:
            program.add("cell", "inout", (B, H), self.cell)
        if self.outputs[0] is not None:
            program.add("y", "output", (T, B, H), self.root(self.outputs[0]))
        _Step(program, node).build()
        sizes: dict[str, Extent] = {"T": self.steps, "B": self.batch, "H": self.hidden}
        return self.call(program, "", sizes | {"W": x.shape[2], "P": gates * self.hidden * node.attr("part")})

    def role(self, name: str) -> str:
        return "weight" if name in self.graph.weights else "input"

    def call(self, p: _Program, part: str, params: dict[str, Extent]) -> Call:
        label = f"{self.node.op}.{part}" if part else self.node.op
        program = self.programs.intern(p.program(), label)
        bound = tuple(sorted(params.items()))
        return Call(label, program, tuple(sorted(p.bound.items())), bound, (), self.node.origin)


class _Program:
    """A tile program in the making, and the values behind its operands."""

    def __init__(self, dtype: DType, params: Sequence[str], axes: Sequence[Axis]) -> None:
        self.dtype, self.params, self.axes = dtype, tuple(params), tuple(axes)
        self.operands: dict[str, Operand] = {}
        self.bound: dict[str, str] = {}
        self.stages: list[Stage] = []

    def add(self, name: str, role: str, shape: tuple[Extent, ...], value: str, dtype: DType | None = None) -> None:
        self.operands[name] = Operand(name, role, dtype or self.dtype, shape)
        self.bound[name] = value

    def local(self, name: str, shape: tuple[Extent, ...], dtype: DType) -> None:
        self.operands[name] = Operand(name, "local", dtype, shape)

    def program(self) -> TileProgram:
        return TileProgram("", self.params, self.axes, tuple(self.operands.values()), tuple(self.stages))


class _Step:
    """The stages of one step."""

    def __init__(self, program: _Program, node: Node) -> None:
        self.p, self.node = program, node
        self.attrs = dict(node.attrs)
        self.held = wide(program.dtype)
        self.at: Extent = T - 1 - t if self.attrs["reverse"] else t
        self.body: list[Statement] = []

    def build(self) -> None:
        getattr(self, self.node.op)()

    def lstm(self) -> None:
        self.gates(4)
        peepholes = [self.load("peepholes", n, j) for n in range(3)] if "peepholes" in self.p.operands else None
        c = self.let("c", self.load("cell", b, j))
        gates = [add(self.input(n), self.product(n)) for n in range(4)]
        h, new = lstm_cell(self.attrs, gates, c, peepholes, lambda e: self.let(f"v{len(self.body)}", e))
        self.store(h, new, c)

    def gru(self) -> None:
        f, g = functions_of(self.attrs)
        if "gate" in self.p.operands:
            self.halves(f, g)
            return
        if not self.attrs["linear_before_reset"]:
            self.reset_first(f, g)
            return
        self.gates(3)
        z = self.let("z", f(add(self.input(0), self.product(0))))
        s = self.let("s", f(add(self.input(1), self.product(1))))
        inner = self.product(2)
        if "bias" in self.p.operands:
            inner = add(inner, self.load("bias", j))
        n = g(add(self.input(2), mul(s, inner)))
        self.store(gru_state(z, n, self.let("old", self.load("state", THEN, b, j))))

    def reset_first(self, f: Callable[[Expr], Expr], g: Callable[[Expr], Expr]) -> None:
        """Two gates, the state that they reset, and its product: each for all columns."""
        self.p.local("g", (B, 2, H), self.held)
        self.p.local("m", (B, H), self.held)
        own, column, fold = Axis("i", H), Axis("j", H), Axis("k", H)
        weights = widened(Load("r", (q, k, i), self.p.dtype))
        product = prim("mul", self.load("state", THEN, b, k), weights)
        first = (Fold("p", "sum", (product,)), Store("g", (b, q, i), Ref("p", self.held)))
        self.p.stages.append(Stage(("t", Axis("q", 2), "b", own), (fold,), first))
        reset = f(add(self.input(1, i), self.held_local("g", b, 1, i)))
        old = self.load("state", THEN, b, i)
        self.p.stages.append(Stage(("t", "b", own), (), (Store("m", (b, i), mul(reset, old)),)))
        weights = widened(Load("r", (2, k, j), self.p.dtype))
        self.body.append(Fold("p", "sum", (prim("mul", self.held_local("m", b, k), weights),)))
        inner: Expr = Ref("p", self.held)
        if "bias" in self.p.operands:
            inner = add(inner, self.load("bias", j))
        n = g(add(self.input(2), inner))
        z = self.let("z", f(add(self.input(0), self.held_local("g", b, 0, j))))
        new = gru_state(z, n, self.let("old", self.load("state", THEN, b, j)))
        self.store(new, axes=("t", "b", column), folds=(fold,))

    def halves(self, f: Callable[[Expr], Expr], g: Callable[[Expr], Expr]) -> None:
        """The same in two steps of all columns each: what is reset is handed on like a state. Both multiply with the matrices
        of all gates, so that a worker keeps them, and take what they need."""
        self.p.local("g", (B, 3, H), self.held)
        weights = widened(Load("r", (q, k, j), self.p.dtype))
        fold = Fold("p", "sum", (prim("mul", self.load("state", s, b, k), weights),))
        store = Store("g", (b, q, j), Ref("p", self.held))
        self.p.stages.append(Stage(("t", "s", Axis("q", 3), "b", "j"), (Axis("k", H),), (fold, store)))
        is_first = compare("eq", Index(s), Const(0, DType.I64))
        old = self.let("old", self.load("own", b, j))
        reset = mul(self.let("reset", f(add(self.input(1), self.product(1)))), old)
        z = where(is_first, f(add(self.input(0), self.product(0))), self.load("gate", b, j), like=old)
        z = self.let("z", z)
        inner = self.product(2)
        if "bias" in self.p.operands:
            inner = add(inner, self.load("bias", j))
        new = gru_state(z, g(add(self.input(2), inner)), old)
        self.body.append(Store("gate", (b, j), z))
        self.store(where(is_first, reset, new, like=old), axes=("t", "s", "b", "j"), first=is_first)

    def rnn(self) -> None:
        (f,) = functions_of(self.attrs)
        weights = widened(Load("r", (0, k, j), self.p.dtype))
        self.body.append(Fold("p", "sum", (prim("mul", self.load("state", THEN, b, k), weights),)))
        self.store(f(add(self.input(0), Ref("p", self.held))), folds=(Axis("k", H),))

    def gates(self, count: int) -> None:
        """The stage of the recurrent product, one matrix per gate."""
        self.p.local("g", (B, count, H), self.held)
        if "scales" in self.p.operands:
            self.rounded_gates(count)
            return
        weights = widened(Load("r", (q, k, j), self.p.dtype))
        fold = Fold("p", "sum", (prim("mul", self.load("state", THEN, b, k), weights),))
        stage = Stage(
            ("t", Axis("q", count), "b", "j"), (Axis("k", H),), (fold, Store("g", (b, q, j), Ref("p", self.held)))
        )
        self.p.stages.append(stage)

    def rounded_gates(self, count: int) -> None:
        """The same of a state that is rounded to levels of its own range over all rows."""
        self.p.local("ends", (2,), self.held)
        self.p.local("m", (B, H), DType.I16)
        state = self.load("state", THEN, symbol("e"), k)
        ends = [Fold(f"{name}imum", name, (state,)) for name in ("min", "max")]
        low, high = (Ref(f"{name}imum", self.held) for name in ("min", "max"))
        step = Let("size", step_of_levels(low, high))
        size = Ref("size", self.held)
        stores = (Store("ends", (0,), size), Store("ends", (1,), zero_level(low, size)))
        self.p.stages.append(Stage(("t",), (Axis("e", B), Axis("k", H)), (*ends, step, *stores)))
        distance, zero = (self.held_local("ends", n) for n in (0, 1))
        rounded = level(self.load("state", THEN, b, i), distance, zero)
        self.p.stages.append(Stage(("t", "b", Axis("i", H)), (), (Store("m", (b, i), cast(rounded, DType.I16)),)))
        weights = cast(self.load_short("r", q, k, j), DType.I32)
        levels = cast(self.load_short("m", b, k), DType.I32)
        fold = Fold("p", "sum", (prim("mul", levels, weights),))
        scaled = mul(cast(Ref("p", DType.I32), self.held), mul(distance, self.load("scales", q, j)))
        self.p.stages.append(
            Stage(("t", Axis("q", count), "b", "j"), (Axis("k", H),), (fold, Store("g", (b, q, j), scaled)))
        )

    def product(self, gate: int) -> Expr:
        return self.held_local("g", b, gate, j)

    def held_local(self, name: str, *index: Extent) -> Expr:
        return Load(name, index, self.held)

    def input(self, gate: int, column: Extent = j) -> Expr:
        """What the projected input gives to a gate."""
        return self.load("x", self.at, b, P + gate * H + column)

    def load_short(self, name: str, *index: Extent) -> Expr:
        return Load(name, index, self.p.operands[name].dtype)

    def load(self, name: str, *index: Extent) -> Expr:
        return widened(Load(name, index, self.p.operands[name].dtype))

    def let(self, name: str, e: Expr) -> Expr:
        self.body.append(Let(name, e))
        return Ref(name, e.dtype)

    def store(
        self,
        h: Expr,
        c: Expr | None = None,
        old_c: Expr | None = None,
        axes: tuple[str | Axis, ...] = ("t", "b", "j"),
        folds: tuple[Axis, ...] = (),
        first: Expr | None = None,
    ) -> None:
        """The last stage: new states, and the output, which is 0 past the end of a sequence. `first` tells the first half of a
        step in two, which stores what is for the second one, and no output."""
        dtype = self.p.dtype
        h = self.let("h", cast(h, dtype))
        kept, shown = h, h
        if "lengths" in self.p.operands:
            length = cast(Load("lengths", (b,), self.p.operands["lengths"].dtype), DType.I64)
            live = self.let("live", compare("lt", Index(self.at), length))
            old = Load("state", (THEN, b, j), dtype) if first is None else Load("own", (b, j), dtype)
            kept = where(live, h, old, like=h)
            shown = where(live, h, 0.0, like=h)
            if c is not None and old_c is not None:
                c = where(live, c, old_c, like=c)
        if first is None:
            self.body.append(Store("state", (NOW, b, j), kept))
        else:
            self.body.append(Store("state", (1 - s, b, j), kept))
            self.body.append(Store("own", (b, j), where(first, Load("own", (b, j), dtype), kept, like=kept)))
        if c is not None:
            self.body.append(Store("cell", (b, j), cast(c, dtype)))
        if "y" in self.p.operands:
            at = self.at if first is None else self.at + (1 - s) * T  # nowhere in the first half
            self.body.append(Store("y", (at, b, j), shown, partial=first is not None))
        self.p.stages.append(Stage(axes, folds, tuple(self.body)))
