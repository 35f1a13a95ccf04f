"""Loads of every second element: all dtypes and levels, beyond edges, and nothing read behind the last element."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusec.target import Target
from fusec.tile.text import parse_program
from fusec.tiling.choose import menu

Check = Callable[..., dict[str, Any]]
rng = np.random.default_rng(0)

SLICE = """
program slice(I, J)
task i: I, j: J
input x: {t}[I, 2*J + 1]
output y: {t}[I, J]
stage i, j
  y[i, j] = x[i, 2*j] + x[i, 2*j + 1]
"""
POOL = """
program pool(I, J)
task i: I, j: J
input x: f32[I, 2*J]
output y: f32[I, J]
stage i, j
  t = max[k: 3](pad(x[i, 2*j + k - 1], -inf))
  y[i, j] = t
"""


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16", "i8", "i32", "i64"])
def test_slices(check: Check, dtype: str) -> None:
    for j in (1, 7, 8, 31, 70):
        check(SLICE.format(t=dtype), ["j"], {"I": 2, "J": j}, {"x": rng.integers(-9, 9, (2, 2 * j + 1))})


def test_windows_beyond_the_edge(check: Check) -> None:
    for j in (1, 3, 8, 20, 37):
        check(POOL, ["j"], {"I": 3, "J": j}, {"x": rng.standard_normal((3, 2 * j)).astype(np.float32)})


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page")
def test_nothing_is_read_behind_the_last_element(check: Check) -> None:
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    text = SLICE.format(t="f32").replace(" + x[i, 2*j + 1]", "").replace("2*J + 1", "2*J - 1")
    for j in (8, 13, 40):
        size = 2 * j - 1
        x = np.frombuffer(memory, np.float32, size, page - 4 * size)
        x[:] = rng.standard_normal(size)
        check(text, ["j"], {"I": 1, "J": j}, {"x": x.reshape(1, size)})


def test_the_menu_runs_lanes_along_the_windows() -> None:
    (kernel, *_) = menu(parse_program(POOL), Target.parse("cpu:avx2"))
    assert kernel.tiling.stages[0].lane == "j"
