"""Sliced folds on an emulated device: right, the same bits on any number of blocks and in any order, and waited for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shared_module import SharedModule
from split_models import CASES, Case, product

import fusec
from fusec import api
from fusec.errors import BugError
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.device import Emulation
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.machine import compiler
from fusec.kernels.cuda.module import module_text
from fusec.kernels.steps import RegionStep
from fusec.plan.file import save
from fusec.plan.plan import Plan
from fusec.runtime.device import binding
from fusec.schedule.device import schedule_device
from fusec.schedule.region import BoundRegion, bind_calls
from fusec.schedule.schedule import CALL, WAITS, Schedule
from fusec.schedule.validate import validate
from fusec.target import Target
from fusec.tiling.cost import tile_microseconds
from fusec.tiling.device import split

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
SMALL = {"HAND_OVER": 0.0, "GAIN": 1e3, "SHORTEST": 16, "SHORTEST_ROW": 64}
"""What makes slices of small models worth it, which a real device would not gain from."""


def plan_of(case: Case, target: object, **options) -> Plan:
    return api.compile_plan(case.model, api.Options(str(target), **options), api.new_trace())


def slices(plan: Plan) -> list[int]:
    """How many slices the calls of a plan have."""
    calls = [c for s in plan.steps if isinstance(s, RegionStep) for c in s.calls]
    return [dict(c.params)["S"] for c in calls if "_slices" in c.program.name]


def check(case: Case, got: np.ndarray) -> None:
    assert got.shape == case.want.shape
    atol = case.tolerance * np.abs(case.want).max()
    np.testing.assert_allclose(got.astype(np.float64), case.want, rtol=case.tolerance, atol=atol)


@pytest.fixture(scope="module", params=["sm_80", pytest.param("sm_90", marks=pytest.mark.slow)])
def opened(request):
    """The cases with their plans, fused and unfused, and one module for all of them."""
    target = Target("cuda", f"{request.param}-emulated")
    cases = {name: make() for name, make in CASES.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(split, name, value)
        plans = {(n, fuse): plan_of(c, target, fuse=fuse) for n, c in cases.items() for fuse in (True, False)}
    return cases, plans, SharedModule(list(plans.values()), target)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_fused_and_unfused_twice(opened, name):
    cases, plans, shared = opened
    case = cases[name]
    for fuse in (True, False):
        plan = plans[name, fuse]
        assert min(slices(plan), default=0) > 1
        made = []
        for blocks in (1, 7) if fuse else (3,):
            session = shared.session(plan, threads=blocks)
            made += [session.run(case.feeds)["y"], session.run(case.feeds)["y"]]
        check(case, made[0])
        assert all(np.array_equal(made[0], other) for other in made[1:])


@needs_compiler
def test_a_plan_with_slices_can_be_stored(opened, tmp_path):
    cases, plans, shared = opened
    case, plan = cases["softmax"], plans["softmax", True]
    session = shared.session(plan, threads=3)
    session.save(tmp_path / "m.fplan")
    loaded = fusec.load(tmp_path / "m.fplan", threads=3)
    assert slices(loaded.plan) == slices(plan)
    assert np.array_equal(loaded.run(case.feeds)["y"], session.run(case.feeds)["y"])


def test_a_plan_with_slices_runs_on_the_processor(monkeypatch, tmp_path):
    for name, value in SMALL.items():
        monkeypatch.setattr(split, name, value)
    case = CASES["layer norm, odd length"]()
    plan = plan_of(case, "cuda:sm_90")
    assert slices(plan)
    save(plan, tmp_path / "m.fplan")
    got = fusec.load(tmp_path / "m.fplan", threads=1).run(case.feeds)["y"]
    check(case, got)


def test_the_processor_and_open_sizes_have_no_slices(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(split, name, value)
    case = CASES["product"]()
    assert slices(plan_of(case, "cuda:sm_80"))
    assert not slices(plan_of(case, "cpu:generic"))
    for x in case.model.graph.input:
        x.type.tensor_type.shape.dim[0].dim_param = "N"
    case.model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert not slices(plan_of(case, "cuda:sm_80"))
    assert slices(plan_of(case, "cuda:sm_80", dims={"N": 20}))


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "count"),
    [(256, 8192, 256, 2), (49, 2048, 512, 2), (1, 2048, 512, 1), (4096, 512, 4096, 1), (1, 16384, 64, 2)],
    ids=["weight gradient", "small image", "many columns of one row", "large", "few columns of one row"],
)
def test_what_is_worth_slices(rows, depth, columns, count):
    shapes = {"x": (rows, depth), "r": (rows, columns)}
    case = product(rows, 8, columns, is_weight=False)
    for x in case.model.graph.input:
        for d, n in zip(x.type.tensor_type.shape.dim, shapes.get(x.name, (depth, columns)), strict=True):
            d.dim_value = n
    (step,) = plan_of(case, "cuda:sm_90").steps
    assert len(step.calls) == count
    blocks = 132
    for call in step.calls[:-1]:
        params = dict(call.params)
        assert params["S"] * params["L"] == depth
        assert params["S"] <= blocks


def region_of(plan: Plan) -> BoundRegion:
    (step,) = plan.steps
    return bind_calls(step, plan.kernels, {}, plan.values, plan.root)


def without_waits(schedule: Schedule, call: int) -> Schedule:
    """The schedule with a call that waits for nothing."""
    tasks = schedule.tasks.copy()
    mine = tasks[:, CALL] == call
    assert tasks[mine, WAITS].any()
    tasks[mine, WAITS] = 0
    return replace(schedule, tasks=tasks)


def test_a_sum_that_does_not_wait_for_its_parts_is_refused(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(split, name, value)
    plan = plan_of(CASES["product"](), "cuda:sm_80")
    region = region_of(plan)
    schedule = schedule_device(region, 8, lambda k: tile_microseconds(k, plan.target))
    validate(schedule, region)
    with pytest.raises(BugError, match="may start before"):
        validate(without_waits(schedule, 1), region)


@needs_compiler
def test_a_sum_that_does_not_wait_for_its_parts_shows(opened, monkeypatch):
    cases, plans, shared = opened
    case = cases["product"]
    plan = plans["product", True]
    monkeypatch.setattr(binding, "schedule_device", lambda *a: without_waits(schedule_device(*a), 1))
    device = shared.session(plan, threads=7).opened.device
    wrong = []
    for seed in (1, 2, 3, 4):
        monkeypatch.setattr(device, "emulation", Emulation(seed=seed, lazy=True, poison=True))
        got = shared.session(plan, threads=7).run(case.feeds)["y"]
        wrong.append(not np.allclose(got, case.want, rtol=1e-3, atol=1e-3))
    assert any(wrong)


@pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_sliced_folds_do_not_spill(level, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(split, name, value)
    target = Target("cuda", level)
    plans = [plan_of(CASES[name](), target) for name in ("gemv", "product, odd depth", "product f16", "softmax")]
    kernels = [k for p in plans for menu in p.kernels.values() for k in menu]
    found = {class_key(k, target): k for k in kernels}
    cubin = nvrtc.build(module_text([emit(k, target) for k in found.values()]), level)
    assert lint.problems(cubin) == ()
