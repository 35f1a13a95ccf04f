"""Sessions: the fast path and the step by step path, host steps, aliases, weights, bounds on memory, failures."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper
import pytest
from fake_plan import plan_of, session_of
from fake_region import BAD, Chain, call, flip

from fusec.errors import ExecutionError, InputError, ResourceError, UsageError
from fusec.ir.dim import symbol
from fusec.ir.graph import Node, Value
from fusec.ir.types import DType, SequenceType, TensorType, Type, parse_type
from fusec.kernels.layout import Layout
from fusec.knobs import Limits
from fusec.plan.plan import HostStep, Plan, PlanWeight, RegionStep
from fusec.runtime import steps as steps_module
from fusec.target import Target, runs_here

HERE = Path(__file__).parent
N, K = symbol("N"), symbol("K")


def data(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def types(**texts: str) -> dict[str, Type]:
    return {n: parse_type(t) for n, t in texts.items()}


def values(kinds: dict[str, Type], *names: str) -> tuple[Value, ...]:
    return tuple(Value(n, kinds[n]) for n in names)


def opaque(op: str, kinds: dict[str, Type], inputs: list[str], outputs: list[str], **attrs: Any) -> HostStep:
    proto = onnx.helper.make_node(op, inputs, outputs, **attrs)
    node = Node.make(
        "opaque",
        [Value(n, kinds[n]) if n else None for n in inputs],
        [Value(n, kinds[n]) for n in outputs],
        (f"/{op.lower()}",),
        op_type=op,
        domain="",
        proto=proto.SerializeToString(),
        opsets=(("", 18),),
        captures=(),
    )
    return HostStep(node)


def region(inputs: str, output: str, *calls: tuple[str, str, float, object]) -> RegionStep:
    made = tuple(call(f"c{i}", x, y, a, n) for i, (x, y, a, n) in enumerate(calls))
    return RegionStep(made, tuple(inputs.split()), tuple(output.split()))


# --- the fast path -------------------------------------------------------------------------------------------------


def test_results_are_fresh_arrays_that_the_caller_owns() -> None:
    session = session_of(plan_of(Chain(2, N)))
    x = data(50)
    first = session.run({"x": x})["y"]
    kept = first.copy()
    second = session.run({"x": data(50, 1)})["y"]
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable and first.flags.owndata and not np.shares_memory(first, second)


@pytest.mark.parametrize(
    "prepare",
    [
        np.asfortranarray,
        lambda x: x[::-1][::-1],
        lambda x: np.repeat(x, 2)[::2],
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32),
        lambda x: x.view(np.dtype(np.float32, copy=True)),
    ],
)
def test_awkward_arrays_give_the_same_answer(prepare: Any) -> None:
    chain = Chain(3, N)
    session = session_of(plan_of(chain))
    x = data(40)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": prepare(x)})["y"], chain.expected(x))


def test_every_way_to_call() -> None:
    chain = Chain(2, N)
    session = session_of(plan_of(chain))
    x = data(20)
    y = chain.expected(x)
    for out in (
        session.run({"x": x})["y"],
        session.run([x])["y"],
        session.run({"x": x}, ["y"])["y"],
        session.run({"x": x}, outputs=("y",))["y"],
        session(x),
        session.run_list({"x": x})[0],
        session.run_list([x], ["y"])[0],
    ):
        np.testing.assert_array_equal(out, y)
    a, b = session.run_list({"x": x}, ["y", "y"])
    np.testing.assert_array_equal(a, b)
    assert not np.shares_memory(a, b)
    assert session.run({"x": x}, []) == {}
    assert "f32[N]" in repr(session)


@pytest.mark.parametrize(
    ("feeds", "outputs", "words"),
    [
        ({}, None, "missing input 'x'"),
        ({"y": data(3)}, None, "unknown input 'y'"),
        ({"x": data(3), "z": data(3)}, None, "unknown input 'z'"),
        ({"x": data(3).astype(np.float64)}, None, "float64"),
        ({"x": data(4).reshape(2, 2)}, None, "2 dimensions"),
        ({"x": data(3)}, ["z"], "unknown output 'z'"),
        ({"x": data(3)}, "y", "list of names"),
        ({"x": data(3)}, ["y", "why"], "known: 'y'"),
    ],
)
def test_bad_calls(feeds: Any, outputs: Any, words: str) -> None:
    session = session_of(plan_of(Chain(2, N)))
    session.run({"x": data(3)})
    for run in (session.run, session.run_list):
        with pytest.raises(InputError, match=words):
            run(feeds, outputs)


def two_inputs() -> Plan:
    kinds = types(a="f32[N]", b="f32[N]", p="f32[N]", q="f32[N]")
    step = region("a b", "p q", ("b", "q", 2.0, N), ("a", "p", 0.5, N))
    return plan_of(
        Chain(1, N), inputs=values(kinds, "a", "b"), outputs=values(kinds, "p", "q"), values=kinds, steps=(step,)
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_two_inputs_and_two_outputs(threads: int) -> None:
    session = session_of(two_inputs(), threads)
    a, b = data(90), data(90, 1)
    for _ in range(3):
        out = session.run({"b": b, "a": a})
        assert list(out) == ["p", "q"]
        np.testing.assert_array_equal(out["p"], flip(a, 0.5))
        np.testing.assert_array_equal(out["q"], flip(b, 2.0))
    np.testing.assert_array_equal(session.run_list({"a": a, "b": a}, ["q", "p"])[0], flip(a, 2.0))
    with pytest.raises(InputError, match=r"'b'.*dimension 0 \(N\) is 91.*N is 90 by input 'a'"):
        session.run({"a": a, "b": data(91)})


def test_an_input_that_nobody_reads() -> None:
    kinds = types(x="f32[N]", unused="f32[K]", y="f32[N]")
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "unused", "x"),
        outputs=values(kinds, "y"),
        values=kinds,
        steps=(region("x", "y", ("x", "y", 0.5, N)),),
    )
    session = session_of(plan)
    for k in (1, 2, 2):
        np.testing.assert_array_equal(session.run({"x": data(9), "unused": data(k)})["y"], flip(data(9), 0.5))
    assert len(session._steps._bindings) == 1


def test_an_output_that_is_a_reshape_stays_on_the_fast_path() -> None:
    kinds = types(x="f32[2*N]", y="f32[2*N]", z="f32[N, 2]")
    plan = plan_of(
        Chain(1, 2 * N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "z"),
        values=kinds,
        aliases={"z": "y"},
        steps=(region("x", "y", ("x", "y", 0.5, 2 * N)),),
    )
    session = session_of(plan)
    assert session._direct
    np.testing.assert_array_equal(session.run({"x": data(8)})["z"], flip(data(8), 0.5).reshape(4, 2))


def test_the_call_costs_little() -> None:
    """Not a timing test: the common case makes one foreign call and binds nothing anew."""
    session = session_of(plan_of(Chain(2, N)))
    x = {"x": data(10)}
    session.run(x)
    binding = next(iter(session._steps._bindings.values()))
    calls: list[int] = []
    real = binding.driver.run
    session._fast = __import__("fusec.runtime.session", fromlist=["_fast_path"])._fast_path(
        session.plan, session._shapes, lambda a: calls.append(a) or real(a)
    )
    for _ in range(5):
        session.run(x)
    assert len(calls) == 5 and len(set(calls)) == 1


# --- step by step --------------------------------------------------------------------------------------------------


def test_host_steps_and_symbols_that_they_bind() -> None:
    kinds = types(x="f32[N]", p="f32[N]", mask="bool[N]", zero="f32[]", kept="f32[K]", y="f32[K]")
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "y", "p"),
        values=kinds,
        weights={
            ("zero", ""): PlanWeight(Value("zero", kinds["zero"]), Layout.row_major(0), np.float32(0).reshape(()), "")
        },
        steps=(
            region("x", "p", ("x", "p", 0.5, N)),
            opaque("Greater", kinds, ["p", "zero"], ["mask"]),
            opaque("Compress", kinds, ["p", "mask"], ["kept"], axis=0),
            region("kept", "y", ("kept", "y", 2.0, K)),
        ),
    )
    session = session_of(plan)
    for n in (30, 30, 7, 0):
        x = data(n, n)
        p = flip(x, 0.5)
        out = session.run({"x": x})
        np.testing.assert_array_equal(out["p"], p)
        np.testing.assert_array_equal(out["y"], flip(p[p > 0], 2.0))
        assert list(session.run({"x": x}, ["y"])) == ["y"]


def test_aliases_between_steps() -> None:
    kinds = types(x="f32[N, 2]", flat="f32[2*N]", y="f32[2*N]", wide="f32[2, N]", t="f32[N, 2]")
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "wide", "t", "y"),
        values=kinds,
        aliases={"flat": "x", "wide": "y"},
        steps=(
            region("flat", "y", ("flat", "y", 0.5, 2 * N)),
            opaque("Transpose", kinds, ["wide"], ["t"], perm=[1, 0]),
        ),
    )
    session = session_of(plan)
    x = data(12).reshape(6, 2)
    wide, t, y = session.run_list({"x": x})
    expected = flip(x.ravel(), 0.5)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(wide, expected.reshape(2, 6))
    np.testing.assert_array_equal(t, expected.reshape(2, 6).T)
    assert not any(np.shares_memory(a, b) for a, b in ((wide, y), (wide, t), (t, y)))
    assert all(a.flags.c_contiguous for a in (wide, t, y))


def test_outputs_that_are_inputs_or_weights_are_copies() -> None:
    kinds = types(x="f32[N]", w="f32[3]", y="f32[N]", r="f32[1, N]")
    stored = np.arange(3, dtype=np.float32)
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "x", "w", "r"),
        values=kinds,
        aliases={"r": "x"},
        weights={("w", ""): PlanWeight(Value("w", kinds["w"]), Layout.row_major(1), stored, "")},
        steps=(),
    )
    session = session_of(plan)
    x = data(4)
    out = session.run({"x": x})
    np.testing.assert_array_equal(out["x"], x)
    np.testing.assert_array_equal(out["r"], x[None])
    out["w"][:] = 7
    np.testing.assert_array_equal(session.run({"x": x})["w"], [0, 1, 2])
    assert not np.shares_memory(out["x"], x) and not np.shares_memory(out["r"], x)


def test_weights_reach_kernels_and_need_no_alignment() -> None:
    kinds = types(w="f32[33]", x="f32[N]", y="f32[33]")
    raw = np.zeros(33 * 4 + 4, np.uint8)[4:].view(np.float32)
    raw[:] = data(33)
    plan = plan_of(
        Chain(1, 33),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "y"),
        values=kinds,
        weights={("w", ""): PlanWeight(Value("w", kinds["w"]), Layout.row_major(1), raw, "")},
        steps=(region("", "y", ("w", "y", 0.5, 33)),),
    )
    session = session_of(plan)
    for n in (1, 2):
        np.testing.assert_array_equal(session.run({"x": data(n)})["y"], flip(raw, 0.5))


def test_sequences_pass_between_host_steps() -> None:
    kinds = types(x="f32[N]", y="f32[N]", z="f32[2*N]")
    kinds["s"] = SequenceType(TensorType(DType.F32, None))
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "s", "z"),
        values=kinds,
        steps=(
            region("x", "y", ("x", "y", 0.5, N)),
            opaque("SequenceConstruct", kinds, ["x", "y"], ["s"]),
            opaque("ConcatFromSequence", kinds, ["s"], ["z"], axis=0),
        ),
    )
    x = data(5)
    out = session_of(plan).run({"x": x})
    assert isinstance(out["s"], list) and len(out["s"]) == 2
    np.testing.assert_array_equal(out["z"], np.concatenate([x, flip(x, 0.5)]))


def test_an_optional_output_that_nobody_asked_for() -> None:
    kinds = types(x="f32[N]", y="f32[N]", unused="bool[N]")
    step = opaque("Dropout", kinds, ["x"], ["y", "unused"])
    proto = onnx.helper.make_node("Dropout", ["x"], ["y", ""])
    attrs = tuple((k, proto.SerializeToString() if k == "proto" else v) for k, v in step.node.attrs)
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "y"),
        values=kinds,
        steps=(HostStep(replace(step.node, attrs=attrs)),),
    )
    np.testing.assert_array_equal(session_of(plan).run({"x": data(4)})["y"], data(4))


@pytest.mark.parametrize(("declared", "words"), [("f32[N, K]", "expected float32"), ("f32[3]", "dimension 0 is 5")])
def test_a_host_step_that_breaks_its_promise_is_named(declared: str, words: str) -> None:
    kinds = types(x="f32[N]", y=declared)
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "y"),
        values=kinds,
        steps=(opaque("Abs", kinds, ["x"], ["y"]),),
    )
    with pytest.raises(ExecutionError, match=f"/abs.*{words}") as e:
        session_of(plan).run({"x": data(5)})
    assert e.value.node == "/abs"


def test_a_symbol_that_nothing_determines() -> None:
    kinds = types(x="f32[N]", y="f32[K]")
    plan = plan_of(
        Chain(1, N),
        inputs=values(kinds, "x"),
        outputs=values(kinds, "y"),
        values=kinds,
        steps=(region("x", "y", ("x", "y", 0.5, K)),),
    )
    with pytest.raises(InputError, match="dimension 'K' is not determined"):
        session_of(plan).run({"x": data(5)})


# --- failures and bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_reports_a_failure_is_named_and_the_next_run_is_clean(threads: int) -> None:
    chain = Chain(3, N, (1.0,))
    session = session_of(plan_of(chain), threads)
    good = data(100)
    bad = good.copy()
    bad[13] = BAD
    for _ in range(3):
        np.testing.assert_array_equal(session.run({"x": good})["y"], chain.expected(good))
        with pytest.raises(ExecutionError, match=r"/c\d: index \d+ is out of range") as e:
            session.run({"x": bad})
        assert e.value.node in ("/c0", "/c1", "/c2") and e.value.exit_code == 7


def test_memory_is_predicted_before_anything_is_done() -> None:
    session = session_of(plan_of(Chain(3, N)), limits=Limits(memory=1 << 20))
    x = np.broadcast_to(np.float32(1), (300_000,))
    with pytest.raises(ResourceError, match=r"N=300000.*1\.1 MiB|N=300000.*MiB.*limit is 1\.0 MiB"):
        session.run({"x": x})
    assert len(session._steps._bindings) == 0
    assert session.run({"x": data(100)})["y"].shape == (100,)


def test_bindings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "BINDINGS", 4)
    chain = Chain(2, N)
    session = session_of(plan_of(chain))
    for n in range(1, 30):
        for m in (n, 1):
            np.testing.assert_array_equal(session.run({"x": data(m)})["y"], chain.expected(data(m)))
        assert len(session._steps._bindings) <= 4 and len(session._shapes) <= 4
    assert (0, (29,)) in session._steps._bindings


def test_a_big_binding_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "BINDING_BYTES", 1 << 20)
    session = session_of(plan_of(Chain(3, N), 1 << 12))
    session.run({"x": data(500_000)})
    frame = weakref.ref(session._steps.binding(0, {"N": 500_000}).idle[-1])
    session.run({"x": data(10)})
    session.run({"x": data(11)})
    gc.collect()
    assert frame() is None


def test_a_target_of_another_machine_is_refused() -> None:
    other = next((t for t in ("neon", "avx512", "generic") if not runs_here(t)), None)
    if other is None:
        pytest.skip("this machine runs every level")
    with pytest.raises(ExecutionError, match=f"cannot run code for cpu:{other}"):
        session_of(plan_of(Chain(1, N), target=Target("cpu", other)))
    with pytest.raises(UsageError, match="threads"):
        session_of(plan_of(Chain(1, N)), 0)


def test_new_shapes_from_many_threads_at_once() -> None:
    chain = Chain(3, N)
    session = session_of(plan_of(chain), 2)
    wrong: list[object] = []

    def caller(seed: int) -> None:
        for n in range(1, 40):
            x = data(n, seed)
            if not np.array_equal(session.run({"x": x})["y"], chain.expected(x)):
                wrong.append((seed, n))

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_sessions_are_collected() -> None:
    session = session_of(plan_of(Chain(2, N)))
    session.run({"x": data(5)})
    ref = weakref.ref(session)
    del session
    gc.collect()
    assert ref() is None


def test_running_a_plan_imports_no_compiler_stage() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import numpy as np
from fake_plan import plan_of, session_of
from fake_region import Chain
from fusec.ir.dim import symbol
s = session_of(plan_of(Chain(2, symbol("N"))), 2)
s.run({{"x": np.ones(5, np.float32)}})
before = set(sys.modules)
s.run({{"x": np.ones(5, np.float32)}})
s.run({{"x": np.ones(99, np.float32)}})
print(sorted(set(sys.modules) - before))
print([m for m in sys.modules if m.split(".")[0] in ("onnx", "numba")
       or m.startswith(("fusec.frontend", "fusec.passes", "fusec.rewrite", "fusec.lower", "fusec.host"))
       or m == "fusec.kernels.cpu.emit"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stdout + done.stderr
