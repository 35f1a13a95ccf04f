"""Is what comes out right? Every template of the CUDA back end on small models with odd sizes, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.gpu.models import TOLERANCE, Array, Decoder, Made, chain, decoder, gemm, lstm, mlp
from bench.gpu.shapes import Shaped
from fusec import api
from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph, Value, Weight
from fusec.ir.reference import run_reference
from fusec.ir.types import DType, TensorType
from fusec.measure.accuracy import compare
from fusec.runtime.session import Session

NARROW = {DType.F32, DType.F16, DType.BF16}


@dataclass(frozen=True)
class Check:
    """What a model's check found: the tolerance that it needed, the one that it has, and the templates of its kernels."""

    name: str
    required: float
    tolerance: float
    templates: tuple[str, ...]
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is right."""
        return not self.problem and self.required <= self.tolerance


def _graph(build: Callable[[GraphBuilder], Value], **inputs: tuple[int, ...]) -> Made:
    """A float32 model of a few ops."""
    b = GraphBuilder("check")
    for name, shape in inputs.items():
        b.input(name, f"f32[{', '.join(map(str, shape))}]")
    y = build(b)
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in inputs.items()}
    return Made(b.graph([y]), feeds, lambda *_: lambda *_: [], "f32", 0.0, 0)


def _value(b: GraphBuilder, name: str) -> Value:
    return next(v for v in b.graph([]).inputs if v.name == name)


def cases() -> dict[str, Callable[[], Made]]:
    """Name -> model: between them every template, odd sizes, both dtypes."""

    def rows(op: str, width: int, count: int) -> Callable[[], Made]:
        return lambda: _graph(lambda b: b.op(op, _value(b, "x"), axis=1), x=(count, width))

    def points() -> Made:
        def build(b: GraphBuilder) -> Value:
            x = b.op("gelu", b.op("add", _value(b, "x"), _value(b, "y")), approximate="none")
            return b.op("mul", b.op("tanh", x), b.op("sigmoid", _value(b, "x")))

        return _graph(build, x=(37, 129), y=(129,))

    def convolution() -> Made:
        def build(b: GraphBuilder) -> Value:
            w = b.weight("w", np.random.default_rng(2).standard_normal((3, 3, 8, 24)).astype(np.float32) / 8)
            square = {"strides": (1, 1), "dilations": (1, 1), "before": (1, 1), "after": (1, 1)}
            return b.op("relu", b.op("conv", _value(b, "x"), w, groups=1, **square))

        return _graph(build, x=(2, 13, 11, 8))

    def gathered() -> Made:
        b = GraphBuilder("gathered")
        table = b.weight("table", np.random.default_rng(3).standard_normal((50, 33)).astype(np.float32))
        i = b.input("i", "i64[7, 5]")
        y = b.op("reduce_sum", b.op("gather", table, i, axis=0), axes=(1,), keepdims=False)
        feeds: dict[str, Array] = {"i": np.random.default_rng(4).integers(-50, 50, (7, 5))}
        return Made(b.graph([y]), feeds, lambda *_: lambda *_: [], "f32", 0.0, 0)

    def attended(dtype: str, length: int) -> Made:
        b = GraphBuilder("attended")
        q, k, v = (b.input(n, f"{dtype}[3, {length}, 32]") for n in "qkv")
        y = b.op("attention", q, k, v, scale=1 / math.sqrt(32), causal=True)
        rng = np.random.default_rng(5)
        kind = TensorType(DType(dtype), ()).dtype.numpy
        feeds = {n: rng.standard_normal((3, length, 32), dtype=np.float32).astype(kind) for n in "qkv"}
        return Made(b.graph([y]), feeds, lambda *_: lambda *_: [], dtype, 0.0, 0)

    small = Decoder(layers=2, width=64, heads=4, past=9, vocabulary=101)
    return {
        "points": points,
        "softmax of short rows": rows("softmax", 13, 70),
        "softmax of rows": rows("softmax", 301, 19),
        "softmax of long rows": rows("softmax", 5000, 3),
        "gather and sum": gathered,
        "convolution": convolution,
        "product f32": lambda: gemm(70, 100, 52, "f32"),
        "product bf16": lambda: gemm(136, 200, 72, "bf16"),
        "product of one row": lambda: gemm(1, 200, 129, "f32"),
        "MLP of one row f32": lambda: mlp([65, 130, 7]),
        "MLP of one row bf16": lambda: mlp([64, 136, 8], "bf16"),
        "MLP of 33 rows": lambda: mlp([40, 130, 7], rows=33),
        "LSTM": lambda: lstm(2, 5, 24),
        "chain": lambda: chain(2, 40, 24, 56, 24, "relu", "f32"),
        "chain with softmax bf16": lambda: chain(2, 40, 32, 56, 32, "softmax", "bf16"),
        "attention f32": lambda: attended("f32", 45),
        "attention bf16": lambda: attended("bf16", 45),
        "decoder f32": lambda: decoder(small, "f32"),
        "decoder bf16": lambda: decoder(small, "bf16"),
    }


def check(name: str, made: Made, target: str, fuse: bool = True) -> Check:
    """Compile, run twice, compare both runs with float64 and with each other."""
    return _checked(name, made, lambda: open_session(made, target, fuse=fuse), TOLERANCE[made.dtype])


def check_shape(shaped: Shaped, target: str) -> Check:
    """The same for a product with a tiling that is given."""
    made = shaped.made()
    tolerance = shaped.tolerance or TOLERANCE[made.dtype]
    return _checked(shaped.name, made, lambda: api.open_session(shaped.plan(made, target)), tolerance)


def _checked(name: str, made: Made, open_: Callable[[], Session], tolerance: float) -> Check:
    try:
        session = open_()
        got = session.run_list(made.feeds)
        again = session.run_list(made.feeds)
    except Exception as e:
        return Check(name, math.inf, tolerance, (), f"{type(e).__name__}: {str(e)[:200]}")
    names = [v.name for v in session.outputs]
    worst = compare(names, [as_wide(x) for x in got], reference(made))
    problem = next((d.problem for d in worst if d.problem), "")
    if any(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(got, again, strict=True)):
        problem = "the second run gives other bits"
    return Check(name, max(d.required for d in worst), tolerance, templates_of(session), problem)


def open_session(made: Made, target: str, fuse: bool = True, passes: str = "") -> Session:
    """A session for a model."""
    if isinstance(made.model, bytes):
        return api.compile(made.model, device=target, fuse=fuse, passes=passes)
    return api.compile_graph(made.model, options=api.Options(device=target, fuse=fuse, passes=passes))


def templates_of(session: Session) -> tuple[str, ...]:
    """The templates of a plan's kernels."""
    kernels = [k for menu in session.plan.kernels.values() for k in menu]
    return tuple(sorted({s.template for k in kernels for s in k.tiling.stages}))


