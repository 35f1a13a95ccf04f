"""Every graph pass on its fixture pairs: the text that comes out, the verifier's word, and both sides executed.

A fixture file holds cases: a title behind `#`, a graph, then `->` and the graph that the pass makes of it, or `-> unchanged`.
Run `python tests/passes/test_graph_passes.py` to print what the passes make of all fixtures.
"""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusec.ir.build import GraphBuilder
from fusec.ir.dim import evaluate
from fusec.ir.graph import Graph
from fusec.ir.parse import random_array
from fusec.ir.reference import run_reference
from fusec.ir.text import parse_graph, print_graph
from fusec.ir.types import TensorType
from fusec.ir.verify import verify
from fusec.knobs import Limits
from fusec.passes import default
from fusec.rewrite.graph_pass import Pass, PassContext
from fusec.rewrite.pipeline import flatten
from fusec.target import Target

FOLDER = Path(__file__).parents[1] / "fixtures" / "passes"
CONTEXT = PassContext(Target("cpu", "generic"), Limits(fold_bytes=1 << 16))
ROOMY = PassContext(Target("cpu", "generic"), Limits(fold_bytes=1 << 20))
LOOSE = {"choose-winograd": 1e-4}
"""Passes that change the arithmetic, and how far, measured at the peak, their results may be from those before."""
EXACT = frozenset("fold-constants eliminate-dead share-common simplify-algebra simplify-views".split())
PASSES: dict[str, Pass] = {p.name: p for p in flatten(default.GRAPH_PASSES)}
SYMBOLS = {"N": 3, "M": 5, "B": 2, "S": 4, "T": 6}


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    before: str
    after: str | None


def cases() -> list[Case]:
    out = []
    for path in sorted(FOLDER.glob("*.txt")):
        name = path.stem.replace("_", "-")
        if name not in PASSES:
            continue
        for block in re.split(r"^(?=# )", path.read_text(), flags=re.M)[1:]:
            title, _, rest = block.partition("\n")
            before, _, after = rest.partition("\n->")
            out.append(Case(name, title[2:], before, None if after.strip() == "unchanged" else after))
    return out


def feeds(graph: Graph, special: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for i, v in enumerate(graph.inputs):
        assert isinstance(v.type, TensorType)
        shape = tuple(evaluate(d, SYMBOLS) for d in v.shape)
        out[v.name] = random_array(v.dtype, shape, i + 1)
        if special and v.dtype.is_float and out[v.name].size:
            flat = out[v.name].reshape(-1)
            flat[: flat.size // 2] = np.resize([-0.0, 0.0, np.nan, np.inf, -np.inf, 1.0], flat.size // 2)
    return out


def agree(before: Graph, after: Graph, exact: bool, loose: float | None = None) -> None:
    for special in (False, True) if exact else (False,):
        given = feeds(before, special)
        expected, got = run_reference(before, given), run_reference(after, given)
        assert list(expected) == list(got)
        for name, e in expected.items():
            g = got[name]
            assert (e.dtype, e.shape) == (g.dtype, g.shape)
            if exact:
                np.testing.assert_array_equal(g, e)
                if e.dtype.kind == "f":
                    number = ~np.isnan(e)
                    np.testing.assert_array_equal(np.signbit(g[number]), np.signbit(e[number]))
            else:
                atol = 2e-6 if loose is None else loose / 10 * max(1.0, np.abs(e).max(initial=0.0))
                np.testing.assert_allclose(g, e, rtol=loose or 2e-5, atol=atol)


@pytest.mark.parametrize("case", cases(), ids=lambda c: f"{c.name}: {c.title}")
def test_fixture(case: Case) -> None:
    before = parse_graph(case.before)
    verify(before)
    context = ROOMY if case.name in LOOSE else CONTEXT
    result = PASSES[case.name](before, context)
    verify(result, blame=case.name)
    after = before if case.after is None else parse_graph(case.after, {k: w.array for k, w in result.weights.items()})
    assert print_graph(result) == print_graph(after)
    assert (result is before) == (case.after is None)
    agree(before, after, case.name in EXACT, LOOSE.get(case.name))
    again = PASSES[case.name](result, context)
    assert print_graph(again) == print_graph(result), "a second run changes the graph once more"


def test_an_index_out_of_range_is_left_to_the_run() -> None:
    g = parse_graph("""
        graph g(x: f32[N]) {
          weight w: f32[2] {1, 2}
          weight i: i64[1] {7}
          a = gather[axis=0](w, i)
          y = add(x, a)
          return y
        }""")
    assert PASSES["fold-constants"](g, CONTEXT) is g


def test_every_pass_has_fixtures() -> None:
    assert {c.name for c in cases()} == set(PASSES)
    assert {p.stem.replace("_", "-") for p in (FOLDER.parents[2] / "passes" / "graph").glob("[a-z]*.py")} - set(
        PASSES
    ) == {
        "sweep",
        "factors",
        "permutations",
        "lstm-cell",
        "winograd-device",
        *(p.name for p in default.OPTIONAL_PASSES),
    }


@functools.cache
def ladder(n: int) -> Graph:
    """A long graph with something for every pass in each of its steps."""
    b = GraphBuilder("ladder")
    x = b.input("x", "f32[N, 4]")
    w = b.weight("w", np.eye(4, dtype=np.float32))
    one = b.weight("one", np.float32(1))
    for i in range(n // 10):
        t = b.op("transpose", b.op("transpose", x, perm=(1, 0)), perm=(1, 0))
        h = b.op("mul", b.op("matmul", t, w), one)
        dead = b.op("add", w, w)
        b.op("exp", dead)
        a = b.op("sigmoid", h)
        x = b.op("add", b.op("mul", h, a), b.op("softmax", h, axis=1)) if i % 2 else b.op("tanh", b.op("neg", h))
    return b.graph([x])


@pytest.mark.parametrize("name", sorted(PASSES))
def test_passes_are_linear(name: str) -> None:
    times = []
    for n in (1_000, 8_000):
        graph = ladder(n)
        start = time.process_time()
        PASSES[name](graph, CONTEXT)
        times.append(time.process_time() - start)
    assert times[1] < max(20 * times[0], 2.0), times


def test_the_whole_pipeline_on_a_long_graph() -> None:
    graph = ladder(8_000)
    out = default.optimise(graph, CONTEXT)
    verify(out)
    assert {n.op for n in out.nodes} == {"matmul", "swish", "softmax", "add", "tanh", "neg"}
    small = ladder(60)
    agree(small, default.optimise(small, CONTEXT), exact=False)


def main() -> None:
    """Print every case with what its pass makes of it now."""
    for case in cases():
        before = parse_graph(case.before)
        result = PASSES[case.name](before, ROOMY if case.name in LOOSE else CONTEXT)
        shown = "-> unchanged" if result is before else f"->\n{print_graph(result)}"
        print(f"## {case.name}\n# {case.title}\n{case.before.strip()}\n{shown}\n")


if __name__ == "__main__":
    main()
