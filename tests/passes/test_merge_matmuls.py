"""Sibling matmuls become one and slices of it, with the same results."""

import numpy as np
import pytest

from fusec.ir.reference import run_reference
from fusec.ir.text import parse_graph
from fusec.ir.verify import verify
from fusec.knobs import Limits
from fusec.passes.default import fuse_default, optimise
from fusec.rewrite.graph_pass import PassContext, get_graph_pass
from fusec.target import Target

QKV = """graph g(x: f32[2, 5, 6]) {
  weight a: f32[6, 4] {random(1)}; weight b: f32[6, 4] {random(2)}; weight c: f32[6, 3] {random(3)}
  weight d: f32[4] {random(4)}; weight e: f32[4] {random(5)}; weight f: f32[3] {random(6)}
  p = matmul(x, a); q = matmul(x, b); r = matmul(x, c)
  s = add(p, d); t = add(e, q); u = add(r, f)
  y = mul(s, t); z = exp(u)
  return y, z, t
}"""


def context(*selection, **limits):
    return PassContext(Target("cpu", "avx2"), Limits(**limits), selection=selection)


def merged(text, **limits):
    before = parse_graph(text)
    after = get_graph_pass("merge-matmuls")(before, context(**limits))
    verify(after, blame="merge-matmuls")
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 6), np.float32)}
    want, got = run_reference(before, feeds), run_reference(after, feeds)
    for name, array in want.items():
        np.testing.assert_allclose(array, got[name], rtol=1e-5, atol=1e-6)
    return before, after


def test_matrices_and_biases_are_joined():
    _, after = merged(QKV)
    assert [n.op for n in after.nodes] == ["matmul", "add", "slice", "slice", "slice", "mul", "exp"]
    recipes = [w.recipe for w in after.weights.values() if w.value.name.endswith(".merged")]
    assert recipes == [
        'concat[axis=1](init("a"), init("b"), init("c"))',
        'concat[axis=0](init("d"), init("e"), init("f"))',
    ]


@pytest.mark.parametrize(
    ("change", "ops"),
    [
        (("t = add(e, q)", "t = add(p, q)"), ["matmul"] * 3),
        (("return y, z, t", "return y, z, t, q"), ["matmul"] * 2),
    ],
)
def test_only_uniform_siblings_are_joined(change, ops):
    _, after = merged(QKV.replace(*change))
    assert len([n for n in after.nodes if n.op == "matmul"]) <= len(ops)


def test_nothing_is_joined_beyond_the_limit():
    before, after = merged(QKV, fold_bytes=64)
    assert after is before


def test_it_runs_only_where_asked_for():
    graph = parse_graph(QKV)
    assert [n.op for n in optimise(graph, context()).nodes].count("matmul") == 3
    chosen = optimise(graph, context("+merge-matmuls"))
    assert [n.op for n in chosen.nodes].count("matmul") == 1
    assert fuse_default(chosen, context()).groups[0].label == "matmul+add"
