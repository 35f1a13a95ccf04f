"""Weights that stay in shared memory from step to step: right answers, kept as long as nothing writes over them, no longer."""

from dataclasses import replace

import numpy as np
import pytest
from cuda_regions import Region, Rows, body, read
from resident_models import LENGTHS, layer, stack
from session_models import numbers
from shared_module import SharedModule

import fusec
from fusec.api import Options, compile_plan, new_trace
from fusec.cli.layers import layer_documents
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.emulator.build import build, compiler
from fusec.kernels.cuda.emulator.device import EmulatedDevice, Emulation
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Guard, Kernel
from fusec.lower import recurrent
from fusec.plan.plan import RegionStep
from fusec.runtime.steps import region_symbols
from fusec.schedule.device import schedule_device
from fusec.schedule.region import bind_calls
from fusec.schedule.schedule import CALL, WAITS
from fusec.schedule.validate import ScheduleError, validate
from fusec.target import Target
from fusec.tiling.cost import tile_microseconds
from fusec.tiling.device import resident
from fusec.tiling.device.accepts import refusal

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
DEVICE = "cuda:sm_80-emulated"
STEPS = 6
MODELS = {
    "lstm": layer("LSTM", steps=STEPS),
    "everything": layer("LSTM", steps=STEPS, lengths=True, peepholes=True, initial=True),
    "both directions": layer("LSTM", steps=STEPS, direction="bidirectional"),
    "more rows than a tile": layer("LSTM", batch=9, steps=STEPS, direction="reverse"),
    "open rows": layer("LSTM", batch="B", steps=STEPS),
    "gru": layer("GRU", hidden=30, steps=STEPS, linear_before_reset=1),
    "gru that resets first": layer("GRU", steps=STEPS, initial=True),
    "gru in halves": layer("GRU", steps=STEPS, initial=True),
    "gru in halves, both directions": layer("GRU", hidden=30, batch=9, direction="bidirectional"),
    "gru in halves, lengths": layer("GRU", steps=STEPS, lengths=True),
    "rnn": layer("RNN", hidden=20, steps=STEPS, batch=3),
    "stack": stack(batch=1),
}
EMULATIONS = [Emulation(poison=True), Emulation(seed=5, lazy=True, poison=True), Emulation(seed=9)]


def plan_of(model):
    return compile_plan(model, Options(device=DEVICE), new_trace())


def keeping(plan):
    """The kernels of a plan that run in steps."""
    return [k for menu in plan.kernels.values() for k in menu if any(a.sequential for a in k.program.axes)]


