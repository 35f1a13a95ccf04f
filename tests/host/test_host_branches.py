"""Branches of an If as compiled plans: the same answers as the evaluator's, compiled no more often than needed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusec
from fusec.api import Options, compile_plan
from fusec.errors import CompileError, ExecutionError
from fusec.frontend.read import read_model
from fusec.host.bodies import FEW_NODES, KEPT
from fusec.host.inner import CompileBody
from fusec.host.run import HostRunner
from fusec.plan.plan import HostStep
from fusec.trace import Trace

RNG = np.random.default_rng(7)
WEIGHT = (RNG.standard_normal((16, 16)) / 4).astype(np.float32)


def typed(name: str, shape: list[Any] | None, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def layers(count: int, start: str, prefix: str, last: list[Any]) -> list[Any]:
    """`count` layers that read the outer `w`, then other nodes; the names begin with `prefix`."""
    nodes, at = [], start
    for i in range(count):
        nodes.append(helper.make_node("MatMul", [at, "w"], [f"{prefix}m{i}"], name=f"{prefix}matmul{i}"))
        at = f"{prefix}t{i}"
        nodes.append(helper.make_node("Tanh", [f"{prefix}m{i}"], [at]))
    return [*nodes, *[helper.make_node(op, [at, *more], outs, name=f"{prefix}{op}") for op, more, outs in last]]


def branch(nodes: list[Any], *outputs: str) -> Any:
    return helper.make_graph(nodes, "branch", [], [helper.make_empty_tensor_value_info(o) for o in outputs])


def model(then: Any, other: Any, outputs: int = 1, rows: Any = "N", inputs: tuple[Any, ...] = ()) -> Any:
    """If c: then, else other; both may read x, whose rows are counted by N, and the weight w."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node("If", ["c"], names, name="choice", then_branch=then, else_branch=other)
    graph = helper.make_graph(
        [node], "g", [typed("c", [], TensorProto.BOOL), typed("x", [rows, 16]), *inputs],
        [typed(n, None) for n in names], [onnx.numpy_helper.from_array(WEIGHT, "w")],
    )  # fmt: skip
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def two_sided() -> Any:
    """Branches whose results differ in rank; the then branch hands an outer value through."""
    then = layers(5, "x", "a", [("ReduceSum", (), ["sum"])])
    other = layers(4, "x", "b", [("Relu", (), ["out"])])
    return model(branch(then, "sum", "x"), branch(other, "out", "bt3"), outputs=2)


def data(rows: int = 3) -> Any:
    return RNG.standard_normal((rows, 16)).astype(np.float32)


def in_numpy(x: Any, count: int) -> Any:
    for _ in range(count):
        x = np.tanh(x @ WEIGHT)
    return x


class Compiler:
    """Compiles as a session does, and counts."""

    def __init__(self, model: Any, failing: Exception | None = None) -> None:
        self.failing = failing
        self.models: list[Any] = []
        self.session = fusec.compile(model, threads=1)
        (self.node,) = read_model(model).nodes
        self._compile = self._inside(self.session)

    def __call__(self, model: Any, constants: Any) -> Any:
        self.models.append(model)
        if self.failing is not None:
            raise self.failing
        return self._compile(model, constants)

    def runner(self) -> HostRunner:
        constants = [i for i, v in enumerate(self.node.inputs) if v is not None and v.name == "w"]
        return HostRunner(self.node, self, constants)

    def inputs(self, **given: Any) -> list[Any]:
        return [{"w": WEIGHT, **given}[v.name] for v in self.node.inputs if v is not None]

    @staticmethod
    def _inside(session: Any) -> CompileBody:
        from fusec.api import _body_compiler

        return _body_compiler(session.plan, 1, session.limits, Trace())


@pytest.mark.parametrize("taken", [True, False])
def test_both_branches_run_as_plans(taken: bool) -> None:
    compiler = Compiler(two_sided())
    run, x = compiler.runner(), data()
    for _ in range(2):
        got = run(compiler.inputs(c=np.array(taken), x=x))
        want = [in_numpy(x, 5).sum().reshape(1, 1), x] if taken else [np.maximum(in_numpy(x, 4), 0), in_numpy(x, 4)]
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert len(compiler.models) == 1
    assert not np.shares_memory(got[1], x) and not np.shares_memory(*got)


