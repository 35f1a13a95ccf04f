"""The text form of tile programs, their verifier and their numpy interpreter."""

from __future__ import annotations

import numpy as np

from fusec.tile.parse import parse_program
from fusec.tile.reference import run_program
from fusec.tile.text import print_program
from fusec.tile.verify import verify_program

CHAIN = """\
program chain(M, K, L, N)
task m: M
input x: f32[M, K], v: f32[L, N]
weight w: f32[K, L]
local h: f32[M, L]
output y: f32[M, N]
stage m, l: L
  t = sum[k: K](x[m, k] * w[k, l])
  h[m, l] = max(t, 0.0)
stage m, n: N
  u = sum[l: L](h[m, l] * v[l, n])
  y[m, n] = u"""


def test_chain_runs_with_any_tile() -> None:
    p = parse_program(CHAIN)
    assert print_program(p) == CHAIN
    verify_program(p)
    r = np.random.default_rng(0)
    x, w, v = (r.standard_normal(s).astype(np.float32) for s in ((7, 5), (5, 6), (6, 3)))
    want = np.maximum(x @ w, 0) @ v
    for tile in ({}, {"m": 1}, {"m": 3}):
        got = run_program(p, {"M": 7, "K": 5, "L": 6, "N": 3}, {"x": x, "w": w, "v": v}, tile)["y"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
