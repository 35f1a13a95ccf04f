"""The reference interpreter binds symbols, evaluates dimensions in attributes and hands opaque nodes over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusec.errors import ExecutionError, InputError, UnsupportedError
from fusec.ir.graph import Node
from fusec.ir.reference import run_reference
from fusec.ir.text import parse_graph

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_symbols_come_from_inputs_and_attributes_are_evaluated() -> None:
    g = parse_graph("""
        graph g(x: f32[N, M], y: f32[2*N]) {
          weight w: f32[1] {2}
          a = mul(x, w)
          b = reshape[shape=(M*N,)](a)
          c = pad[before=(0,), after=(N,), mode="constant"](b)
          d = dims[values=(N, 2*M + 1)]()
          e = iota[dtype=i32, size=N, start=M, step=-1]()
          return c, d, e
        }""")
    out = run_reference(g, {"x": X, "y": np.zeros(6, np.float32)})
    np.testing.assert_array_equal(out["c"], [*(2 * X).ravel(), 0, 0, 0])
    assert out["d"].tolist() == [3, 9]
    assert out["e"].tolist() == [4, 3, 2]
    assert set(out) == {"c", "d", "e"}
    assert "a" in run_reference(g, {"x": X, "y": np.zeros(6, np.float32)}, every=True)


def test_opaque_nodes_are_handed_over_and_bind_fresh_symbols() -> None:
    g = parse_graph("""
        graph g(x: f32[N, M]) {
          i: i64[2, _u0] = opaque[op_type="NonZero"](x, none)
          s: seq(i64[*]) = opaque[op_type="SequenceConstruct"](i)
          t = identity(s)
          f = reshape[shape=(2*_u0,)](i)
          return f, t
        }""")
    seen: list[Any] = []

    def opaque(node: Node, inputs: list[Any]) -> list[Any]:
        seen.append((node.attr("op_type"), inputs[1:]))
        return [np.array(np.nonzero(inputs[0]))] if node.attr("op_type") == "NonZero" else [[inputs[0]]]

    out = run_reference(g, {"x": X}, opaque)
    assert out["f"].shape == (22,)
    assert isinstance(out["t"], list)
    assert seen == [("NonZero", [None]), ("SequenceConstruct", [])]
    with pytest.raises(UnsupportedError, match="NonZero"):
        run_reference(g, {"x": X})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"y": X}, "input 'x' is missing"),
        ({"x": X.astype(np.float64)}, r"'x' must be f32\[N, N\], got float64"),
        ({"x": X}, r"got shape \[3, 4\]: N is 3"),
        ({"x": X[0]}, r"got shape \[4\]"),
    ],
)
def test_wrong_feeds(feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_reference(parse_graph("graph g(x: f32[N, N]) { return x }"), feeds)


def test_an_error_names_the_node() -> None:
    g = parse_graph("graph g(x: f32[3], i: i64[1]) { y = gather[axis=0](x, i) return y }")
    with pytest.raises(ExecutionError, match="index 5") as e:
        run_reference(g, {"x": X[:, 0], "i": np.array([5])})
    assert e.value.node == "y"
