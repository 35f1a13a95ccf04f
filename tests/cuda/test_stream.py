"""Attention whose positions go by in blocks, emulated: masks, caches, odd sizes, several blocks, rows that see nothing."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from bench.gpu.checks import as_wide
from fusec import api
from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph
from fusec.ir.reference import run_reference
from fusec.ir.types import DType
from fusec.kernels.cuda import machine, nvrtc
from fusec.kernels.cuda.backend import CudaBackend
from fusec.kernels.cuda.module import module_text
from fusec.target import Target

emulated = pytest.mark.skipif(machine.compiler() is None, reason="there is no C++ compiler to emulate a GPU with")
DEVICE = "cuda:sm_80-emulated"
TOLERANCE = {"f32": 2e-6, "bf16": 1e-2, "f16": 2e-3}


def graph_of(
    dtype: str, q: str, k: str, v: str, causal: bool = False, mask: str = "", empty: str = "nan", scale: float = 0.2
) -> Graph:
    """An attention; shapes are texts."""
    b = GraphBuilder("attention")
    values = [b.input(n, f"{dtype}[{s}]") for n, s in (("q", q), ("k", k), ("v", v))]
    if mask:
        values.append(b.input("mask", f"{dtype}[{mask}]"))
    return b.graph([b.op("attention", *values, scale=scale, causal=causal, empty_rows=empty)])


def feeds_of(dtype: str, **shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(s, dtype=np.float32).astype(DType(dtype).numpy) for n, s in shapes.items()}


def check(graph: Graph, feeds: dict[str, Any], dtype: str, session: Any = None) -> Any:
    """Streamed, and as the reference computes it in float64 from the same inputs."""
    session = session or api.compile_graph(graph, options=api.Options(device=DEVICE))
    templates = {s.template for menu in session.plan.kernels.values() for k in menu for s in k.tiling.stages}
    assert "stream" in templates
    (got,) = session.run_list(feeds)
    b = GraphBuilder("wide")
    values = [b.input(v.name, f"f64[{', '.join(map(str, feeds[v.name].shape))}]") for v in graph.inputs]
    wide = b.graph([b.op("attention", *values, **dict(graph.nodes[0].attrs))])
    (want,) = run_reference(wide, {n: as_wide(a) for n, a in feeds.items()}).values()
    assert np.array_equal(np.isnan(as_wide(got)), np.isnan(want))
    worst = np.nanmax(np.abs(as_wide(got) - want), initial=0.0) / (1 + np.nanmax(np.abs(want), initial=0.0))
    assert worst <= TOLERANCE[dtype], worst
    return session


@emulated
@pytest.mark.parametrize(("dtype", "causal"), [("f32", True), ("bf16", False), ("f16", True)])
def test_several_blocks_of_odd_sizes(dtype: str, causal: bool) -> None:
    """One compiled model, all sizes: less than a block, a block, one more, several."""
    graph = graph_of(dtype, "B, T, 24", "B, S, 24", "B, S, 40", causal)
    session = None
    for batch, rows, positions in ((2, 9, 9), (1, 70, 128), (1, 33, 129), (1, 20, 300), (3, 31, 1)):
        if causal and rows > positions:
            continue
        feeds = feeds_of(dtype, q=(batch, rows, 24), k=(batch, positions, 24), v=(batch, positions, 40))
        session = check(graph, feeds, dtype, session)


@emulated
@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_masks_and_rows_that_see_nothing(empty: str) -> None:
    shapes = {"q": (2, 37, 16), "k": (2, 150, 16), "v": (2, 150, 16), "mask": (37, 150)}
    feeds = feeds_of("f32", **shapes)
    hidden = np.random.default_rng(1).random((37, 150)) < 0.5
    hidden[5] = True
    hidden[7, :149] = True
    hidden[9, :140] = True
    feeds["mask"] = np.where(hidden, -np.inf, feeds["mask"]).astype(np.float32)
    text = {n: ", ".join(map(str, s)) for n, s in shapes.items()}
    try:
        graph = graph_of("f32", text["q"], text["k"], text["v"], mask=text["mask"], empty=empty)
    except Exception:
        pytest.skip(f"attention knows no empty_rows={empty!r}")
    check(graph, feeds, "f32")


@emulated
def test_scores_of_any_size() -> None:
    """The largest score so far grows from block to block, by more than a power of e can hold."""
    feeds = feeds_of("f32", q=(1, 20, 8), k=(1, 400, 8), v=(1, 400, 8))
    feeds["k"] *= np.linspace(0.1, 60, 400, dtype=np.float32)[None, :, None]
    check(graph_of("f32", "1, 20, 8", "1, 400, 8", "1, 400, 8", scale=1.0), feeds, "f32")


@emulated
def test_heads_are_a_batch() -> None:
    feeds = feeds_of("bf16", q=(2, 3, 20, 16), k=(2, 3, 50, 16), v=(2, 3, 50, 16))
    check(graph_of("bf16", "2, 3, 20, 16", "2, 3, 50, 16", "2, 3, 50, 16"), feeds, "bf16")


@emulated
def test_few_rows_are_not_streamed_and_give_the_same() -> None:
    """The menu of a symbolic number of rows has both."""
    graph = graph_of("f32", "1, T, 16", "1, S, 16", "1, S, 16")
    session = api.compile_graph(graph, options=api.Options(device=DEVICE))
    (menu,) = session.plan.kernels.values()
    assert menu[0].tiling.stages[0].template == "stream"
    assert len(menu) > 1
    for rows in (1, 3, 8, 9):
        check(graph, feeds_of("f32", q=(1, rows, 16), k=(1, 77, 16), v=(1, 77, 16)), "f32", session)


@pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("dtype", "most"), [("f32", 256), ("bf16", 0)])
def test_it_compiles_for_gpus(level: str, dtype: str, most: int) -> None:
    """Of float32 some values that loops do not change leave the registers; nothing of bfloat16 does."""
    shape = "12, 4096, 64"
    options = api.Options(device=f"cuda:{level}")
    graph = graph_of(dtype, shape, shape, shape, True, scale=1 / math.sqrt(64))
    plan = api.compile_graph_plan(graph, options, api.new_trace())
    (menu,) = plan.kernels.values()
    maker, target = CudaBackend(), Target("cuda", level)
    source = maker.emit(menu[0], target)
    log = nvrtc.build(module_text([source]), level).log
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", log)]
    assert spilled and max(spilled) <= most, log
