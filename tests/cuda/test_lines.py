"""Long lines that a block of threads shares: running sums and products, the largest elements, places of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusec import api
from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph
from fusec.ir.reference import run_reference
from fusec.kernels.cuda import lint, machine, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.module import module_text
from fusec.kernels.cuda.scan import running
from fusec.plan.plan import Plan
from fusec.target import Target
from fusec.tile.text import parse_program

emulated = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")
DEVICE = "cuda:sm_80-emulated"


def graph_of(op: str, text: str, **attrs: Any) -> Graph:
    b = GraphBuilder(op)
    return b.graph(list(b.ops(op, b.input("x", text), **attrs)))


def templates(plan: Plan) -> set[str]:
    return {s.template for menu in plan.kernels.values() for k in menu for s in k.tiling.stages}


def line(*shape: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 8).astype(dtype)


@emulated
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("fn", ["sum", "prod"])
def test_running_sums_are_close_to_those_of_float64(fn: str, exclusive: bool, reverse: bool) -> None:
    """Lengths around those of a chunk of 1,024. A sum is off by at most 2^-20 of what its terms are large, however many there
    are; a product of n factors by n / 2^24 of itself, as in any order."""
    graph = graph_of("running", "f32[O, N]", axis=1, fn=fn, exclusive=exclusive, reverse=reverse)
    session = api.compile_graph(graph, options=api.Options(device=DEVICE))
    assert templates(session.plan) == {"scan"}
    for shape in ((1, 1), (3, 7), (2, 1023), (3, 1024), (1, 2053)):
        x = line(*shape) if fn == "sum" else np.exp(line(*shape) / 1000)
        (got,) = session.run_list({"x": x})
        made = {"axis": 1, "fn": fn, "exclusive": exclusive, "reverse": reverse}
        ends = [
            next(iter(run_reference(graph_of("running", "f64[O, N]", **made), {"x": v.astype(np.float64)}).values()))
            for v in (x, np.abs(x))
        ]
        rate = 2.0**-20 if fn == "sum" else shape[1] * 2.0**-24
        assert (np.abs(got - ends[0]) <= rate * ends[1] + 1e-9).all(), shape
        assert np.array_equal(got, session.run_list({"x": x})[0])


@emulated
@pytest.mark.parametrize(("dtype", "kind"), [("i32", np.int32), ("i64", np.int64), ("u8", np.uint8)])
def test_running_sums_of_integers_are_exact(dtype: str, kind: type) -> None:
    graph = graph_of("running", f"{dtype}[2, 1500]", axis=1, fn="sum", exclusive=False, reverse=True)
    session = api.compile_graph(graph, options=api.Options(device=DEVICE))
    x = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (2, 1500)).astype(kind)
    (got,) = session.run_list({"x": x})
    assert np.array_equal(got, np.cumsum(x[:, ::-1], 1, dtype=kind)[:, ::-1])


@emulated
def test_what_is_not_a_number_stays_where_it_comes_from() -> None:
    """Infinities and NaN reach the places behind them, and no others."""
    session = api.compile_graph(
        graph_of("running", "f32[N]", axis=0, fn="sum", exclusive=True, reverse=False),
        options=api.Options(device=DEVICE),
    )
    x = line(1300)
    x[400], x[900], x[1100] = np.inf, -np.inf, np.nan
    (got,) = session.run_list({"x": x})
    assert np.isfinite(got[:401]).all()
    assert np.isposinf(got[401:901]).all()
    assert np.isnan(got[901:]).all()


@emulated
def test_few_lines_side_by_side_are_shared_too() -> None:
    graph = graph_of("running", "f32[2, 1100, 3]", axis=1, fn="sum", exclusive=False, reverse=False)
    session = api.compile_graph(graph, options=api.Options(device=DEVICE))
    assert templates(session.plan) == {"scan"}
    x = line(2, 1100, 3)
    (got,) = session.run_list({"x": x})
    wide = np.cumsum(x.astype(np.float64), 1)
    assert (np.abs(got - wide) <= 2.0**-20 * np.cumsum(np.abs(x), 1)).all()


@emulated
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("shape", [(3, 1000), (1, 2311), (2, 700, 2)])
def test_the_largest_are_found_by_blocks_of_threads(shape: tuple[int, ...], largest: bool) -> None:
    """Ties go to the smaller place, NaN counts as the largest, -0 is 0; two launches."""
    text = f"f32[{', '.join(map(str, shape))}]"
    graph = graph_of("top_k", text, axis=1, k=9, largest=largest)
    session = api.compile_graph(graph, options=api.Options(device=DEVICE))
    assert "block" in templates(session.plan)
    x = np.round(line(*shape) / 4)
    x[:, 5::97] = np.nan
    x[:, 6::31] = -0.0
    for feeds in (x, x[:, ::-1].copy()):
        got = session.run_list({"x": feeds})
        for a, b in zip(got, run_reference(graph, {"x": feeds}).values(), strict=True):
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


RUNNING = """
program sums(O, N)
task o: O
input x: f32[O, N]
local c: f32[1, O, 8]
output y: f32[O, N]
stage o, p: 8
  c[0, o, p] = 0.0
stage o, b: N // 8, p: 8
  old = c[index(0), o, p]
  before = sum[e: 8](where(index(e) {0} index(p), x[o, 8*b + e], 0.0))
  total = sum[e: 8](x[o, 8*b + e{1}])
  y[o, 8*b + p] = old + before
  c[index(0), o, p] = old + total
stage o, n: N - 8*(N // 8)
  old = c[index(0), o, 0]
  new = old + x[o, 8*(N // 8) + n]
  y[o, 8*(N // 8) + n] = new
  c[index(0), o, 0] = new
"""


@pytest.mark.parametrize(("order", "place", "known"), [("<=", "", True), ("<", "", False), ("<=", " - e", False)])
def test_only_programs_whose_stages_do_the_same_are_scanned(order: str, place: str, known: bool) -> None:
    assert (running(parse_program(RUNNING.format(order, place))) is not None) is known


@pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_nothing_spills(level: str) -> None:
    graphs = [
        graph_of("running", "f32[O, N]", axis=1, fn="sum", exclusive=False, reverse=False),
        graph_of("running", "f64[O, N]", axis=1, fn="prod", exclusive=True, reverse=True),
        graph_of("top_k", "f32[3, 5000]", axis=1, k=16, largest=True),
    ]
    for graph in graphs:
        plan = api.compile_graph_plan(graph, api.Options(f"cuda:{level}"), api.new_trace())
        bodies = [emit(k, Target("cuda", level)) for menu in plan.kernels.values() for k in menu]
        assert not lint.problems(nvrtc.build(module_text(bodies), level))


def test_places_of_the_largest_of_long_rows_are_the_work_of_blocks() -> None:
    plan = api.compile_graph_plan(
        graph_of("argmax", "f32[3, 5000]", axis=1, keepdims=False), api.Options("cuda:sm_90"), api.new_trace()
    )
    assert templates(plan) == {"block"}
