"""Bodies of Loop and Scan as compiled plans: against onnxruntime, and numpy; never the evaluator in silence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusec.api
from fusec.errors import CompileError, ExecutionError
from fusec.host.bodies import MOST_COMPILES
from fusec.host.sizes import Sizes
from fusec.host.unroll import MOST_TURNS
from fusec.trace import Trace

RNG = np.random.default_rng(11)
H = 16
W = (RNG.standard_normal((H, H)) / 4).astype(np.float32)
U = (RNG.standard_normal((H, H)) / 4).astype(np.float32)
FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def typed(name: str, shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, **weights: Any) -> bytes:
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    return bytes(made.SerializeToString())


def compare(made: bytes, *feeds: dict[str, Any], plans: int | None = None) -> Any:
    """Run by a session and by onnxruntime; no body may be the evaluator's."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    other = runtime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    session = fusec.compile(made, threads=1)
    for feed in feeds:
        for got, want in zip(session.run_list(feed), other.run(None, feed), strict=True):
            assert got.dtype == want.dtype
            if not want.size:  # nothing was scanned: onnxruntime takes 0 for all sizes that the body leaves open
                assert got.shape[0] == want.shape[0] == 0 and got.ndim == want.ndim
                continue
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
            assert got.flags.owndata and not any(np.shares_memory(got, x) for x in feed.values())
    bodies = session.steps.bodies
    assert bodies and not any(b.why for b in bodies if b.turns), [b.why for b in bodies]
    if plans is not None:
        assert [b.compiles for b in bodies] == [plans]
    return session


def data(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def cell(x: str = "x", h: str = "h") -> list[Any]:
    """An RNN's step: n = tanh(x w + h u)."""
    return [
        node("MatMul", [x, "w"], ["xw"]), node("MatMul", [h, "u"], ["hu"]), node("Add", ["xw", "hu"], ["s"]),
        node("Tanh", ["s"], ["n"]),
    ]  # fmt: skip


def scan_rnn(**attributes: Any) -> bytes:
    graph = helper.make_graph(
        [*cell(), node("Identity", ["n"], ["seen"])], "step",
        [typed("h", ["B", H]), typed("x", ["B", H])], [typed("n", ["B", H]), typed("seen", ["B", H])],
    )  # fmt: skip
    n = node("Scan", ["h0", "xs"], ["last", "all"], body=graph, num_scan_inputs=1, name="rnn", **attributes)
    ins = [typed("h0", ["B", H]), typed("xs", ["P", "Q", H])]
    return model([n], ins, [typed("last", None), typed("all", None)], w=W, u=U)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [1]},
        {
            "scan_input_axes": [-2],
            "scan_output_axes": [-1],
            "scan_input_directions": [1],
            "scan_output_directions": [1],
        },
    ],
)
def test_a_recurrent_net_as_a_scan(attributes: dict[str, Any]) -> None:
    batch_first = "scan_input_axes" in attributes
    feeds = []
    for steps in (7, 1, 12):
        shape = (3, steps, H) if batch_first else (steps, 3, H)
        feeds.append({"h0": data(3, H), "xs": data(*shape)})
    compare(scan_rnn(**attributes), *feeds, plans=1)


def loop_rnn(condition: str = "", limit: float = 1e9, trips: str = "m") -> bytes:
    """x comes by its number from what is captured; it ends early where the sum of the state passes a limit."""
    body = helper.make_graph(
        [
            node("Gather", ["xs", "i"], ["x"], axis=0), *cell(),
            node("ReduceSum", ["n"], ["sum"], keepdims=0), node("Less", ["sum", "limit"], ["go"]),
            node("Identity", ["x"], ["x_seen"]),
        ],
        "step", [typed("i", [], INT), typed("c", [], BOOL), typed("h", ["B", H])],
        [typed("go", [], BOOL), typed("n", ["B", H]), typed("n", ["B", H]), typed("x_seen", ["B", H])],
    )  # fmt: skip
    body.output[2].name = "n2"
    body.node.append(node("Identity", ["n"], ["n2"]))
    n = node("Loop", [trips, condition, "h0"], ["last", "all", "inputs"], body=body, name="rnn")
    ins = [typed("h0", ["B", H]), typed("xs", ["T", "B", H])]
    ins += [typed("m", [], INT)] * (trips == "m") + [typed("start", [], BOOL)] * (condition == "start")
    outs = [typed(n, None) for n in ("last", "all", "inputs")]
    return model([n], ins, outs, w=W, u=U, limit=np.float32(limit))


