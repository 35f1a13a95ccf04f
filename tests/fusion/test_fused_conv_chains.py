"""Chains of convolutions, compiled and run: fused against unfused and float64, on one worker and on two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusec.passes.fusion.fuse_conv_chain as rule
from fusec.api import Options, compile_graph
from fusec.ir.graph import Graph
from fusec.ir.reference import run_reference
from fusec.ir.text import parse_graph
from fusec.kernels.templates.accepts import accepts
from fusec.target import Target

BETWEEN = {"nothing": "", "relu": "r = relu(d); ", "silu": "s = sigmoid(d); r = mul(d, s); "}


def graph(
    image: tuple[int, ...], channels: int, made: int, kernel: int, stride: int, between: str, depthwise: bool
) -> tuple[Graph, dict[str, Any]]:
    """A convolution, a bias, something pointwise, a 1x1 convolution and a sum with an input; and what goes in."""
    rng = np.random.default_rng(0)
    n, rows, columns, c = *image, channels
    groups, per_group, k, pad = (c, 1, kernel, kernel // 2) if depthwise else (1, 5, 1, 0)
    size = [(x + 2 * pad - k) // stride + 1 for x in (rows, columns)]
    attrs = f"before=({pad}, {pad}), after=({pad}, {pad}), strides=({stride}, {stride}), dilations=(1, 1)"
    text = (
        f"graph g(x: f32[{n}, {rows}, {columns}, {c if depthwise else 5}], z: f32[{n}, {size[0]}, {size[1]}, {made}]) {{ "
        f"weight w: f32[{k}, {k}, {per_group}, {c}]; weight b: f32[{c}]; weight v: f32[1, 1, {c}, {made}]; "
        f"h = conv[{attrs}, groups={groups}](x, w); d = add(h, b); {BETWEEN[between]}"
        "p = conv[before=(0, 0), after=(0, 0), strides=(1, 1), dilations=(1, 1), groups=1]"
        f"({'r' if between != 'nothing' else 'd'}, v); y = add(p, z); return y }}"
    )
    shapes = {"w": (k, k, per_group, c), "b": (c,), "v": (1, 1, c, made)}
    weights = {a: rng.standard_normal(s).astype(np.float32) for a, s in shapes.items()}
    made_graph = parse_graph(text, weights)
    feeds = {v.name: rng.standard_normal(tuple(map(int, v.shape))).astype(np.float32) for v in made_graph.inputs}
    return made_graph, feeds


def in_float64(g: Graph, feeds: dict[str, Any]) -> Any:
    """What the reference gives for the same numbers as float64."""
    wide = parse_graph(str(g).replace("f32[", "f64["), {n: w.array.astype(np.float64) for n, w in g.weights.items()})
    return run_reference(wide, {n: a.astype(np.float64) for n, a in feeds.items()})["y"]


def check(g: Graph, feeds: dict[str, Any]) -> None:
    """One kernel gives what two give, the same bits on any number of workers, near what float64 gives."""
    (apart,) = compile_graph(g, options=Options(passes="-fuse-conv-chain")).run_list(feeds, ["y"])
    want, first = in_float64(g, feeds), None
    for threads in (1, 2):
        session = compile_graph(g, threads=threads)
        assert [len(step.calls) for step in session.plan.steps] == [1]
        (got,) = session.run_list(feeds, ["y"])
        np.testing.assert_allclose(got, want, 1e-4, 1e-4)
        np.testing.assert_allclose(got, apart, 1e-4, 1e-4)
        assert first is None or np.array_equal(got.view(np.uint8), first.view(np.uint8))
        first = got


@pytest.fixture
def eager(monkeypatch):
    """Small images are chained, too."""
    monkeypatch.setattr(rule, "CACHE_BYTES", 0)
    monkeypatch.setattr(rule, "TASKS", 1)
    monkeypatch.setattr(rule, "MOST_FLOPS", 1e9)


@pytest.mark.parametrize("between", list(BETWEEN))
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_of_mobilenet(stride: int, between: str) -> None:
    check(*graph((2, 66 * stride, 63 * stride), 40, 24, 3, stride, between, depthwise=True))


def test_products_of_pixels() -> None:
    check(*graph((1, 100, 90), 32, 16, 1, 1, "relu", depthwise=False))


@settings(suppress_health_check=list(HealthCheck), max_examples=8)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 17), st.integers(1, 230)),
    st.integers(2, 35),
    st.integers(1, 40),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
    st.sampled_from(list(BETWEEN)),
    st.booleans(),
)
def test_images_of_any_size(eager, image, channels, made, kernel, stride, between, depthwise) -> None:
    check(*graph(image, channels, made, kernel, stride, between, depthwise))


def test_devices_keep_convolutions_apart() -> None:
    g, _ = graph((1, 100, 90), 32, 16, 3, 1, "relu", depthwise=True)
    assert accepts(g.nodes, g.outputs, Target("cpu", "avx2"))
    verdict = accepts(g.nodes, g.outputs, Target("cuda", "sm_80"))
    assert not verdict
    assert "no template for a device" in verdict.why
