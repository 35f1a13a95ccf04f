"""parse(print(graph)) is the same graph, for whatever names, types, attributes and weights users bring."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fusec.errors import PlanError
from fusec.ir.build import GraphBuilder
from fusec.ir.dim import Extent, ceildiv, floordiv, maximum, minimum, mod, symbol
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.parse import parse_graph
from fusec.ir.requirement import Requirement
from fusec.ir.text import print_graph
from fusec.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking whole graphs takes minutes and says little more


def same(a: Graph, b: Graph) -> None:
    assert (a.name, a.inputs, a.outputs) == (b.name, b.inputs, b.outputs)
    assert [repr(n) for n in a.nodes] == [repr(n) for n in b.nodes]  # repr: nan equals nan, 1 differs from True and 1.0
    assert [n.origin for n in a.nodes] == [n.origin for n in b.nodes]
    assert [(r, r.what, r.origin) for r in a.requirements] == [(r, r.what, r.origin) for r in b.requirements]
    assert list(a.weights) == list(b.weights)
    for k, w in a.weights.items():
        v = b.weights[k]
        assert (v.value, v.recipe) == (w.value, w.recipe)
        assert v.array.dtype == w.array.dtype
        if w.array.dtype == object:
            assert v.array.tolist() == w.array.tolist()
        else:
            assert v.array.tobytes() == w.array.tobytes()


names = st.one_of(
    st.from_regex(r"[A-Za-z_][\w.]*", fullmatch=True),
    st.text(),
    st.sampled_from(["none", "f32", "return", "../w", 'a"b\n']),
)
symbols = st.sampled_from(["N", "M", "seq_len", "i4", "nan", "bool", "none", "max"]).map(symbol)
small = st.integers(-3, 12)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    x: Extent = draw(st.one_of(st.integers(0, 2**40), symbols))
    for _ in range(draw(st.integers(0, 3))):
        y: Extent = draw(st.one_of(st.integers(1, 9), symbols))
        fn = draw(
            st.sampled_from([floordiv, ceildiv, mod, maximum, minimum, lambda a, b: a + b, lambda a, b: a * b - 2])
        )
        x = fn(x, y)
    return x


tensor_types = st.builds(
    TensorType, st.sampled_from(list(DType)), st.one_of(st.none(), st.lists(extents(), max_size=3).map(tuple))
)
types: st.SearchStrategy[Type] = st.recursive(
    tensor_types,
    lambda t: st.one_of(t.map(SequenceType), t.map(OptionalType), st.builds(MapType, st.just(DType.I64), t)),
    max_leaves=3,
)
attrs = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.sampled_from(list(DType)),
        extents(), tensor_types,
    ),
    lambda a: st.lists(a, max_size=3).map(tuple),
    max_leaves=6,
)  # fmt: skip
keys = st.from_regex(r"[a-z_]\w{0,6}", fullmatch=True).filter(str.isascii)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = draw(st.sampled_from(list(DType)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = math.prod(shape)
    if dtype is DType.STRING:
        out = np.empty(size, object)
        out[:] = draw(st.lists(st.text(), min_size=size, max_size=size))
        return out.reshape(shape)
    if dtype.is_float:
        flat = draw(st.lists(st.floats(), min_size=size, max_size=size))
        with np.errstate(all="ignore"):
            return np.array(flat, np.float64).astype(dtype.numpy).reshape(shape)
    return np.random.default_rng(draw(st.integers(0, 9))).integers(0, 2, shape).astype(dtype.numpy)


requirements = st.builds(
    Requirement, extents(), st.integers(-9, 9), st.booleans(), names, st.lists(names, max_size=2).map(tuple)
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    free = iter(draw(st.lists(names, min_size=14, max_size=14, unique=True)))
    inputs = tuple(Value(next(free), draw(types)) for _ in range(draw(st.integers(0, 3))))
    b = GraphBuilder(draw(names))
    for _ in range(draw(st.integers(0, 3))):
        b.weight(
            next(free),
            draw(arrays()),
            draw(st.one_of(st.none(), st.text(min_size=1), st.just('f[a=(1, 2)](init("x{y"))'))),
        )
    weights = b.graph(()).weights
    values: list[Value] = [*inputs, *(w.value for w in weights.values())]
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        ins = draw(st.lists(st.sampled_from([None, *values]), max_size=3))
        outs = [Value(next(free), draw(types)) for _ in range(draw(st.integers(1, 2)))]
        attributes = draw(st.dictionaries(keys, attrs, max_size=3))
        origin = tuple(draw(st.lists(names, max_size=2)))
        nodes.append(Node(draw(keys), tuple(ins), tuple(outs), tuple(sorted(attributes.items())), origin))
        values += outs
    outputs = draw(st.lists(st.sampled_from(values), max_size=2, unique=True)) if values else []
    return Graph(b.name, inputs, tuple(outputs), tuple(nodes), weights, tuple(draw(st.lists(requirements, max_size=2))))


@settings(phases=PHASES)
@given(graphs())
def test_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, {k: w.array for k, w in graph.weights.items()})
    same(again, graph)
    assert print_graph(again) == text
    assert text.count("\n") == len(graph.nodes) + len(graph.weights) + len(graph.requirements) + 2


@settings(phases=PHASES)
@given(st.one_of(st.text(), graphs().map(print_graph)), st.data())
def test_damaged_text_is_a_plan_error(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    noise = data.draw(st.one_of(st.text(max_size=3), st.sampled_from([*'()[]{}",;=#-', "1", "none"])))
    try:
        parse_graph(text[:cut] + noise + text[cut + data.draw(st.integers(0, 3)) :])
    except PlanError as e:
        assert "line" in str(e)


def test_written_by_hand_types_may_be_left_out() -> None:
    g = parse_graph("""
        graph mlp(x: f32[N, 8],) {  # comments are allowed
          weight w: f32[8, 4] {random(1)}; weight b: f32[4] = init("fc.b") {0, 1, -2.5, nan}
          h = matmul(x, w) from ("/fc", "fc.b"); h2 = add(h, b)
          c: f32[N, 4] = clip(h2, none, none)
          y = reshape[shape=(4*N,)](c)
          return y
        }""")
    assert str(g.outputs[0].type) == "f32[4*N]"
    assert g.nodes[0].origin == ("/fc", "fc.b")
    assert g.nodes[2].inputs[1:] == (None, None)
    assert g.weights["w"].array.std() > 0.5
    same(parse_graph(print_graph(g), {"w": g.weights["w"].array}), g)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'graph'"),
        ("graph g() {\n  y = relu(x)\n}", r"line 2: 'x' is not declared"),
        ("graph g(imput: f32[2]) {\n  y = relu(input)\n}", "did you mean 'imput'"),
        ("graph g(x: f32[2]) {\n y = softmax[axis=3](x)\n return y }", "line 2: softmax: .*axis 3 is outside rank 1"),
        ("graph g(x: f33[2]) { return x }", "f33"),
        ("graph g(x: f32[2], x: f32[2]) { return x }", "declared twice"),
        ("graph g(x: f32[2]) { return x } x", "follows"),
        ("graph g() {\n\n weight w: f32[2] = init(\"w\")\n return w }", "line 4: weight 'w' is not written out"),
        ("graph g() { weight w: f32[2] {1} return w }", "does not fit"),
        ("graph g() { weight w: i8[1] {300} return w }", "does not fit"),
        ("graph g() { weight w: f32[99999999999999] {random(1)} return w }", "large"),
        ("graph g(x: f32[2]) { y = f[a=" + "(" * 99 + "](x) return y }", "nested too deep"),
        ("graph g(x: " + "seq(" * 5000 + "f32[*]" + ")" * 5000 + ") { return x }", "line 1"),
        ("graph g(x: f32[" + "-" * 5000 + "1]) { return x }", "line 1"),
        ("graph g(x: f32[2]) { y: f32[2] = f[a=1, a=2](x) return y }", "twice"),
        ('graph g(x: f32[N]) { require floordiv(1, 0) >= 2 for "" return x }', "not a dimension"),
        ('graph g(x: f32[N]) { require N > 2 for "" return x }', "expected '>='"),
        ('graph g(x: f32[N]) { require N >= 2 return x }', "expected 'for'"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_graph(text)


def test_long_graphs_are_linear() -> None:
    b = GraphBuilder()
    x = b.input("x", "f32[N]")
    for _ in range(20_000):
        x = b.op("relu", x)
    g = b.graph([x])
    start = time.process_time()
    same(parse_graph(print_graph(g)), g)
    assert time.process_time() - start < 10