def test_a_recurrent_net_as_a_loop() -> None:
    feeds = [{"h0": data(2, H), "xs": data(9, 2, H), "m": np.array(m)} for m in (9, 1, 0, 4)]
    compare(loop_rnn(), *feeds, plans=1)


def test_a_loop_that_ends_early_or_never_begins() -> None:
    h0, xs = data(1, H) + 1, np.abs(data(30, 1, H))
    made = loop_rnn("start", limit=2.5)
    feeds = [{"h0": h0 * s, "xs": xs, "m": np.array(30), "start": np.array(b)} for s in (1, -3) for b in (True, False)]
    session = compare(made, *feeds)
    assert 0 < session.steps.bodies[0].turns < 60
    endless = loop_rnn("start", limit=2.5, trips="")
    compare(endless, {"h0": -3 * h0, "xs": xs, "start": np.array(True)})


def test_states_that_grow_are_compiled_twice() -> None:
    """The keys and values of attention, as decoders write them: all sizes that change together become one symbol."""
    body = helper.make_graph(
        [
            *cell("q"), node("Unsqueeze", ["n", "zero"], ["row"]),
            node("Concat", ["keys", "row"], ["keys1"], axis=1), node("Concat", ["values", "row"], ["values1"], axis=1),
            node("Transpose", ["keys1"], ["kt"], perm=[0, 2, 1]), node("MatMul", ["row", "kt"], ["scores"]),
            node("Softmax", ["scores"], ["p"], axis=-1), node("MatMul", ["p", "values1"], ["o"]),
            node("Squeeze", ["o", "zero"], ["q1"]), node("Identity", ["c"], ["c1"]), node("Identity", ["q1"], ["seen"]),
        ],
        "step",
        [typed("i", [], INT), typed("c", [], BOOL), typed("q", [1, H]), typed("h", [1, H]),
         typed("keys", [1, "T", H]), typed("values", [1, "T", H])],
        [typed("c1", [], BOOL), typed("q1", [1, H]), typed("n", [1, H]), typed("keys1", [1, "T1", H]),
         typed("values1", [1, "T1", H]), typed("seen", [1, H])],
    )  # fmt: skip
    n = node("Loop", ["m", "", "q0", "h0", "k0", "v0"], ["qN", "hN", "kN", "vN", "all"], body=body)
    ins = [
        typed("m", [], INT),
        *(typed(x, [1, H]) for x in ("q0", "h0")),
        *(typed(x, [1, "T", H]) for x in ("k0", "v0")),
    ]
    made = model([n], ins, [typed(x, None) for x in ("qN", "hN", "kN", "vN", "all")], w=W, u=U, zero=np.array([0]))
    feeds = [
        {"m": np.array(m), "q0": data(1, H), "h0": data(1, H), "k0": data(1, t, H), "v0": data(1, t, H)}
        for m, t in ((6, 3), (12, 3), (5, 20))
    ]
    for feed in feeds[:2]:
        session = compare(made, feed, plans=2)
    compare(made, *feeds)
    assert session.steps.bodies[0].turns == 12


