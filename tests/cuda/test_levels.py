"""Every level: what its menus choose fits into its shared memory, and runs right."""

from __future__ import annotations

import numpy as np
import pytest

import fusec
from bench.models.architectures import ARCHITECTURES
from fusec import api
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import compiler
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.cuda.machine import Gpu


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_kernels_fit_into_shared_memory(level: str, precision: str) -> None:
    """Streamed attention, products of all sizes, and row programs that keep lines."""
    built = ARCHITECTURES["encoder_block"]()
    plan = api.compile_plan(built.model(), api.Options(f"cuda:{level}", precision=precision), api.new_trace())
    kernels = [k for menu in plan.kernels.values() for k in menu]
    assert {t.template for k in kernels for t in k.tiling.stages} & {"simt", "mma", "gemv"}
    needs = [emit(k, plan.target).shared for k in kernels]
    assert 0 < max(n for n in needs if isinstance(n, int)) <= LEVELS[level].shared


def test_only_devices_of_a_level_run_its_code() -> None:
    """The last minor that exists of each major, and the one before a level's own."""
    assert LEVELS["sm_86"].runs_on((8, 9))
    assert not LEVELS["sm_86"].runs_on((8, 0))
    assert not LEVELS["sm_90"].runs_on((9, 1))
    assert not LEVELS["sm_100"].runs_on((12, 0))
    assert Gpu("B300", (10, 3), 160, 1, True).runs("sm_100")


@pytest.mark.skipif(compiler() is None, reason="emulation needs a C++ compiler")
def test_a_level_with_little_shared_memory_runs_right() -> None:
    built = ARCHITECTURES["encoder_block"]()
    model = built.model()
    want = fusec.compile(model, threads=1).run(built.feeds)
    got = fusec.compile(model, device="cuda:sm_86-emulated").run(built.feeds)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
