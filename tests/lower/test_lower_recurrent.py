"""Recurrent layers compiled: like the host's own implementation, the same bits with one and with two workers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "frontend"))

from recurrent_models import random_case

import fusec
from bench.models.recurrent import lstm_nodes
from fusec.kernels.cpu.emit import emit
from fusec.plan.plan import RegionStep


@pytest.mark.parametrize("seed", [0, 3, 5, 8, 9, 11, 17, 20])
def test_compiled_layers(seed: int) -> None:
    case = random_case(seed)
    sessions = [fusec.compile(case.model(), threads=n) for n in (1, 2)]
    assert [type(s) for s in sessions[0].plan.steps] == [RegionStep]
    one, two = (s.run_list(case.feeds) for s in sessions)
    for a, b, want in zip(one, two, case.wanted(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, want, rtol=2e-5, atol=2e-5)


def test_what_a_step_adds_is_fetched_before_its_product() -> None:
    """Rows of the projected input; nothing is fetched for kernels without steps."""
    plan = fusec.compile(lstm_nodes(batch=2, layers=1, steps=4, hidden=32).model(), threads=1).plan
    lines = {k.program.name: emit(k, plan.target).text.count("ahead") for menu in plan.kernels.values() for k in menu}
    assert [n for n, found in lines.items() if found] == [n for n in lines if n.endswith("_lstm")]


def test_layers_run_side_by_side() -> None:
    """Two workers share layers out, meet rarely, and compute the same bits as one."""
    built = lstm_nodes(batch=2, layers=3, steps=96, hidden=64)
    sessions = [fusec.compile(built.model(), threads=n) for n in (1, 2)]
    one, two = (s.run_list(built.feeds) for s in sessions)
    np.testing.assert_array_equal(one[0], two[0])
    together = sessions[1].binding_of(built.feeds).schedules[-1]
    assert together.workers == 2
    assert together.makespan < 0.8 * together.work
    assert len(together.waits) < 96