def test_a_session_gives_the_same_after_save_and_load(tmp_path: Path) -> None:
    session = fusec.compile(two_sided(), threads=1)
    session.save(tmp_path / "m.fplan")
    loaded = fusec.load(tmp_path / "m.fplan", threads=1)
    for taken, rows in ((True, 3), (False, 3), (False, 5)):
        feeds = {"c": np.array(taken), "x": data(rows)}
        for a, b in zip(session.run_list(feeds), loaded.run_list(feeds), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.float32


def test_a_nested_condition_that_is_computed() -> None:
    """The inner If looks at the data, so that it is a host step of the branch's own plan."""
    inner_then = branch(layers(4, "at3", "d", [("Neg", (), ["dn"])]), "dn")
    inner_else = branch(layers(5, "at3", "e", [("Abs", (), ["en"])]), "en")
    nodes = layers(4, "x", "a", [("ReduceMax", (), ["top"])])
    nodes[-1].attribute.append(helper.make_attribute("keepdims", 0))
    nodes.append(helper.make_node("Greater", ["top", "limit"], ["big"]))
    nodes.append(helper.make_node("If", ["big"], ["res"], name="inner", then_branch=inner_then, else_branch=inner_else))
    other = branch([helper.make_node("Identity", ["x"], ["same"])], "same")
    session = fusec.compile(model(branch(nodes, "res"), other, inputs=(typed("limit", []),)), threads=1)
    x = data()
    for limit, want in ((-2, -in_numpy(x, 8)), (2, np.abs(in_numpy(x, 9)))):
        (got,) = session.run_list({"c": np.array(True), "x": x, "limit": np.float32(limit)})
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_an_error_in_a_branch_names_the_node() -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["picked"], name="pick"), *layers(4, "picked", "a", [])]
    other = branch(layers(4, "x", "b", []), "bt3")
    session = fusec.compile(model(branch(nodes, "at3"), other, inputs=(typed("i", [2], TensorProto.INT64),)), threads=1)
    with pytest.raises(ExecutionError, match=r"choice/then_branch.*pick.*out of range"):
        session.run({"c": np.array(True), "x": data(), "i": np.array([0, 99])})
    session.run({"c": np.array(True), "x": data(), "i": np.array([0, 2])})


def test_shapes_that_do_not_fit_are_the_hosts_to_report() -> None:
    bad = branch([*layers(4, "x", "a", []), helper.make_node("MatMul", ["at3", "x"], ["z"], name="bad")], "z")
    session = fusec.compile(model(bad, bad), threads=1)
    with pytest.raises(ExecutionError, match="choice"):
        session.run({"c": np.array(True), "x": data()})


def test_threads_share_one_plan() -> None:
    compiler = Compiler(two_sided())
    run, xs, got = compiler.runner(), [data() for _ in range(6)], {}
    barrier = threading.Barrier(len(xs))

    def work(i: int) -> None:
        barrier.wait()
        got[i] = [run(compiler.inputs(c=np.array(True), x=xs[i]))[0] for _ in range(5)][-1]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(compiler.models) == 1
    for i, x in enumerate(xs):
        np.testing.assert_allclose(got[i], in_numpy(x, 5).sum().reshape(1, 1), rtol=1e-4, atol=1e-5)


def test_many_shapes_end_in_one_plan_for_all() -> None:
    compiler = Compiler(two_sided())
    run = compiler.runner()
    for rows in (*range(1, KEPT + 6), 2, 40):
        x = data(rows)
        got, same = run(compiler.inputs(c=np.array(True), x=x))
        np.testing.assert_allclose(got, in_numpy(x, 5).sum().reshape(1, 1), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(same, x)
    assert len(compiler.models) == KEPT + 1
    (x_type,) = [i.type for i in compiler.models[-1].graph.input if i.name == "x"]
    assert x_type.tensor_type.shape.dim[0].dim_param


def test_heavy_weights_are_held_once_and_once_for_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusec.host.bodies.PLAN_BYTES", 1)
    compiler = Compiler(two_sided())
    run = compiler.runner()
    for rows in (2, 3, 4, 2):
        x = data(rows)
        np.testing.assert_allclose(
            run(compiler.inputs(c=np.array(False), x=x))[1], in_numpy(x, 4), rtol=1e-4, atol=1e-5
        )
    assert len(compiler.models) == 2


def test_the_evaluator_runs_what_cannot_be_compiled_or_is_small() -> None:
    compiler = Compiler(two_sided(), CompileError("not today"))
    run, x = compiler.runner(), data()
    with pytest.warns(
        RuntimeWarning, match="choice/then_branch runs on the reference implementation.*not today"
    ) as said:
        for _ in range(3):
            got = run(compiler.inputs(c=np.array(True), x=x))
            np.testing.assert_allclose(got[0], in_numpy(x, 5).sum().reshape(1, 1), rtol=1e-5, atol=1e-6)
    assert len(compiler.models) == len(said) == 1
    assert [b.why for b in run.bodies] == ["", "not today"]
    assert FEW_NODES > 4
    tiny = Compiler(model(branch(layers(2, "x", "a", []), "at1"), branch(layers(1, "x", "b", []), "bt0")))
    np.testing.assert_allclose(tiny.runner()(tiny.inputs(c=np.array(False), x=x))[0], in_numpy(x, 1), rtol=1e-5)
    assert not tiny.models


def test_scalars_are_the_evaluators() -> None:
    nodes = [helper.make_node("Add", ["s", "s"], ["v0"])]
    nodes += [helper.make_node("Mul", [f"v{i}", "s"], [f"v{i + 1}"]) for i in range(9)]
    side = branch(nodes, "v9")
    compiler = Compiler(model(side, side, inputs=(typed("s", []),)))
    (got,) = compiler.runner()(compiler.inputs(c=np.array(True), s=np.array(1.5, np.float32)))
    assert got == np.float32(2 * 1.5**10) and not compiler.models


def test_a_condition_that_shapes_decide_leaves_no_host_step() -> None:
    """With the shapes given, the branch is known when the model is read."""
    m = two_sided()
    m.graph.input.remove(m.graph.input[0])
    shape = helper.make_node("Shape", ["x"], ["s"])
    one = helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.array([3, 16])))
    equal = [helper.make_node("Equal", ["s", "k"], ["q"]), helper.make_node("Cast", ["q"], ["i"], to=TensorProto.INT64)]
    least = [helper.make_node("ReduceMin", ["i"], ["r"], keepdims=0), helper.make_node("Cast", ["r"], ["c"], to=9)]
    nodes = [shape, one, *equal, *least, *m.graph.node]
    del m.graph.node[:]
    m.graph.node.extend(nodes)
    plan = compile_plan(m, Options(shapes={"x": (3, 16)}), Trace())
    assert not [s for s in plan.steps if isinstance(s, HostStep)]