def test_a_branch_and_a_loop_inside_a_loop() -> None:
    """The inner loop captures what the outer one computed, and a weight of the model; the branch looks at the data."""
    inner = helper.make_graph(
        [*cell("base"), node("Identity", ["ci"], ["co"])], "inner",
        [typed("j", [], INT), typed("ci", [], BOOL), typed("h", [2, H])], [typed("co", [], BOOL), typed("n", [2, H])],
    )  # fmt: skip
    sides = {
        f"{name}_branch": helper.make_graph(
            [node("MatMul", ["base", "w"], [f"{name}0"])]
            + [node(op, [f"{name}{i}"], [f"{name}{i + 1}"]) for i in range(8)],
            name, [], [typed(f"{name}8", [2, H])],
        )
        for name, op in (("then", "Tanh"), ("else", "Neg"))
    }  # fmt: skip
    body = helper.make_graph(
        [
            node("Mul", ["state", "half"], ["base"]), node("Loop", ["three", "", "base"], ["deep"], body=inner),
            node("ReduceMax", ["deep"], ["top"], keepdims=0), node("Greater", ["top", "half"], ["big"]),
            node("If", ["big"], ["side"], **sides), node("Add", ["deep", "side"], ["new"]),
            node("Cast", ["i"], ["fi"], to=FLOAT), node("Identity", ["yes"], ["go"]),
        ],
        "outer", [typed("i", [], INT), typed("c", [], BOOL), typed("state", [2, H])],
        [typed("go", [], BOOL), typed("new", [2, H]), typed("fi", [])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )  # fmt: skip
    n = node("Loop", ["m", "", "x"], ["y", "numbers"], body=body, name="outer")
    made = model(
        [n], [typed("m", [], INT), typed("x", [2, H])], [typed("y", None), typed("numbers", None)], w=W, u=U,
        half=np.float32(0.5), three=np.array(3),
    )  # fmt: skip
    compare(made, {"m": np.array(4), "x": data(2, H)}, {"m": np.array(1), "x": 3 * data(2, H)}, plans=1)


def test_what_a_body_only_hands_on() -> None:
    """States that swap places, a constant, an outer value and a scanned input; nothing is left to compile."""
    body = helper.make_graph(
        [node("Identity", ["a"], ["a1"]), node("Identity", ["b"], ["b1"]), node("Identity", ["outer"], ["o1"]),
         node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([1, 2])))],
        "step", [typed("a", [2]), typed("b", [2]), typed("x", [2])],
        [typed("b1", [2]), typed("a1", [2]), typed("x", [2]), typed("o1", [3]), typed("k", [2])],
    )  # fmt: skip
    n = node("Scan", ["p", "q", "xs"], ["s", "t", "u", "v", "k2"], body=body, num_scan_inputs=1)
    ins = [typed("p", [2]), typed("q", [2]), typed("xs", ["T", 2]), typed("outer", [3])]
    session = fusec.compile(model([n], ins, [typed(x, None) for x in ("s", "t", "u", "v", "k2")]), threads=1)
    p, q, xs, outer = data(2), data(2), data(3, 2), data(3)
    s, t, u, v, k = session.run_list({"p": p, "q": q, "xs": xs, "outer": outer})
    for got, want in ((s, q), (t, p), (u, xs), (v, np.stack([outer] * 3)), (k, np.float32([[1, 2]] * 3))):
        np.testing.assert_array_equal(got, want)
        assert got.flags.writeable and not any(np.shares_memory(got, x) for x in (p, q, xs, outer))
    assert [b.compiles for b in session.steps.bodies] == [0]


def test_a_batched_scan_of_opset_8() -> None:
    body = helper.make_graph(
        [*cell(), node("Identity", ["n"], ["seen"])], "step", [typed("h", [1, H]), typed("x", [1, H])],
        [typed("n", [1, H]), typed("seen", [1, H])],
    )  # fmt: skip
    n = node("Scan", ["lengths", "h0", "xs"], ["last", "all"], body=body, num_scan_inputs=1, directions=[1])
    ins = [typed("lengths", [2], INT), typed("h0", [2, 1, H]), typed("xs", [2, 5, 1, H])]
    made = model([n], ins, [typed("last", None), typed("all", None)], opset=8, w=W, u=U)
    compare(made, {"lengths": np.array([5, 3]), "h0": data(2, 1, H), "xs": data(2, 5, 1, H)}, plans=1)


def test_nothing_scanned_has_the_declared_type() -> None:
    """No turn: the sizes that are known of the result, 0 for those that only a turn would tell."""
    made = loop_rnn()
    session = fusec.compile(made, threads=1)
    last, every, inputs = session.run_list({"h0": data(2, H), "xs": data(3, 2, H), "m": np.array(0)})
    assert (every.shape, inputs.shape, last.shape) == ((0, 0, H), (0, 2, H), (2, H)) and every.dtype == np.float32
    h0 = data(2, H)  # onnxruntime divides by the number of turns here
    last, every = fusec.compile(scan_rnn(scan_output_axes=[1]), threads=1).run_list({"h0": h0, "xs": data(0, 2, H)})
    np.testing.assert_array_equal(last, h0)
    assert every.shape[1:] == (0, H) and last is not h0


