"""Rivals give the model's answers whatever way arrays are handed over, and dynamic shapes are told to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bench.models.architectures import encoder, mlp
from fusec.cli.main import group
from fusec.measure.accuracy import compare
from fusec.measure.oracles import float64_oracle
from fusec.measure.rivals import RIVALS, versions


@pytest.mark.parametrize("name", RIVALS)
def test_rival_is_right(name: str) -> None:
    is_installed, subject, _ = RIVALS[name]
    if not is_installed():
        pytest.skip(f"{name} is not installed")
    for built in (
        mlp([16, 32, 4], batch=3, dynamic=True),
        encoder(1, 32, 2, 64, 8, 2, 50, dynamic=True),
    ):
        model = built.model()
        call = subject(model.SerializeToString(), built.feeds, 1)
        want = float64_oracle(model)(built.feeds)
        for _ in range(2):
            got = call()
            assert [d for d in compare([v.name for v in model.graph.output], got, want) if not d.passes(1e-5)] == []


def test_versions_are_told() -> None:
    assert set(versions()) == set(RIVALS)
    assert all(versions().values())


def test_bench_takes_all_rivals(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp([8, 8, 4]).model(), path)
    arguments = ["bench", str(path), "--vs", "openvino,onnxruntime", "--rounds", "5", "-t", "1", "--json"]
    told = json.loads(CliRunner().invoke(group, arguments, catch_exceptions=False).stdout)
    names = {s["name"] for s in told["systems"]}
    for name, (is_installed, _, _) in RIVALS.items():
        assert (name in names) == is_installed() or any(name in note for note in told["notes"])
    assert all(np.isfinite(s["p50_s"]) for s in told["systems"])


def test_what_a_rival_cannot_run_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no kernel\nfor this")

    path = tmp_path / "m.onnx"
    onnx.save(mlp([8, 4]).model(), path)
    monkeypatch.setitem(RIVALS, "onnxruntime", (lambda: True, refuse, ""))
    arguments = ["bench", str(path), "--vs", "onnxruntime", "--rounds", "5", "-t", "1", "--json"]
    told = json.loads(CliRunner().invoke(group, arguments, catch_exceptions=False).stdout)
    assert told["notes"] == ["onnxruntime cannot run this model: for this"]
