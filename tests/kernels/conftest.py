"""Runs kernels of the CPU back end on numpy arrays and compares them with the reference interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fusec.ir.dim import Extent, evaluate
from fusec.kernels.cpu.build import build
from fusec.kernels.cpu.emit import emit
from fusec.kernels.cpu.kernel_class import class_key
from fusec.kernels.cpu.load import call, load
from fusec.kernels.kernel import Binary, Kernel, StageTiling, Tiling
from fusec.target import ISAS, Isa, Target, runs_here
from fusec.tile.program import TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program

sys.path.insert(0, str(Path(__file__).parent))  # cases that stand beside the tests
Array = npt.NDArray[Any]
LEVELS = [name for name in ("generic", "avx2", "avx512", "neon") if runs_here(name)]
if runs_here("avx2"):  # the lanes and masks of AVX-512, in instructions that every test machine has
    ISAS["wide"] = Isa("avx512", 16, 16, True, "haswell", "+avx2,+fma,+f16c")
    LEVELS.append("wide")


def nest_tiling(
    program: TileProgram, lanes: Sequence[str], tile: Mapping[str, Extent] | None = None, rows: int = 1
) -> Tiling:
    """Every stage a nest, with the given lane axes, `rows` points at once."""
    return Tiling(tuple((tile or {}).items()), tuple(StageTiling("nest", lane, rows) for lane in lanes))


def aligned(size: int) -> Array:
    """Bytes at a 64-byte boundary."""
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


_BUILT: dict[str, Binary] = {}


def _build(kernel: Kernel, level: str) -> Binary:
    """Kernels of one class share their code, as they do in sessions."""
    target = Target("cpu", level)
    key = class_key(kernel, target)
    if key not in _BUILT:
        _BUILT[key] = build(emit(kernel, target), target)
    return _BUILT[key]


def run_kernel(
    kernel: Kernel,
    level: str,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    runs: Sequence[int] | None = None,
) -> tuple[dict[str, Array], Array]:
    """Outputs by name and the status block. `runs` cuts the tiles into runs of these lengths."""
    built = _build(kernel, level)
    bound = kernel.bind(params)
    status = np.zeros(4, np.int64)
    arrays: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    for o in kernel.program.operands:
        shape = tuple(evaluate(d, params) for d in o.shape)
        if o.role == "output":
            # one element off the vector boundary, and red zones around
            room = np.frombuffer(bytearray(b"M" * (int(np.prod(shape)) + 34) * o.dtype.itemsize), o.dtype.numpy)
            arrays[o.name] = room[17:-17].reshape(shape)
            outputs[o.name] = room
        elif o.role not in ("local", "scalar"):
            given = np.ascontiguousarray(operands[o.name], o.dtype.numpy).reshape(shape)
            packed = kernel.layouts[o.name].pack(given)
            # inputs have their element's alignment, weights that of vectors
            room = aligned(packed.nbytes + 64).view(o.dtype.numpy) if o.role == "weight" else np.zeros(0, o.dtype.numpy)
            if o.role != "weight":
                room = np.zeros(packed.size + 1, o.dtype.numpy)[1:]
            room[: packed.size] = packed.reshape(-1)
            arrays[o.name] = room[: packed.size]
    words = np.zeros(max(1, len(built.slots)), np.uint64)
    for k, s in enumerate(built.slots):
        if s.kind == "pointer":
            words[k] = arrays[s.name].ctypes.data
        elif s.kind == "extent":
            words[k] = np.int64(evaluate(s.extent, bound.environment)).view(np.uint64)
        elif s.kind == "status":
            words[k] = status.ctypes.data
        else:
            dtype = kernel.program.operand[s.name].dtype
            scalar = np.zeros(8, np.uint8)
            raw = np.asarray(operands[s.name]).astype(dtype.numpy).reshape(1).view(np.uint8)
            scalar[: len(raw)] = raw
            words[k] = scalar.view(np.uint64)[0]
    scratch = aligned(max(64, evaluate(built.scratch, bound.environment)))
    loaded = load(built)
    first = 0
    for n in runs or [bound.tiles]:
        call(loaded, words.ctypes.data, first, n, scratch.ctypes.data)
        first += n
    assert first == bound.tiles
    for name, room in outputs.items():
        zones = np.concatenate([room[:17], room[-17:]]).view(np.uint8)
        assert (zones == ord("M")).all(), f"wrote outside {name}"
    return {o.name: arrays[o.name] for o in kernel.program.operands if o.role in ("output", "inout")}, status


def check_program(
    text: str,
    lanes: Sequence[str],
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    *,
    levels: Sequence[str] = LEVELS,
    tile: Mapping[str, Extent] | None = None,
    rows: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> dict[str, Array]:
    """Run a program at all levels; compare with the reference, and runs of other lengths bit by bit."""
    program = parse_program(text)
    kernel = Kernel(program, nest_tiling(program, lanes, tile, rows))
    expected = run_program(program, params, operands)
    got: dict[str, Array] = {}
    for level in levels:
        got, status = run_kernel(kernel, level, params, operands)
        assert not status.any()
        for name, e in expected.items():
            g = got[name].reshape(e.shape)
            if e.dtype.kind in "iub":
                np.testing.assert_array_equal(g, e, err_msg=f"{level} {name}")
            else:
                np.testing.assert_allclose(
                    g.astype(np.float64), e.astype(np.float64), rtol, atol, err_msg=f"{level} {name}"
                )
        tiles = kernel.bind(params).tiles
        if tiles > 1:
            again, _ = run_kernel(kernel, level, params, operands, [1] * tiles)
            assert all(np.array_equal(again[n].view(np.uint8), got[n].view(np.uint8)) for n in got)
    return got


@pytest.fixture
def check() -> Callable[..., dict[str, Array]]:
    """`check_program` as a fixture."""
    return check_program


@pytest.fixture
def execute() -> Callable[..., tuple[dict[str, Array], Array]]:
    """`run_kernel` as a fixture."""
    return run_kernel