@pytest.fixture(scope="module")
def plans():
    """Blocks keep eight columns, so that several share a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "WIDTHS", (8,))
        out = {name: plan_of(m) for name, m in MODELS.items() if "halves" not in name}
        patch.setattr(recurrent, "ALONE", 8)
        return out | {name: plan_of(m) for name, m in MODELS.items() if "halves" in name}


@pytest.fixture(scope="module")
def module(plans):
    return SharedModule(list(plans.values()), Target.parse(DEVICE))


def feeds(name, steps=STEPS):
    rows = {"stack": 1, "more rows than a tile": 9, "gru in halves, both directions": 9, "rnn": 3}.get(name, 2)
    x = {"x": numbers(steps, rows, 24 if name == "stack" else 12, seed=steps)}
    return x | ({"n": LENGTHS} if name == "everything" or "lengths" in name else {})


def check(plans, module, name, x):
    cpu, session = fusec.compile(MODELS[name], threads=1), module.session(plans[name])
    want = cpu.run(x)
    for emulation in EMULATIONS:
        module._opened.device.emulation = emulation
        first, second = session.run(x), session.run(x)
        for key, array in want.items():
            np.testing.assert_allclose(first[key], array, rtol=1e-4, atol=1e-5)
            assert np.array_equal(first[key], second[key])


@pytest.mark.parametrize("name", MODELS)
def test_the_answers_of_the_cpu(plans, module, name):
    assert all(k.keeps for k in keeping(plans[name]))
    check(plans, module, name, feeds(name))


@pytest.mark.parametrize("steps", [1, 0])
@pytest.mark.parametrize("name", ["stack", "gru in halves, both directions"])
def test_few_steps(plans, module, name, steps):
    check(plans, module, name, feeds(name, steps))


def test_every_half_step_is_waited_for(plans):
    """A layer that resets first: blocks meet twice in each step, and the proof fails without any one of these waits."""
    plan = plans["gru in halves"]
    (step,) = (s for s in plan.steps if isinstance(s, RegionStep))
    region = bind_calls(step, plan.kernels, {}, plan.values, plan.root)
    schedule = schedule_device(region, 8, lambda k: tile_microseconds(k, plan.target))
    (at,) = (c for c, call in enumerate(region.calls) if call.kernel.kernel.keeps)
    mine = np.flatnonzero((schedule.tasks[:, CALL] == at) & (schedule.tasks[:, WAITS] > 0))
    assert len(mine) >= 2 * STEPS * 3 - 3  # three blocks
    for t in mine.tolist():
        tasks = schedule.tasks.copy()
        tasks[t, WAITS] = 0
        with pytest.raises(ScheduleError):
            validate(replace(schedule, tasks=tasks), region)


@pytest.mark.parametrize("rows", [1, 11])
def test_rows_that_are_open(plans, module, rows):
    check(plans, module, "open rows", {"x": numbers(STEPS, rows, 12)})


@pytest.mark.parametrize("blocks", [1, 2])
def test_results_do_not_depend_on_the_number_of_blocks(plans, module, blocks):
    x = feeds("stack")
    (want,) = module.session(plans["stack"]).run(x).values()
    (got,) = module.session(plans["stack"], threads=blocks).run(x).values()
    assert np.array_equal(got, want)


# ---- what is kept, and until when

KEEP = """
FX_DEVICE void kept_keep(const fx_task& task, fx_kept& kept) {
    if (kept.is(task, (int)(task.tile % 2))) return;
    fx_barrier();
    kept = {task.slots, (int)(task.tile % 2), 1024};
    float* to = (float*)(task.shared + 1024);
    to[fx_thread()] = fx_pointer<float>(task, 0)[task.tile % 2 * FX_THREADS + fx_thread()];
}
"""
KEPT = body(
    "kept",
    "fx_pointer<float>(task, 1)[task.tile * FX_THREADS + fx_thread()] = ((float*)(task.shared + 1024))[fx_thread()];",
)
KEPT = replace(KEPT, text=KEPT.text + KEEP, shared=2048, kept=1024)
CHANGE = body("changed", "fx_pointer<float>(task, 0)[fx_thread()] += 1.f;")
SMALL = replace(body("small", "((float*)task.shared)[fx_thread()] = 5.f;"), shared=1024)
LARGE = replace(body("large", "((float*)task.shared)[fx_thread() + 256] = 7.f;"), shared=2048)


def results(device, kept, order, large=LARGE):
    """What tiles of KEPT wrote, in a region of one block: pairs of a kernel and a tile."""
    text = module_text([KEPT, CHANGE, SMALL, large], includes=())
    module = device.load(build(text, device.level, kept), text.entry)
    weights = np.concatenate([np.full(256, 1.0, np.float32), np.full(256, 2.0, np.float32)])
    space = Region(device, [[]], [])
    source, out = space.memory(weights), space.memory(np.zeros(256 * 8, np.float32))
    rows = [Rows(kernel, 1 if kernel == 1 else 0, tile) for kernel, tile in order]
    region = Region(device, [rows], [[source.address, out.address], [source.address]])
    tiles = [tile for kernel, tile in order if kernel == 0]
    made = []
    for _ in range(2):
        region.run(module, shared=2048)
        made.append([float(x) for x in read(device, out, np.float32, (8, 256))[tiles, 0]])
    return made


@pytest.fixture
def device():
    return EmulatedDevice("sm_80", 1)


def test_weights_are_read_once_a_run(device, kept):
    """What changes in global memory meanwhile is not seen before the next run."""
    assert results(device, kept, [(0, 0), (1, 0), (0, 2), (2, 0), (0, 4)]) == [[1, 1, 1], [2, 2, 2]]


def test_another_part_takes_their_place(device, kept):
    assert results(device, kept, [(0, 0), (0, 1), (0, 2), (0, 3)]) == [[1, 2, 1, 2]] * 2


def test_bodies_that_write_over_them_make_them_forgotten(device, kept):
    assert results(device, kept, [(0, 0), (1, 0), (3, 0), (0, 2)]) == [[1, 2], [2, 3]]


def test_a_body_that_claims_too_little_gives_other_answers(device, kept):
    """The mistake that the task loop relies on nobody making shows in the results."""
    assert results(device, kept, [(0, 0), (3, 0), (0, 2)], replace(LARGE, shared=1024)) == [[1, 7]] * 2


@pytest.mark.parametrize("order", [[(0, 0), (2, 0), (0, 2)], [(0, 0), (3, 0), (0, 1), (0, 2)]])
def test_poison_spares_what_is_kept_and_nothing_else(kept, order):
    made = results(EmulatedDevice("sm_80", 1, Emulation(poison=True)), kept, order)
    assert made == [[1.0 + tile % 2 for kernel, tile in order if kernel == 0]] * 2


# ---- what is planned, and what plans may say


def schedule(plan, workers, steps):
    (step,) = [s for s in plan.steps if isinstance(s, RegionStep)]
    symbols = dict.fromkeys(region_symbols(plan, step), steps)
    region = bind_calls(step, plan.kernels, symbols, plan.values, plan.root)
    return region, schedule_device(region, workers, lambda k: tile_microseconds(k, plan.target))


def owners(region, s):
    """Call and place within a step -> the workers that run its tasks."""
    out = {}
    for w in range(s.workers):
        for t in s.queue(w).tolist():
            call, first, count = s.tasks[t, :3].tolist()
            if region.calls[call].kernel.kernel.keeps:
                assert count == 1
                out.setdefault((call, first % region.calls[call].kernel.grid[-1]), set()).add(w)
    return out


def test_parts_of_the_weights_have_workers_of_their_own(plans):
    region, s = schedule(plans["stack"], 16, 20)
    found = owners(region, s)
    assert len(found) == 9
    assert all(len(workers) == 1 for workers in found.values())
    assert len(set.union(*found.values())) == 9
    pinned = {w: part for part, (w,) in found.items()}
    for w, (call, _) in pinned.items():
        calls = s.tasks[s.queue(w), 0].tolist()
        own = [i for i, c in enumerate(calls) if c == call]
        assert calls[own[0] : own[-1] + 1] == [call] * 20  # nothing in between


def test_layers_for_which_there_is_no_worker_wait_for_others(plans):
    """Seven workers, of which one is spared for projections: two of three layers at a time."""
    region, s = schedule(plans["stack"], 7, 6)
    assert all(len(workers) == 1 for workers in owners(region, s).values())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_too_few_workers_share(plans, workers):
    schedule(plans["both directions"], workers, 6)  # proved, or it raises


def test_tilings_whose_weights_have_no_room_are_refused(plans):
    (kernel,) = keeping(plans["lstm"])
    assert refusal(kernel, "sm_80", "f32") == ""
    tiling = kernel.tiling

    def why(**changes):
        return refusal(Kernel(kernel.program, replace(tiling, **changes)), "sm_80", "f32")

    assert "known size" in why(guard=None)
    assert "known size" in why(guard=Guard("H", 24, 25))
    assert "known size" in why(tile=(*tiling.tile[:2], ("j", 6)))
    assert "known size" in why(tile=(("t", 2), *tiling.tile[1:]))
    assert "known size" in why(stages=(replace(tiling.stages[0], rows=3), tiling.stages[1]))
    assert "known size" in why(stages=(tiling.stages[0], replace(tiling.stages[0])))
    assert "shared memory" in why(guard=Guard("H", 4096, 4096))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (layer("LSTM", hidden=2048, steps=3), "bytes"),
        (layer("LSTM", hidden=1024, steps=3), "multiprocessors"),
        (layer("RNN", hidden=16), ""),
    ],
)
def test_layers_that_do_not_fit_say_why(model, why):
    plan = plan_of(model)
    (kernel,) = {k.program.name: k for k in keeping(plan)}.values()
    calls = [dict(c.params) for s in plan.steps for c in s.calls if c.program.name == kernel.program.name]
    (choice,) = resident.resident_choices(kernel.program, plan.target, calls)
    assert why in choice.why
    assert kernel.keeps == (choice.tiling is not None) == (not why)


def test_inspect_says_where_the_weights_are():
    fits, large = (layer_documents(plan_of(layer("LSTM", hidden=n, steps=3))) for n in (256, 2048))
    assert [x["resident"] for x in (*fits, *large)] == [True, False]
    assert fits[0]["bytes"] == fits[0]["columns"] * 4 * 256 * 4
    assert "bytes" in large[0]["why_not"]
    assert layer_documents(compile_plan(layer("LSTM", steps=3), Options(), new_trace())) == []


@pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC is not installed")
@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_modules_with_weights_that_are_kept_do_not_spill(level):
    plan = compile_plan(layer("LSTM", hidden=256, steps=9), Options(device=f"cuda:{level}"), new_trace())
    kernels = {class_key(k, plan.target): k for menu in plan.kernels.values() for k in menu}
    built = nvrtc.build(module_text([emit(k, plan.target) for k in kernels.values()]), level)
    assert lint.problems(built) == ()
