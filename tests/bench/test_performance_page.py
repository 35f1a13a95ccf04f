"""The performance page is what the result files make, and the commands that write these files work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bench import cases, compile_time, loops, performance, report, scaling, store
from bench.models.architectures import mlp


def tiny() -> tuple[bytes, Any]:
    built = mlp([8, 16, 4])
    return built.model().SerializeToString(), built.feeds


@pytest.fixture(autouse=True)
def tiny_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cases.CASES, "tiny", cases.Case("tiny", "standard", tiny))


def test_the_page_is_up_to_date() -> None:
    """Made by `python -m bench.report`; whoever changes a result file runs it."""
    found = report.PAGE.read_text(encoding="utf-8") if report.PAGE.is_file() else report.HEAD
    assert found == report.render()


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "low": median * 0.98, "high": median * 1.02}


def timed(**ratios: float | None) -> dict[str, Any]:
    rivals = {n: {"refused": "no"} if r is None else {"difference": 1e-6, "ratio": ratio(r)} for n, r in ratios.items()}
    return {"seconds": 0.002, "noise": ratio(1.0), "rounds": 20, "rivals": rivals}


def case(is_float32: bool = True, kind: str = "standard", **ratios: float | None) -> dict[str, Any]:
    told = {"kind": kind, "float32": is_float32, "threads": {"1": timed(**ratios)}, "host_steps": 0}
    return told | {"date": "2026-01-01", "commit": "abc"}


def test_losses_are_told(tmp_path: Path) -> None:
    document = {
        "title": "Whole models",
        "command": "c",
        "machine": store.where(),
        "cases": {
            "good": case(onnxruntime=2.0, openvino=1.5),
            "bad": case(onnxruntime=0.5, openvino=None),
            "ints": case(False, "public", onnxruntime=0.25, openvino=4.0),
            "broken": {"kind": "public", "failed": "Error: a|b", "date": "2026-01-01", "commit": "abc"},
        },
    }
    store.write(tmp_path / "models.json", document)
    page = report.render(tmp_path)
    assert "| 1 | onnxruntime | **1.00x** | 1.3x | 2 of 2 | 1: bad 0.50x |" in page
    assert "| 1 | openvino | **1.50x** | 1.2x | 1 of 2 | 0 |" in page
    assert "0.50x [0.49, 0.51] **slower**" in page and "refuses the model" in page
    mixed = page.split("not float32 throughout")[1]
    assert "ints" in mixed and "good" not in mixed and "- broken: Error: a/b" in mixed


def test_records_say_how_they_came_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bench/nests.py", "--level", "sse4"])
    store.save_records(tmp_path / "nests.json", [{"case": "rows", "seconds": 0.123456789}], target="cpu:sse4")
    (saved,) = json.loads((tmp_path / "nests.json").read_text())["rows"]
    assert saved == {"case": "rows", "seconds": 0.12346}
    page = report.render(tmp_path)
    assert "## Loop nests" in page and "| rows | 0.123 |" in page and "is a copy of the same bytes" in page
    assert "`python -m bench.nests --level sse4`" in page and "`cpu:sse4`" in page and store.today() in page


def test_names_of_cases() -> None:
    parser = cases.arguments("", Path("x.json"), "names")
    assert parser.parse_args(["tiny"]).names == ["tiny"] and parser.parse_args([]).save == Path("x.json")
    with pytest.raises(SystemExit):
        parser.parse_args(["no such model"])
    assert cases.to_measure(["a"], ["b", "c"], {"a"}) == ["a"] and cases.to_measure([], ["b", "c"], {"b"}) == ["c"]


def test_records_of_the_kernel_benchmarks(tmp_path: Path) -> None:
    """The forms that gemm, conv, chains, attention, nests and vector_math write."""
    lists = {
        "shape": [3, 4, 5],
        "seconds": 0.5,
        "ratios": {"peak": [0.8, 0.9, 0.95, 1.0], "onnxruntime": [0.5, 0.7, 0.9, 0.8]},
    }
    store.save_records(tmp_path / "gemm.json", [lists], target="cpu:avx2", threads=1)
    store.save_records(tmp_path / "chains.json", [{"chain": "a", "vs_apart": ratio(1.5)}], rounds=3)
    store.save_records(tmp_path / "vector_math.json", [{"name": "exp", "max_ulp": 0.75}])
    page = report.render(tmp_path)
    assert (
        "## Matrix products" in page
        and "| 3 x 4 x 5 | 0.5 | 0.90x [0.80, 0.95] | 0.70x [0.50, 0.90] **slower** |" in page
    )
    assert "| a | 1.50x [1.47, 1.53] |" in page and "Geometric means: apart 1.50x over 1." in page
    assert "| exp | 0.75 |" in page


def test_a_case_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    told = performance.measure_case("tiny", [1], 0.05)
    assert told["float32"] and told["kind"] == "standard" and told["host_steps"] == 0
    one = told["threads"]["1"]
    assert one["rivals"]["onnxruntime"]["difference"] < 1e-5 and one["rivals"]["onnxruntime"]["ratio"]["median"] > 0
    table = store.Table(tmp_path / "models.json", "Whole models", "c")
    table.add("tiny", told)
    again = store.Table(tmp_path / "models.json", "Whole models", "c")
    assert again.cases["tiny"]["threads"]["1"]["seconds"] > 0
    assert "| tiny |" in report.render(tmp_path)


def test_scaling_and_compile_times(tmp_path: Path) -> None:
    scaled = store.Table(tmp_path / "scaling.json", "Scaling", "c")
    scaled.add("tiny", scaling.scale("tiny", 2, 0.05))
    timed = store.Table(tmp_path / "compile.json", "Compile", "c")
    timed.add("tiny", compile_time.times("tiny", 1) | {"limit": 0.0})
    page = report.render(tmp_path)
    assert "| same |" in page and "**missed**" in page


def test_what_is_float32_throughout() -> None:
    model, _ = tiny()
    assert cases.is_float32(model)
    proto = onnx.load_model_from_string(model)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.int8), "q"))
    assert not cases.is_float32(proto.SerializeToString())


def test_an_interrupted_file_is_whole(tmp_path: Path) -> None:
    table = store.Table(tmp_path / "models.json", "t", "c")
    table.add("a", {"kind": "public", "failed": "x", "seconds": 1.23456789})
    assert json.loads(table.path.read_text())["cases"]["a"]["seconds"] == 1.2346
    assert store.Table(tmp_path / "models.json", "t", "c", fresh=True).cases == {}


def test_loops_are_measured() -> None:
    pytest.importorskip("onnxruntime")
    told = loops.row("scan, 32 units", 1, 3)
    assert told["vs_interpreted"]["median"] > 0 and told["turn us"] > 0
