"""LSTMs written out in many ways become one node, and what is none stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph, Value
from fusec.ir.reference import run_reference
from fusec.ir.verify import verify
from fusec.knobs import Limits
from fusec.passes.default import optimise
from fusec.passes.graph.roll_lstm import roll_lstm
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target

CONTEXT = PassContext(Target("cpu", "generic"), Limits())
B, WIDTH, H, STEPS = 2, 3, 4, 5


class Layer:
    """Weights of a layer, and ways to write its gates."""

    def __init__(self, b: GraphBuilder, inner: int = WIDTH, seed: int = 0) -> None:
        self.b, r = b, np.random.default_rng(seed)

        def f32(*shape: int) -> Any:
            return (r.standard_normal(shape) * 0.5).astype(np.float32)

        name = f"layer{seed}."
        self.inner, self.name = inner, name
        self.w = [b.weight(f"{name}w{q}", f32(inner, H)) for q in range(4)]
        self.u = [b.weight(f"{name}u{q}", f32(H, H)) for q in range(4)]
        self.bias = [b.weight(f"{name}b{q}", f32(H)) for q in range(4)]
        self.one = b.weight(f"{name}one", np.float32(1.0))
        self.wide = b.weight(f"{name}wide", f32(inner + H, 4 * H))
        self.wide_bias = b.weight(f"{name}wide_bias", f32(1, 4 * H))

    def separate(self, x: Value, h: Value | None) -> list[Value]:
        """A matrix for each gate and source."""
        out = []
        for w, u, c in zip(self.w, self.u, self.bias, strict=True):
            total = self.b.op("matmul", x, w)
            total = total if h is None else self.b.op("add", total, self.b.op("matmul", h, u))
            out.append(self.b.op("add", total, c))
        return out

    def joined(self, x: Value, h: Value | None) -> list[Value]:
        """One matrix for input and state side by side, and all gates; one added to the forget gate."""
        assert h is not None
        both = self.b.op("concat", x, h, axis=1)
        total = self.b.op("add", self.b.op("matmul", both, self.wide), self.wide_bias)
        parts = [
            self.b.op("slice", total, starts=(0, q * H), sizes=(B, H), steps=(1, 1)) for q in range(4)
        ]  # fmt: skip
        return [parts[0], parts[3], self.b.op("add", parts[2], self.one), parts[1]]

    def without_bias(self, x: Value, h: Value | None) -> list[Value]:
        """Products alone."""
        pairs = zip(self.w, self.u, strict=True)
        return [
            self.b.op("matmul", x, w)
            if h is None
            else self.b.op("add", self.b.op("matmul", h, u), self.b.op("matmul", x, w))
            for w, u in pairs
        ]

    def step(self, gates: list[Value], c: Value | None) -> tuple[Value, Value]:
        b, (i, o, f, g) = self.b, gates
        new = b.op("mul", b.op("sigmoid", i), b.op("tanh", g))
        new = new if c is None else b.op("add", b.op("mul", b.op("sigmoid", f), c), new)
        return b.op("mul", b.op("sigmoid", o), b.op("tanh", new)), new

    def run(self, how: str, xs: list[Value], h: Value | None, c: Value | None) -> tuple[list[Value], list[Value]]:
        hs, cs = [], []
        for x in xs:
            h, c = self.step(getattr(self, how)(x, h), c)
            hs.append(h)
            cs.append(c)
        return hs, cs


def inputs(b: GraphBuilder, how: str) -> list[Value]:
    """The inputs of all steps: rows of a tensor (of either axis), gathered from it, or values of their own."""
    if how == "apart":
        return [b.input(f"x{t}", f"f32[{B}, {WIDTH}]") for t in range(STEPS)]
    if how == "gathered":
        x = b.input("x", f"f32[{STEPS}, {B}, {WIDTH}]")
        return [b.op("gather", x, b.weight(f"t{t}", np.int64(t)), axis=0) for t in range(STEPS)]
    axis = 1 if how == "batch first" else 0
    shape = [B, STEPS, WIDTH] if axis else [STEPS, B, WIDTH]
    x = b.input("x", f"f32[{', '.join(map(str, shape))}]")
    out = []
    for t in range(STEPS):
        starts, sizes = [0, 0, 0], list(shape)
        starts[axis], sizes[axis] = t, 1
        part = b.op("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=(1, 1, 1))
        out.append(b.op("reshape", part, shape=(B, WIDTH)))
    return out


def states(b: GraphBuilder, how: str) -> tuple[Value | None, Value | None]:
    match how:
        case "none":
            return None, None
        case "zeros":
            zero = b.weight("zero", np.zeros((B, H), np.float32))
            return zero, zero
        case "given":
            return b.input("h", f"f32[{B}, {H}]"), b.input("c", f"f32[{B}, {H}]")
    raise AssertionError(how)


def agree(before: Graph, after: Graph) -> Counter[str]:
    verify(after)
    r = np.random.default_rng(1)
    given = {v.name: r.standard_normal([int(str(d)) for d in v.shape]).astype(np.float32) for v in before.inputs}
    expected, got = run_reference(before, given), run_reference(after, given)
    for name, e in expected.items():
        np.testing.assert_allclose(got[name], e, rtol=2e-5, atol=2e-6)
    return Counter(n.op for n in after.nodes)


@pytest.mark.parametrize("source", ["rows", "batch first", "gathered", "apart"])
@pytest.mark.parametrize(
    ("gates", "state"),
    [
        ("separate", "none"),
        ("separate", "zeros"),
        ("separate", "given"),
        ("joined", "given"),
        ("joined", "zeros"),
        ("without_bias", "given"),
        ("without_bias", "none"),
    ],
)
def test_layers_are_rolled(gates: str, state: str, source: str) -> None:
    b = GraphBuilder("layer")
    layer = Layer(b)
    hs, cs = layer.run(gates, inputs(b, source), *states(b, state))
    before = b.graph([hs[1], hs[-1], cs[-1]])
    ops = agree(before, optimise(before, CONTEXT))
    assert ops["lstm"] == 1
    assert ops["sigmoid"] == ops["tanh"] == 0
    assert ops["matmul"] == 1


def test_layers_above_each_other_read_all_states_at_once() -> None:
    b = GraphBuilder("layers")
    values = inputs(b, "rows")
    for k in range(3):
        values, cs = Layer(b, WIDTH if k == 0 else H, k).run("separate", values, None, None)
    before = b.graph([values[-1], cs[-1]])
    ops = agree(before, optimise(before, CONTEXT))
    assert (ops["lstm"], ops["matmul"], ops["concat"]) == (3, 3, 0)


def test_two_steps_are_left_alone() -> None:
    b = GraphBuilder("short")
    hs, _ = Layer(b).run("separate", inputs(b, "rows")[:2], *states(b, "given"))
    graph = b.graph([hs[-1]])
    assert roll_lstm(graph, CONTEXT) is graph


def test_steps_of_other_weights_are_left_alone() -> None:
    b = GraphBuilder("mixed")
    layers, (h, c) = [Layer(b, seed=s) for s in (0, 1)], states(b, "given")
    assert h is not None
    for t, x in enumerate(inputs(b, "rows")):
        h, c = layers[t % 2].step(layers[t % 2].separate(x, h), c)
    graph = b.graph([h])
    assert roll_lstm(graph, CONTEXT) is graph


def test_a_cell_that_somebody_reads_is_left_alone() -> None:
    b = GraphBuilder("read")
    hs, cs = Layer(b).run("separate", inputs(b, "rows"), *states(b, "given"))
    graph = b.graph([hs[-1], cs[2]])
    assert roll_lstm(graph, CONTEXT) is graph


def test_states_that_do_not_come_from_the_step_before_are_left_alone() -> None:
    b = GraphBuilder("skips")
    layer, (h, c) = Layer(b), states(b, "given")
    assert h is not None
    first = h
    for x in inputs(b, "rows"):
        h, c = layer.step(layer.separate(x, first), c)
    graph = b.graph([h])
    assert roll_lstm(graph, CONTEXT) is graph
