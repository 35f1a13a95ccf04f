"""Plans for CUDA devices: a round trip keeps every choice, and choices that no template has never reach a code generator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plan_mutants import bodies_of, sealed

from bench.gpu import models
from bench.models.architectures import mlp
from fusec import api
from fusec.errors import PlanError
from fusec.ir.graph import Graph
from fusec.plan.file import CONTENTS, MANIFEST, deserialise, serialise
from fusec.plan.plan import Plan

MODELS: dict[str, Callable[[], Any]] = {
    "mlp of any rows": lambda: mlp([72, 136, 40], batch=5, dynamic=True).model(),
    "products f32": lambda: models.gemm(200, 300, 100, "f32").model,
    "products bf16": lambda: models.gemm(512, 512, 512, "bf16").model,
    "decoder": lambda: models.decoder(models.Decoder(1, 64, 4, 9, 101), "bf16").model,
    "chain": lambda: models.chain(2, 64, 32, 64, 32, "softmax", "f32").model,
    "lstm": lambda: models.lstm(1, 3, 24).model,
}


def plan_of(model: Any, device: str, passes: str = "") -> Plan:
    options, trace = api.Options(device=device, passes=passes), api.new_trace()
    make = api.compile_graph_plan if isinstance(model, Graph) else api.compile_plan
    return make(model, options, trace)


@pytest.mark.parametrize("device", ["cuda:sm_80", "cuda:sm_90", "cuda:sm_90-emulated"])
@pytest.mark.parametrize("name", MODELS)
def test_a_round_trip_keeps_every_choice(name: str, device: str) -> None:
    plan = plan_of(MODELS[name](), device)
    data = b"".join(serialise(plan))
    back = deserialise(memoryview(data))
    assert str(back.target) == device
    for program, menu in back.kernels.items():
        assert [k.tiling for k in menu] == [k.tiling for k in plan.kernels[program]]
        assert [k.program for k in menu] == [k.program for k in plan.kernels[program]]
    assert b"".join(serialise(back)) == data


@pytest.fixture(scope="module")
def data() -> bytes:
    """Products of few and of many rows, two programs, guards."""
    return b"".join(serialise(plan_of(MODELS["mlp of any rows"](), "cuda:sm_90", "-fuse-chain")))


def changed(data: bytes, change: Callable[[Any], None], section: str = CONTENTS) -> bytes:
    bodies = bodies_of(data)
    document = json.loads(bodies[section])
    change(document)
    bodies[section] = json.dumps(document).encode()
    return sealed(bodies)


def kernels(document: Any, template: str) -> list[Any]:
    found = [k for menu in document["kernels"].values() for k in menu if k["stages"][0]["template"] == template]
    assert found, template
    return found


def stage(which: str, /, **new: Any) -> Callable[[Any], None]:
    """Change the stages that have a template."""

    def change(document: Any) -> None:
        for k in kernels(document, which):
            k["stages"][0] |= new

    return change


def tile(template: str, axis: str, extent: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for k in kernels(document, template):
            k["tile"] = [[a, extent if a == axis else e] for a, e in k["tile"]]

    return change


def layout(operand: str, text: str) -> Callable[[Any], None]:
    return lambda document: kernels(document, "gemv")[0].update(layouts=[[operand, text]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (stage("gemv", template="nest"), "no such template for CUDA"),
        (stage("gemv", template='x(task); } static int y = system("true"); {'), "no such template for CUDA"),
        (stage("gemv", template="block", lane="no axis"), "no axis"),
        (stage("gemv", template="warp", lane="", rows=8), "no block tiles, this one is 8 by 1"),
        (stage("gemv", rows=9), "no block tile of 9 by"),
        (stage("gemv", rows=-1), "no block tile of -1 by"),
        (stage("gemv", rows=1 << 40), "no block tile of"),
        (stage("gemv", lane="m"), "its columns are 'n'"),
        (tile("gemv", "n", "3"), "no multiples of"),
        (tile("gemv", "n", "N"), "no multiples of"),
        (tile("gemv", "n", "0"), "a tile is 0 along n"),
        (tile("gemv", "n", "-8"), "a tile is -8 along n"),
        (tile("gemv", "n", str(1 << 62)), "a tile is"),
        (tile("gemv", "n", "8*Q"), "a tile of"),
        (layout("w0", "1/4096 0 1%4096"), "cannot have the layout"),
        (layout("x", "1/32 0 1%32"), "cannot have the layout"),
    ],
)
def test_choices_that_no_template_has_are_refused(
    data: bytes, change: Callable[[Any], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object) -> None:
        raise AssertionError("the code generator saw it")

    monkeypatch.setattr("fusec.kernels.cuda.emit.emit", reached)
    with pytest.raises(PlanError, match=words):
        deserialise(memoryview(changed(data, change)))


def test_block_tiles_of_larger_products_are_checked_too() -> None:
    plan = plan_of(MODELS["products f32"](), "cuda:sm_80")
    raw = b"".join(serialise(plan))
    template = next(iter(plan.kernels.values()))[0].tiling.stages[0].template
    for change, words in (
        (stage(template, rows=127), "no block tile of 127 by"),
        (stage(template, vectors=0), "no block tile of"),
        (stage(template, template="points", rows=1, vectors=1, lane="zz"), "no axis 'zz'"),
        (tile(template, "n", "12"), "no multiples of 8"),
        (tile(template, "m", "7"), "no multiples of 8"),
    ):
        with pytest.raises(PlanError, match=words):
            deserialise(memoryview(changed(raw, change)))


def test_attention_is_streamed_as_a_whole() -> None:
    plan = plan_of(MODELS["chain"](), "cuda:sm_90")
    raw = b"".join(serialise(plan))
    (menu,) = plan.kernels.values()
    assert {s.template for s in menu[0].tiling.stages} == {"stream"}

    def last(document: Any) -> None:
        kernels(document, "stream")[0]["stages"][-1] |= {"template": "points", "rows": 1, "vectors": 1}

    for change, words in (
        (stage("stream", rows=48), "tiles of 48 rows"),
        (stage("stream", vectors=128), "no attention that can be streamed"),
        (last, "no attention that can be streamed"),
        (tile("stream", "m", "128"), "tiles of 128 rows are streamed where there is room for"),
    ):
        with pytest.raises(PlanError, match=words):
            deserialise(memoryview(changed(raw, change)))


def test_tf32_is_refused_where_the_plan_promises_float32() -> None:
    options = api.Options(device="cuda:sm_80", precision="tf32")
    model: Any = models.gemm(512, 512, 512, "f32").model
    raw = b"".join(serialise(api.compile_graph_plan(model, options, api.new_trace())))
    plan = deserialise(memoryview(raw))
    assert {s.template for menu in plan.kernels.values() for k in menu for s in k.tiling.stages} == {"mma"}
    for precision, words in (("f32", "round float32 to tf32"), ("f8", "has the precision 'f8'")):
        with pytest.raises(PlanError, match=words):
            deserialise(memoryview(changed(raw, lambda m, p=precision: m["numerics"].update(precision=p), MANIFEST)))


def test_instructions_that_a_level_has_not_are_refused() -> None:
    plan = plan_of(MODELS["products bf16"](), "cuda:sm_90")
    templates = {s.template for menu in plan.kernels.values() for k in menu for s in k.tiling.stages}
    raw = b"".join(serialise(plan))
    older = changed(raw, lambda m: m.update(target="cuda:sm_80"), MANIFEST)
    if "wgmma" not in templates:
        template = templates.pop()
        older = changed(older, stage(template, template="wgmma"))
    with pytest.raises(PlanError, match="sm_80 has no wgmma"):
        deserialise(memoryview(older))


@pytest.mark.parametrize("target", ["cuda", "cuda:sm_10", "cuda:sm_90a", "cuda:", "cuda:sm_90\n"])
def test_other_devices(data: bytes, target: str) -> None:
    """A level that nobody knows is a foreign target, which is retargeted; what is no name is refused."""
    raw = changed(data, lambda m: m.update(target=target), MANIFEST)
    try:
        plan = deserialise(memoryview(raw))
    except PlanError:
        return
    session = api.open_session(plan, threads=1)
    assert session.plan.target.kind == "cpu" or target == "cuda"