def counted(body_nodes: list[Any], go: str, turns: Any = "m") -> bytes:
    """A loop that always goes on: two states that swap places, a state that stays, a number, an outer value, a constant."""
    body = helper.make_graph(
        [
            node("Gather", ["xs", "i"], ["x"], axis=0), *cell("x", "a"), node("Identity", ["b"], ["b1"]),
            node("Identity", ["kept"], ["kept1"]), node("Identity", ["c"], ["c1"]),
            node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
            node("Constant", [], ["seven"], value=numpy_helper.from_array(np.array([7]))),
            node("Mul", ["i", "three"], ["i3"]), node("Identity", ["i"], ["i1"]), node("Identity", ["xs"], ["outer"]),
            *body_nodes,
        ],
        "step", [typed("i", [], INT), typed("c", [], BOOL), typed("a", [2, H]), typed("b", [2, H]), typed("kept", [3])],
        [typed(go, [], BOOL), typed("b1", [2, H]), typed("n", [2, H]), typed("kept1", [3]), typed("n1", [2, H]),
         typed("i3", [], INT), typed("i1", [], INT), typed("seven", [1], INT), typed("outer", ["T", 2, H])],
    )  # fmt: skip
    names = ["aN", "bN", "keptN", "every", "threes", "numbers", "sevens", "outers"]
    n = node("Loop", [turns, "", "a0", "b0", "k0"], names, body=body, name="counted")
    ins = [typed("m", [], INT), typed("xs", ["T", 2, H]), typed("a0", [2, H]), typed("b0", [2, H]), typed("k0", [3])]
    outs = [typed(x, None, INT if x in ("threes", "numbers", "sevens") else FLOAT) for x in names]
    return model([n], ins, outs, w=W, u=U, three=np.array(3))


@pytest.mark.parametrize("go", ["c1", "yes"])
def test_many_turns_run_in_one_go(go: str) -> None:
    made = counted([node("Identity", ["n"], ["n1"])], go)
    feeds = [
        {"m": np.array(m), "xs": data(60, 2, H), "a0": data(2, H), "b0": data(2, H), "k0": data(3)}
        for m in (MOST_TURNS, MOST_TURNS + 1, 60, 2 * MOST_TURNS + 1)
    ]
    session = compare(made, *feeds, plans=1)
    (body,) = session.steps.bodies
    assert (
        body.turns == sum(int(f["m"]) for f in feeds)
        and body.leaps is not None
        and len(body.leaps.plans) == 1
        and all(body.leaps.plans.values())
    )
    alone = [session.run_list(f) for f in feeds]
    together = fusec.compile(made, threads=2)
    for feed, want in zip(feeds, alone, strict=True):
        for a, b in zip(together.run_list(feed), want, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ExecutionError, match=r"counted/body.*index 60 is out of range"):
        session.run(feeds[0] | {"m": np.array(70)})


def test_turns_that_data_decide_run_one_by_one() -> None:
    extra = [
        node("Identity", ["n"], ["n1"]), node("ReduceSum", ["n"], ["sum"], keepdims=0),
        node("Less", ["sum", "sum"], ["never"]), node("Not", ["never"], ["go"]),
    ]  # fmt: skip
    feed = {"m": np.array(40), "xs": data(60, 2, H), "a0": data(2, H), "b0": data(2, H), "k0": data(3)}
    session = compare(counted(extra, "go"), feed, plans=1)
    assert not session.steps.bodies[0].leaps.plans


@pytest.mark.parametrize("attributes", [{}, {"scan_input_directions": [1], "scan_output_directions": [1]}])
def test_long_scans(attributes: dict[str, Any]) -> None:
    feeds = [{"h0": data(b, H), "xs": data(t, b, H)} for b, t in ((3, 40), (1, 17), (3, 33))]
    session = compare(scan_rnn(**attributes), *feeds, plans=2)
    assert len(session.steps.bodies[0].leaps.plans) == 2


def test_an_error_in_a_turn_names_the_node() -> None:
    session = fusec.compile(loop_rnn(), threads=1)
    with pytest.raises(ExecutionError, match=r"rnn/body.*out of range"):
        session.run({"h0": data(2, H), "xs": data(4, 2, H), "m": np.array(5)})


