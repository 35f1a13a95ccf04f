"""Generated architectures: kernels alone, right in float32 against float64, fused and unfused, one and two workers alike."""

from __future__ import annotations

import numpy as np
import pytest

import fusec
from bench.models.architectures import ARCHITECTURES
from fusec.measure.accuracy import compare
from fusec.measure.oracles import float64_oracle
from fusec.plan.plan import HostStep, RegionStep

NAMES = sorted(n for n in ARCHITECTURES if n != "minilm_size" and not n.endswith("_large"))  # sizes are for benchmarks


@pytest.mark.parametrize("name", NAMES)
def test_architecture(name: str) -> None:
    built = ARCHITECTURES[name]()
    model = built.model()
    fused, unfused = fusec.compile(model, threads=2), fusec.compile(model, fuse=False, threads=1)
    assert [s.node.origin for s in fused.plan.steps if isinstance(s, HostStep)] == []
    names = [v.name for v in fused.outputs]
    got = fused.run_list(built.feeds, names)
    want = float64_oracle(model)(built.feeds)
    assert [d for d in compare(names, got, want) if not d.passes(2e-5)] == []
    assert [d for d in compare(names, unfused.run_list(built.feeds, names), want) if not d.passes(2e-5)] == []


@pytest.mark.parametrize("name", ["mlp_784", "encoder_block", "softmax_chain", "gpt2_decode"])
def test_same_bits_for_any_number_of_workers(name: str) -> None:
    built = ARCHITECTURES[name]()
    model = built.model()
    one, *more = (fusec.compile(model, threads=t) for t in (1, 2, 3))
    names = [v.name for v in one.outputs]
    want = one.run_list(built.feeds, names)
    for session in more:
        for _ in range(3):
            for a, b in zip(session.run_list(built.feeds, names), want, strict=True):
                assert np.array_equal(a, b)


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
def test_every_instruction_level_that_runs_here(level: str) -> None:
    from fusec.target import runs_here

    if not runs_here(level):
        pytest.skip(f"this machine cannot execute {level}")
    built = ARCHITECTURES["encoder_block"]()
    model = built.model()
    session = fusec.compile(model, device=f"cpu:{level}", threads=1)
    names = [v.name for v in session.outputs]
    want = float64_oracle(model)(built.feeds)
    assert [d for d in compare(names, session.run_list(built.feeds, names), want) if not d.passes(2e-5)] == []


def test_static_model_without_host_steps_is_one_region() -> None:
    session = fusec.compile(ARCHITECTURES["encoder_block"]().model(), threads=1)
    assert [type(s) for s in session.plan.steps] == [RegionStep]


def test_new_shapes_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = ARCHITECTURES["bert_small"]()
    session = fusec.compile(built.model(), threads=1)
    names = [v.name for v in session.outputs]
    session.run_list(built.feeds, names)
    import fusec.kernels.cpu.build as build

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a new shape must not build code")

    monkeypatch.setattr(build, "build", refuse)
    oracle = float64_oracle(built.model())
    for batch, length in ((1, 1), (3, 17), (2, 100)):
        feeds = {
            "input_ids": np.arange(batch * length).reshape(batch, length) % 97,
            "attention_mask": np.ones((batch, length), np.int64),
        }
        assert [d for d in compare(names, session.run_list(feeds, names), oracle(feeds)) if not d.passes(2e-5)] == []
