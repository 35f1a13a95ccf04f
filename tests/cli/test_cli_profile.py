"""`fusec profile`: every kernel and host step is there, the sums are right, and the counts are those of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import fusec
from bench.models.architectures import mlp
from bench.models.builder import ModelBuilder
from fusec.cli.main import group
from fusec.errors import UsageError
from fusec.ir.build import GraphBuilder
from fusec.measure.profile import profile
from fusec.measure.table import BY, busy_seconds, chrome_trace, rows
from fusec.measure.work import work_of


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["profile", *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "mlp.onnx"
    onnx.save(mlp([64, 128, 128, 10], batch=8).model(), path)
    return str(path)


def with_host_step() -> ModelBuilder:
    b = ModelBuilder("host")
    x = b.input("x", [4, 32], np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32))
    y = b.op("Relu", b.linear(x, 32, 32))
    values, _ = b.op("Unique", y, outputs=2, axis=1)
    b.output(b.op("Exp", values), [4, "n"])
    return b


def test_profile_tells_all_kernels(model: str, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    result = invoke(model, "-t", "1", "--rounds", "5", "--by", "node", "--json", "--trace", str(trace))
    told = json.loads(result.stdout)
    assert told["workers"] == 1 and told["runs"] == 5
    assert len(told["rows"]) == 3
    assert sum(r["share"] for r in told["rows"]) == pytest.approx(1.0, abs=0.2)
    assert told["busy_s"] <= told["total_s"]["p90"]
    assert {n for r in told["rows"] for n in r["nodes"]} >= {"/Gemm_0", "/Gemm_2", "/Gemm_4"}
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("cat") == "kernel"]
    assert len(events) >= 3
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in events)


def test_a_trace_is_not_replaced_unasked(model: str, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    trace.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        invoke(model, "--trace", str(trace))
    assert trace.read_text() == "mine"
    assert invoke(model, "--trace", str(trace), "-f", "--rounds", "3").exit_code == 0
    assert trace.read_text() != "mine"


def test_profile_text(model: str) -> None:
    result = invoke(model, "--rounds", "3", "--top", "1")
    assert "total:" in result.stdout and "waiting: worker 0" in result.stdout and "more that take" in result.stdout


def test_host_steps_and_regions_of_one_run() -> None:
    built = with_host_step()
    session = fusec.compile(built.model(), threads=1)
    found = profile(session, built.feeds, 4)
    assert [i.is_host for i in found.items].count(True) == 1
    host = next(i for i in found.items if i.is_host)
    assert host.label == "Unique" and host.work is None and min(host.seconds) > 0
    assert len({i.step for i in found.items}) == 3
    for by in BY:
        told = rows(found, by)
        assert sum(r.calls for r in told) == len(found.items)
        assert sum(r.seconds for r in told) == pytest.approx(busy_seconds(found), rel=0.5)
        assert [r.gflops is None for r in told].count(True) == 1
    assert {e["cat"] for e in chrome_trace(found)["traceEvents"] if "cat" in e} >= {"run", "host", "kernel"}
    assert session.steps.finished is None


def test_the_worst_rate_is_never_negative_and_roofs_are_used() -> None:
    built = mlp([64, 64, 8], batch=4)
    session = fusec.compile(built.model(), threads=1)
    found = profile(session, built.feeds, 3, roof=lambda flops, moved: flops * 1e-9 + sum(b for b, _ in moved) * 1e-9)
    for row in rows(found, "node"):
        assert row.gflops is not None and row.gflops > 0
        assert row.roof is not None and row.roof > 0


def test_counts_are_those_of_the_algorithm() -> None:
    b = GraphBuilder("counts")
    x, w = b.input("x", "f32[20,30]"), b.weight("w", np.ones((30, 50), np.float32))
    graph = b.graph([b.op("relu", b.op("matmul", x, w))])
    session = fusec.api.compile_graph(graph, threads=1)
    feeds = {"x": np.ones((20, 30), np.float32)}
    session.run(feeds)
    region = session.binding_of(feeds).region
    (call,) = region.calls
    work = work_of(call, region)
    assert work.flops == pytest.approx(2 * 20 * 30 * 50 + 20 * 50, rel=0.01)
    assert work.weights == 30 * 50 * 4
    assert work.activations == (20 * 30 + 20 * 50) * 4


def test_of_a_gathered_table_only_the_rows_count() -> None:
    b = GraphBuilder("rows")
    table, i = b.weight("table", np.ones((1000, 16), np.float32)), b.input("i", "i64[3]")
    graph = b.graph([b.op("gather", table, i, axis=0)])
    session = fusec.api.compile_graph(graph, threads=1)
    feeds = {"i": np.array([1, 2, 999])}
    session.run(feeds)
    (call,) = session.binding_of(feeds).region.calls
    assert sorted(call.kernel.footprint.values()) == [3 * 8, 3 * 16 * 4, 3 * 16 * 4]