def test_what_differs_in_length_is_said() -> None:
    body = helper.make_graph(
        [node("Add", ["a", "b"], ["s"]), node("Add", ["s", "h"], ["n"])], "step",
        [typed("h", [H]), typed("a", [H]), typed("b", [H])], [typed("n", [H])],
    )  # fmt: skip
    n = node("Scan", ["h0", "as", "bs"], ["last"], body=body, num_scan_inputs=2)
    made = model([n], [typed("h0", [H]), typed("as", ["S", H]), typed("bs", ["T", H])], [typed("last", None)])
    with pytest.raises(ExecutionError, match=r"differ in length: \[2, 3\]"):
        fusec.compile(made, threads=1).run({"h0": data(H), "as": data(2, H), "bs": data(3, H)})


def test_the_evaluator_is_never_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A body that cannot be compiled runs, with a warning, a line of the debug ladder, and the reason with the session."""
    made = loop_rnn()
    trace = Trace(debug=1)
    session = fusec.compile(made, threads=1, trace=trace)

    def refuse(*_: Any, **__: Any) -> Any:
        raise CompileError("not today")

    monkeypatch.setattr("fusec.api.compile_graph_plan", refuse)
    feed = {"h0": data(2, H), "xs": data(9, 2, H), "m": np.array(4)}
    with pytest.warns(RuntimeWarning, match="rnn/body runs on the reference implementation.*not today"):
        last, *_ = session.run_list(feed)
    h = feed["h0"]
    for t in range(4):
        h = np.tanh(feed["xs"][t] @ W + h @ U)
    np.testing.assert_allclose(last, h, rtol=1e-5, atol=1e-6)
    (body,) = session.steps.bodies
    assert "not today" in body.why and body.turns == 0
    assert "rnn/body cannot be compiled: " in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        session.run_list(feed)


def test_ranks_that_change_from_turn_to_turn() -> None:
    body = helper.make_graph(
        [*cell("h", "h"), node("Unsqueeze", ["n", "zero"], ["n1"]), node("Identity", ["c"], ["c1"])], "step",
        [typed("i", [], INT), typed("c", [], BOOL), typed("h", None)], [typed("c1", [], BOOL), typed("n1", None)],
    )  # fmt: skip
    n = node("Loop", ["m", "", "x"], ["y"], body=body)
    made = model([n], [typed("m", [], INT), typed("x", [2, H])], [typed("y", None)], w=W, u=U, zero=np.array([0]))
    session = fusec.compile(made, threads=1)
    x = data(2, H)
    (y,) = session.run_list({"m": np.array(3), "x": x})
    for _ in range(3):
        x = np.tanh(x @ W + x @ U)[None]
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6)
    assert session.steps.bodies[0].compiles == 3 <= MOST_COMPILES


@pytest.mark.parametrize("options", [{"fuse": False}, {"passes": "-fuse-epilogue"}, {}])
def test_options_reach_the_bodies(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fusec.compile(scan_rnn(), threads=1, **options).save(tmp_path / "m.fplan")
    compile_plan, plans = fusec.api.compile_graph_plan, []

    def watched(*arguments: Any) -> Any:
        plans.append(compile_plan(*arguments))
        return plans[-1]

    monkeypatch.setattr("fusec.api.compile_graph_plan", watched)
    session = fusec.load(tmp_path / "m.fplan", threads=1)
    session.run_list({"h0": data(2, H), "xs": data(3, 2, H)})
    for plan in (session.plan, *plans):
        assert (plan.fuse, plan.passes) == (options.get("fuse", True), options.get("passes", ""))
    labels = [c.label for step in plans[0].steps for c in step.calls]
    assert any(label.startswith("matmul+") for label in labels) == (not options), labels
    assert any("+" in label for label in labels) == options.get("fuse", True), labels


def test_sizes_that_change() -> None:
    sizes = Sizes()
    sizes.see(((1, (2, 2, 5)), (1, ())))
    assert sizes.pattern() == [(2, 2, 5), ()] and sizes.fit(((1, (2, 2, 5)), (1, ())))
    sizes.see(((1, (2, 3, 5)), (1, ())))
    sizes.see(((1, (2, 3, 5)), (1, ())))
    assert sizes.pattern() == [(2, "d0", 5), ()] and not sizes.fit(((1, (3, 3, 5)), (1, ())))