def squeezed_where_one() -> Any:
    """As exporters write it: the rank of what follows depends on the number of rows, which is a symbol."""
    nodes = layers(3, "x", "a", [])
    nodes += [helper.make_node("Shape", ["at2"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["rows"], axis=0)]
    nodes.append(helper.make_node("Equal", ["rows", "one"], ["c"]))
    then = branch([helper.make_node("Squeeze", ["at2", "axes"], ["flat"])], "flat")
    other = branch([helper.make_node("Identity", ["at2"], ["same"])], "same")
    nodes.append(helper.make_node("If", ["c"], ["z"], name="choice", then_branch=then, else_branch=other))
    nodes += layers(4, "z", "b", [])
    nodes.append(helper.make_node("Shape", ["bt3"], ["size"]))
    weights = {"w": WEIGHT, "zero": np.array(0), "one": np.array(1), "axes": np.array([0])}
    graph = helper.make_graph(
        nodes, "g", [typed("x", ["N", 16])], [typed("bt3", None), typed("size", None, TensorProto.INT64)],
        [onnx.numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_what_follows_a_rank_that_sizes_decide_is_one_step(tmp_path: Path) -> None:
    session = fusec.compile(squeezed_where_one(), threads=1)
    steps = [s.node for s in session.plan.steps if isinstance(s, HostStep)]
    assert [n.origin for n in steps] == [("choice",)]
    session.save(tmp_path / "m.fplan")
    for s in (session, fusec.load(tmp_path / "m.fplan", threads=1)):
        for rows in (3, 1, 2, 1):
            x = data(rows)
            got, size = s.run_list({"x": x})
            want = in_numpy(x, 7)
            np.testing.assert_allclose(got, want[0] if rows == 1 else want, rtol=1e-4, atol=1e-5)
            assert tuple(size) == got.shape
    given = compile_plan(squeezed_where_one(), Options(shapes={"x": (1, 16)}), Trace())
    assert not [s for s in given.steps if isinstance(s, HostStep)]


SILERO = ("silero_vad", "silero_vad_16k_op15", "silero_vad_op18_ifless")


@pytest.mark.models
@pytest.mark.parametrize("name", SILERO)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_voice_activity_with_state(name: str, rate: int) -> None:
    """Several chunks in order, the state of one being the input of the next, against onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")
    path = Path(__file__).parents[2] / "models" / f"{name}.onnx"
    if not path.exists() or (rate == 8000 and "16k" in name):
        pytest.skip("no such model here")
    reference = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    session = fusec.compile(path, threads=1)
    states = [np.zeros((2, 1, 128), np.float32)] * 2
    for _ in range(5):
        chunk = (RNG.standard_normal((1, 576 if rate == 16000 else 288)) / 5).astype(np.float32)
        feeds = [{"input": chunk, "state": s, "sr": np.array(rate, np.int64)} for s in states]
        got, want = session.run_list(feeds[0]), reference.run(None, feeds[1])
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        states = [got[1], want[1]]
