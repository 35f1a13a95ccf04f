"""Chains of products, compiled and run: for each of a batch, and for any number of rows, on one worker and on two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusec.api import compile_graph
from fusec.ir.text import parse_graph

rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def sessions(text: str, weights: dict[str, Any] | None = None) -> list[Any]:
    made = [compile_graph(parse_graph(text, weights), threads=t) for t in (1, 2)]
    assert all(len(step.calls) == 1 for s in made for step in s.plan.steps)
    return made


@pytest.mark.parametrize("n", [1, 5, 64, 300])
def test_any_number_of_rows(n: int) -> None:
    a, b = floats(32, 70) / 8, floats(70, 16) / 8
    one, two = sessions(
        "graph g(x: f32[N, 32]) { weight a: f32[32, 70]; weight b: f32[70, 16]; h = matmul(x, a); r = relu(h); "
        "y = matmul(r, b); return y }",
        {"a": a, "b": b},
    )
    x = floats(n, 32)
    (got,), (again,) = one.run_list({"x": x}, ["y"]), two.run_list({"x": x}, ["y"])
    np.testing.assert_allclose(got, np.maximum(x @ a, 0) @ b, 1e-5, 1e-5)
    assert np.array_equal(got.view(np.uint8), again.view(np.uint8))


def test_matrices_of_a_batch() -> None:
    one, two = sessions(
        "graph g(x: f32[4, 130, 24], a: f32[4, 24, 61], b: f32[4, 61, 17], c: f32[61]) { h = matmul(x, a); "
        'd = add(h, c); r = gelu[approximate="tanh"](d); y = matmul(r, b); return y }'
    )
    feeds = {"x": floats(4, 130, 24), "a": floats(4, 24, 61) / 5, "b": floats(4, 61, 17) / 8, "c": floats(61)}
    (got,), (again,) = one.run_list(feeds, ["y"]), two.run_list(feeds, ["y"])
    h = (feeds["x"] @ feeds["a"] + feeds["c"]).astype(np.float64)
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(got, h @ feeds["b"], 1e-4, 1e-4)
    assert np.array_equal(got.view(np.uint8), again.view(np.uint8))
