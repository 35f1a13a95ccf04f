"""Windows as loop nests: padded, strided, dilated, over split and merged axes, several points at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.kernels.cpu.emit import emit
from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


MERGED = """
program depthwise(N, H, W, C, P, Q)
task n: N, m: P*Q, c: C
input x: f32[N, H, W, C]
weight w: f32[{r}*{s}, C], b: f32[C]
output y: f32[N, P*Q, C]
stage n, m, c
  v = pad(x[n, (m // Q)*{step} + r*{gap} - {pad}, (m % Q)*{step} + s*{gap} - {pad}, c], 0.0)
  t = sum[r: {r}, s: {s}](v * w[r*{s} + s, c])
  y[n, m, c] = max(t + b[c], 0.0)
"""


def merged(r: int, s: int, step: int, gap: int, pad: int) -> str:
    return MERGED.format(r=r, s=s, step=step, gap=gap, pad=pad)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    ("r", "s", "step", "gap", "pad"),
    [(3, 3, 1, 1, 1), (3, 3, 2, 1, 1), (5, 5, 1, 1, 2), (2, 3, 1, 2, 3), (3, 3, 1, 1, 0)],
)
def test_depthwise_convolution_of_merged_pixels(
    check: Check, r: int, s: int, step: int, gap: int, pad: int, rows: int
) -> None:
    for h, w, c in ((7, 7, 12), (9, 23, 37), (5, 6, 8)):
        p, q = ((n + 2 * pad - (k - 1) * gap - 1) // step + 1 for n, k in ((h, r), (w, s)))
        params = {"N": 2, "H": h, "W": w, "C": c, "P": p, "Q": q}
        operands = {"x": floats(2, h, w, c), "w": floats(r * s, c), "b": floats(c)}
        check(merged(r, s, step, gap, pad), ["c"], params, operands, tile={"n": 1, "m": 17, "c": 24}, rows=rows)


@pytest.mark.parametrize("step", [1, 2])
def test_rows_below_are_fetched(check: Check, step: int) -> None:
    """An image that is larger than the second level cache, whose last rows have none below."""
    h, w, c = 19, 70, 104
    params = {"N": 1, "H": h, "W": w, "C": c, "P": (h - 1) // step + 1, "Q": (w - 1) // step + 1}
    operands = {"x": floats(1, h, w, c), "w": floats(9, c), "b": floats(c)}
    check(merged(3, 3, step, 1, 1), ["c"], params, operands, tile={"n": 1, "m": 2 * params["Q"], "c": 104}, rows=4)
    kernel = menu(parse_program(merged(3, 3, step, 1, 1)), Target("cpu", "avx2"))[0]
    assert emit(kernel, Target("cpu", "avx2")).text.count("call void @llvm.prefetch") == {1: 2, 2: 8}[step]


APART = """
program pools(N, H, W, C, P, Q, R, S, D)
task n: N, p: P
input x: {t}[N, H, W, C]
output y: {t}[N, P, Q, C], z: {t}[N, P, Q, C]
stage n, p, q: Q, c: C
  h = max[r: R, s: S](pad(x[n, p*D + r - 1, q*D + s - 1, c], {low}))
  t = sum[r: R, s: S](pad(x[n, p*D + r - 1, q*D + s - 1, c], {zero}))
  y[n, p, q, c] = h
  z[n, p, q, c] = t
"""


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8", "f64"])
def test_pools_over_windows_of_any_size(check: Check, dtype: str, rows: int) -> None:
    low, zero = ("-inf", "0.0") if dtype[0] == "f" else ("-128", "0")
    for size, step in (((3, 3), 1), ((3, 2), 2), ((1, 4), 3)):
        h, w, c = 8, 19, 21
        p, q = ((n + 2 - k) // step + 1 for n, k in zip((h, w), size, strict=True))
        params = {"N": 2, "H": h, "W": w, "C": c, "P": p, "Q": q, "R": size[0], "S": size[1], "D": step}
        x = rng.integers(-9, 9, (2, h, w, c)).astype(np.float32)
        if dtype[0] == "f":
            x[1, 3, 4, 5] = np.nan
        check(APART.format(t=dtype, low=low, zero=zero), ["c"], params, {"x": x}, tile={"n": 1, "p": 2}, rows=rows)


OTHER_FILL = """
program other(H, W, C, Q)
task p: H
input x: f32[H, W, C]
weight w: f32[9, C]
output y: f32[H, W, C], z: f32[H, W, C]
stage p, q: W, c: C
  a = pad(x[p + r - 1, q + s - 1, c], 2.0)
  t = sum[r: 3, s: 3](a * w[r*3 + s, c])
  u = max[r: 3, s: 3](pad(x[p + r - 1, q + s - 1, c], 0.25))
  y[p, q, c] = t
  z[p, q, c] = u
"""


@pytest.mark.parametrize("rows", [1, 4])
def test_a_fill_that_counts_is_not_left_out(check: Check, rows: int) -> None:
    for h, w, c in ((1, 1, 3), (4, 9, 17)):
        params = {"H": h, "W": w, "C": c, "Q": 0}
        check(OTHER_FILL, ["c"], params, {"x": floats(h, w, c), "w": floats(9, c)}, tile={"p": 3}, rows=rows)


NESTED = """
program nested(A, B, C, D)
task i: A*B*C
input x: f32[C, A, B, D], z: f32[B, A]
output y: f32[A*B*C, D]
stage i, d: D
  y[i, d] = x[i % C, i // (B*C), (i // C) % B, d] + z[(i // C) % B, i // (B*C)]
"""


@pytest.mark.parametrize("lane", ["d", "i", ""])
def test_axes_merged_of_three(check: Check, lane: str) -> None:
    for a, b, c, d in ((3, 4, 5, 6), (1, 1, 1, 9), (2, 7, 1, 3), (0, 3, 2, 4)):
        params = {"A": a, "B": b, "C": c, "D": d}
        check(NESTED, [lane], params, {"x": floats(c, a, b, d), "z": floats(b, a)}, tile={"i": 7})


def test_bounds_of_windows_beyond_the_input(check: Check) -> None:
    """Wholly in the padding: sums are 0, maxima -inf."""
    text = merged(2, 2, 1, 1, 4)
    params = {"N": 1, "H": 2, "W": 3, "C": 5, "P": 9, "Q": 10}
    operands = {"x": floats(1, 2, 3, 5), "w": floats(4, 5), "b": floats(5)}
    check(text, ["c"], params, operands, tile={"m": 13}, rows=4)