def as_wide(x: Any) -> Array:
    """Any array in float64."""
    return np.asarray(x).astype(np.float64)


def reference(made: Made) -> list[Array]:
    """The model in float64."""
    if isinstance(made.model, bytes):
        from fusec.measure.oracles import float64_oracle

        return [as_wide(x) for x in float64_oracle(made.model)(made.feeds)]
    found = run_reference(_wide(made.model), _wide_feeds(made.feeds))
    return [as_wide(found[v.name]) for v in made.model.outputs]


def _wide_feeds(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {n: as_wide(a) if DType.of(a.dtype) in NARROW else a for n, a in feeds.items()}


def _wide(graph: Graph) -> Graph:
    """The same graph over float64 wherever it has floats."""

    def value(v: Value) -> Value:
        if isinstance(v.type, TensorType) and v.type.dtype in NARROW:
            return Value(v.name, TensorType(DType.F64, v.type.shape))
        return v

    weights = {
        n: Weight(value(w.value), as_wide(w.array), w.recipe) if w.value.dtype in NARROW else w
        for n, w in graph.weights.items()
    }
    nodes = tuple(
        replace(n, inputs=tuple(v and value(v) for v in n.inputs), outputs=tuple(map(value, n.outputs)))
        for n in graph.nodes
    )
    return replace(
        graph,
        inputs=tuple(map(value, graph.inputs)),
        outputs=tuple(map(value, graph.outputs)),
        nodes=nodes,
        weights=weights,
    )
