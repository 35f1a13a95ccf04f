"""Winograd's transforms in machine code: images that no whole number of tiles covers, beside the sum in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusec
from fusec.passes.graph import choose_winograd

PARTIAL = """
program partial(M, N)
task m: ceildiv(M, 2)
input x: {t}[M, N]
output y: {t}[M, N], z: {t}[N, M]
stage m, q: ceildiv(N, 3)
  y[2*m, 3*q] = x[2*m, 3*q]
  y[2*m, 3*q + 1]: partial = pad(x[2*m, 3*q + 1], 0.0)
  y[2*m, 3*q + 2]: partial = pad(x[2*m, 3*q + 2], 0.0)
stage m, n: N
  y[2*m + 1, n]: partial = pad(x[2*m + 1, n], 2.0)
  z[n, 2*m] = x[2*m, n]
  z[n, 2*m + 1]: partial = pad(x[2*m + 1, n], 2.0)
"""
TOLERANCE = 1e-5
"""Of the largest output: docs/numerics.md."""
RNG = np.random.default_rng(11)


def draw(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
@pytest.mark.parametrize("lanes", [("q", "n"), ("m", "m"), ("", "")])
def test_partial_stores(check: Callable[..., Any], dtype: str, lanes: tuple[str, str]) -> None:
    for m, n in ((1, 1), (5, 17), (4, 41)):
        x = RNG.standard_normal((m, n))
        check(PARTIAL.format(t=dtype), list(lanes), {"M": m, "N": n}, {"x": x}, tile={"m": 2})


def model(channels: tuple[int, int], size: tuple[Any, ...], groups: int = 1) -> tuple[bytes, Any, Any]:
    """conv + bias + residual + relu, whose sum is an output as well; the weight and the bias."""
    c, o = channels
    w, b = draw(o, c // groups, 3, 3) * np.float32((2 / (9 * c)) ** 0.5), draw(o)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Add", ["h", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    n, h, wide = size
    images = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [n, k, h, wide]) for v, k in (("x", c), ("r", o))]
    outputs = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [n, o, h, wide]) for v in ("y", "s")]
    graph = helper.make_graph(
        nodes, "g", images, outputs, [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString()), w, b


def expected(x: Any, w: Any, b: Any, r: Any) -> Any:
    """The sum before the relu, in float64."""
    h, wide = x.shape[2:]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    parts = (
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + h, j : j + wide], w[:, :, i, j].astype(np.float64))
        for i in range(3)
        for j in range(3)
    )
    return sum(parts) + b[:, None, None] + r


def steps(session: fusec.Session) -> int:
    """Calls that are transforms."""
    calls = (c for s in session.plan.steps if hasattr(s, "calls") for c in s.calls)
    return sum("winograd" in c.program.name for c in calls)


def compare(session: fusec.Session, size: tuple[int, int, int], channels: tuple[int, int], w: Any, b: Any) -> None:
    n, h, wide = size
    x, r = draw(n, channels[0], h, wide), draw(n, channels[1], h, wide)
    want = expected(x, w, b, r)
    got = session.run({"x": x, "r": r})
    limit = TOLERANCE * np.abs(want).max()
    np.testing.assert_allclose(got["s"], want, rtol=0, atol=limit)
    np.testing.assert_allclose(got["y"], np.maximum(want, 0), rtol=0, atol=limit)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("size", [(7, 7), (13, 5), (6, 9), (1, 3), (27, 8)])
def test_odd_sizes(monkeypatch: pytest.MonkeyPatch, tile: int, size: tuple[int, int]) -> None:
    monkeypatch.setattr(choose_winograd, "best_tile", lambda *_: tile)
    data, w, b = model((16, 24), (2, *size))
    session = fusec.compile(data, threads=2)
    assert steps(session) == 2
    compare(session, (2, *size), (16, 24), w, b)


def test_symbolic_sizes() -> None:
    data, w, b = model((24, 16), ("n", "h", "w"))
    session = fusec.compile(data, threads=2)
    assert steps(session) == 2
    for size in ((1, 7, 7), (3, 8, 13), (1, 1, 2), (2, 28, 31), (1, 4, 4)):
        compare(session, size, (24, 16), w, b)


def test_partial_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_winograd, "best_tile", lambda *_: 4)
    data, w, b = model((11, 13), (1, 9, 7))
    compare(fusec.compile(data, threads=1), (1, 9, 7), (11, 13), w, b)


def test_groups_are_summed_plainly() -> None:
    data, w, b = model((32, 32), (1, 27, 27), groups=2)
    session = fusec.compile(data, threads=1)
    assert steps(session) == 0
    whole = np.zeros((32, 32, 3, 3), np.float32)
    whole[:16, :16], whole[16:, 16:] = w[:16], w[16:]
    compare(session, (1, 27, 27), (32, 32), whole, b)
