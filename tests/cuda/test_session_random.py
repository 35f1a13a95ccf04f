"""Random graphs on an emulated device: fused and unfused alike give the answers of the CPU, on one block and on four.

Models are those of tests/models/random_onnx.py: views, arithmetic, products, reductions, sizes 0 and 1, symbols.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from shared_module import SharedModule

from fusec import api
from fusec.errors import AssumptionError, InputError
from fusec.kernels.cuda.machine import compiler
from fusec.target import Target

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from random_onnx import random_model

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
TARGET = Target("cuda", "sm_80-emulated")
AT_ONCE, QUICK, THOROUGH = 10, 1, 20


def difference(got: np.ndarray, want: np.ndarray) -> str:
    """What is different, empty where nothing is."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)} for {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        same = got == want
    else:
        peak = np.abs(want[np.isfinite(want)]).max(initial=0)
        with np.errstate(all="ignore"):
            same = np.isclose(got, want, rtol=4e-4, atol=2e-5 * (1 + min(peak, 1e30)), equal_nan=True)
    return "" if same.all() else f"got {got[~same][:3]}, not {want[~same][:3]} at {np.argwhere(~same)[:3].tolist()}"


def drawn(seeds: range, symbolic: bool):
    """Models that the CPU runs, whether with what its plan assumes of sizes, with feeds and its answers."""
    for seed in seeds:
        model, feeds = random_model(seed, symbolic=symbolic)
        for assume in (True, False):
            try:
                plan = api.compile_plan(model, api.Options(assume=assume), api.new_trace())
                yield seed, model, assume, feeds, api.open_session(plan, threads=1).run(feeds)
                break
            except AssumptionError:
                continue
            except InputError:
                break  # symbols that cannot mean anything


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_random_models(symbolic: bool, thorough: bool) -> None:
    for block in range(THOROUGH if thorough else QUICK):
        cases = list(drawn(range(block * 1000, block * 1000 + AT_ONCE), symbolic))
        plans = {
            (seed, fuse): api.compile_plan(model, api.Options(str(TARGET), fuse, assume=assume), api.new_trace())
            for seed, model, assume, _, _ in cases
            for fuse in (True, False)
        }
        shared = SharedModule(list(plans.values()), TARGET)
        for seed, _, _, feeds, want in cases:
            for fuse in (True, False):
                made = [shared.session(plans[seed, fuse], threads=n).run(feeds) for n in (1, 4)]
                for name, array in want.items():
                    told = difference(np.asarray(made[1][name]), np.asarray(array))
                    assert not told, f"seed {seed}, {'fused' if fuse else 'unfused'}, {name}: {told}"
                    assert np.asarray(made[0][name]).tobytes() == np.asarray(made[1][name]).tobytes(), (
                        seed,
                        fuse,
                        name,
                    )
