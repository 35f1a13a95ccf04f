"""Winograd's transforms, alone and with pointwise work behind the last one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fusec.ir.dim import ceildiv, symbol
from fusec.ops import op as ops

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value

RNG = np.random.default_rng(5)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("size", [(8, 12), (7, 13), (5, 10), (3, 1)])
def test_the_three_steps_are_a_convolution(tile: int, size: tuple[int, int]) -> None:
    h, wide = size
    x, w = draw(2, h, wide, 5).astype(np.float64), draw(3, 3, 5, 7).astype(np.float64)
    (v,) = ops.get("winograd_input").reference([x], {"tile": tile, "before": (1, 1), "after": (1, 1)})
    (u,) = ops.get("winograd_weight").reference([w], {"tile": tile})
    (y,) = ops.get("winograd_output").reference([v @ u], {"tile": tile, "shape": (2, h, wide, 7)})
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    want = sum(padded[:, r : r + h, s : s + wide] @ w[r, s] for r in range(3) for s in range(3))
    np.testing.assert_allclose(y, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("before", "after"), [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (1, 2)), ((2, 2), (0, 0))])
@pytest.mark.parametrize("out", [(8, 8), (7, 9)])
def test_input(tile: int, before: tuple[int, int], after: tuple[int, int], out: tuple[int, int]) -> None:
    size = [n + 2 - b - a for n, b, a in zip(out, before, after, strict=True)]
    x = value("x", 2, *size, 5)
    node = apply("winograd_input", "v", x, tile=tile, before=before, after=after)
    check([node], {"x": draw(2, *size, 5)})


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_output_with_an_epilogue(tile: int, missing: tuple[int, int]) -> None:
    n, size = (tile + 2) ** 2, (2, 2 * tile - missing[0], 3 * tile - missing[1], 5)
    m, bias, residual = value("m", n, 2 * 2 * 3, 5), value("b", 5), value("r", *size)
    out = apply("winograd_output", "h", m, tile=tile, shape=size)
    biased = apply("add", "s", out.outputs[0], bias)
    joined = apply("add", "t", biased.outputs[0], residual)
    y = apply("relu", "y", joined.outputs[0])
    feeds = {"m": draw(n, 12, 5), "b": draw(5), "r": draw(*size)}
    check([out, biased, joined, y], feeds, rtol=1e-4)
    check([out, biased, joined, y], feeds, [y.outputs[0], joined.outputs[0]], rtol=1e-4)


def test_a_symbolic_batch() -> None:
    n = symbol("N")
    x = value("x", n, 8, 8, 3)
    node = apply("winograd_input", "v", x, tile=4, before=(1, 1), after=(1, 1))
    check([node], {"x": draw(3, 8, 8, 3)}, symbols={"N": 3})


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2), (13, 4)])
@pytest.mark.parametrize("tile", [2, 4])
def test_symbolic_sizes(tile: int, size: tuple[int, int]) -> None:
    n, h, w = map(symbol, "NHW")
    symbols = {"N": 2, "H": size[0], "W": size[1]}
    node = apply("winograd_input", "v", value("x", n, h, w, 3), tile=tile, before=(1, 1), after=(1, 1))
    check([node], {"x": draw(2, *size, 3)}, symbols=symbols)
    tiles = ceildiv(h, tile) * ceildiv(w, tile)
    m, r = value("m", (tile + 2) ** 2, n * tiles, 5), value("r", n, h, w, 5)
    out = apply("winograd_output", "o", m, tile=tile, shape=(n, h, w, 5))
    y = apply("add", "y", out.outputs[0], r)
    feeds = {"m": draw((tile + 2) ** 2, 2 * -(-size[0] // tile) * -(-size[1] // tile), 5), "r": draw(2, *size, 5)}
    check([out, y], feeds, symbols=symbols, rtol=1e-4)
