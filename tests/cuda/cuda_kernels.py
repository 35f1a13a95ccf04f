"""Runs kernels of the CUDA back end in emulation and compares them with the reference interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cuda_regions import Region, Rows, read

from fusec.ir.dim import Extent, evaluate
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import build
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Kernel, Source, StageTiling, Tiling
from fusec.target import Target
from fusec.tile.program import TileProgram
from fusec.tile.reference import run_program
from fusec.tile.text import parse_program

_BUILT: dict[tuple[str, bool], tuple[Source, bytes]] = {}


def tiling_of(templates: Sequence[tuple[str, str] | StageTiling], tile: Mapping[str, Extent] | None = None) -> Tiling:
    """A tiling from (template, lane) of each stage."""
    stages = tuple(t if isinstance(t, StageTiling) else StageTiling(*t) for t in templates)
    return Tiling(tuple((tile or {}).items()), stages)


def built(kernel: Kernel, level: str = "sm_80", wide: bool = False) -> tuple[Source, bytes]:
    """The source of a kernel and its module for the emulator; kernels of one class share them."""
    target = Target("cuda", level)
    key = class_key(kernel, target), wide
    if key not in _BUILT:
        source = emit(kernel, target)
        _BUILT[key] = source, build(module_text([source], wide=wide), level)
    return _BUILT[key]


def run_kernel(
    kernel: Kernel,
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    *,
    blocks: int = 3,
    aligned: bool = True,
    wide: bool = False,
    emulation: Emulation | None = None,
    level: str = "sm_80",
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs by name and the status block. Tiles are dealt to blocks in turn; not `aligned` moves operands."""
    source, code = built(kernel, level, wide)
    device = EmulatedDevice(level, blocks, emulation or Emulation())
    module = device.load(code, "fusec_region")
    bound = kernel.bind(params)
    held: dict[str, tuple[Any, int, tuple[int, ...], np.dtype]] = {}
    for o in kernel.program.operands:
        if o.role in ("local", "scalar"):
            continue
        shape = tuple(evaluate(d, params) for d in o.shape)
        size, dtype = int(np.prod(shape)), o.dtype.numpy
        away = max(1, 2 // dtype.itemsize)  # odd words are numbers of inputs and outputs
        step = 256 // dtype.itemsize + (0 if aligned else away)
        room = np.frombuffer(bytearray(b"M" * (size + 2 * step) * dtype.itemsize), dtype).copy()
        if o.role != "output":
            given = np.ascontiguousarray(operands[o.name], dtype).reshape(shape)
            packed = kernel.layouts[o.name].pack(given)
            if o.role == "weight":
                room, step = packed.reshape(-1), 0
            else:
                room[step : step + size] = packed.reshape(-1)
        memory = device.allocate(room.nbytes)
        device.upload(memory, 0, room)
        held[o.name] = memory, step, shape, dtype
    status = device.allocate(32)
    device.upload(status, 0, np.zeros(4, np.int64))
    words = []
    for s in source.slots:
        if s.kind == "pointer":
            memory, step, _, dtype = held[s.name]
            words.append(memory.address + step * dtype.itemsize)
        elif s.kind == "extent":
            words.append(evaluate(s.extent, bound.environment))
        elif s.kind == "status":
            words.append(status.address)
        else:
            dtype = kernel.program.operand[s.name].dtype
            raw = np.asarray(operands[s.name]).astype(dtype.numpy).reshape(1).view(np.uint8)
            words.append(int(np.concatenate([raw, np.zeros(8 - len(raw), np.uint8)]).view(np.int64)[0]))
    rows: list[list[Rows]] = [[] for _ in range(blocks)]
    ordered = any(a.sequential for a in kernel.program.axes)
    for t in range(bound.tiles):
        rows[0 if ordered else t % blocks].append(Rows(0, 0, t))
    scratch = evaluate(source.scratch, bound.environment)
    region = Region(device, rows, [words], scratch=scratch)
    shared = evaluate(source.shared, bound.environment)
    region.run(module, shared)
    out = {}
    for o in kernel.program.operands:
        if o.role in ("output", "inout"):
            memory, step, shape, dtype = held[o.name]
            room = read(device, memory, dtype)
            zones = np.concatenate([room[:step], room[len(room) - step :]]).view(np.uint8)
            assert (zones == ord("M")).all(), f"wrote outside {o.name}"
            out[o.name] = room[step : len(room) - step].reshape(shape)
    return out, read(device, status, np.int64)


def compare(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rtol: float, atol: float) -> None:
    """Integers are equal, floats are close."""
    for name, e in expected.items():
        g = got[name].reshape(e.shape)
        if e.dtype.kind in "iub":
            np.testing.assert_array_equal(g, e, err_msg=name)
        else:
            np.testing.assert_allclose(g.astype(np.float64), e.astype(np.float64), rtol, atol, err_msg=name)


def check_program(
    text: str | TileProgram,
    templates: Sequence[tuple[str, str] | StageTiling],
    params: Mapping[str, int],
    operands: Mapping[str, Any],
    *,
    tile: Mapping[str, Extent] | None = None,
    wide: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> dict[str, np.ndarray]:
    """Run a program; compare with the reference, another grid and order of threads bit by bit, and addresses that take no
    vectors."""
    program = parse_program(text) if isinstance(text, str) else text
    kernel = Kernel(program, tiling_of(templates, tile))
    expected = run_program(program, params, operands)
    got, status = run_kernel(kernel, params, operands, wide=wide)
    assert not status.any()
    compare(got, expected, rtol, atol)
    again, _ = run_kernel(kernel, params, operands, blocks=1, emulation=Emulation(seed=3), wide=wide)
    for name, g in got.items():
        np.testing.assert_array_equal(again[name].view(np.uint8), g.view(np.uint8), err_msg=name)
    apart, _ = run_kernel(kernel, params, operands, blocks=2, aligned=False, wide=wide)
    compare(apart, expected, rtol, atol)
    return got
