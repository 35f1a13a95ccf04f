"""Functions that users bring: traced ones are fused with their neighbours, the others run compiled as host steps."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusec
from fusec.errors import CompileError, ModelError, UnsupportedError, UsageError
from fusec.ops import custom
from fusec.ops.custom import Elementwise
from fusec.plan.file import load, save
from fusec.plan.plan import HostStep, RegionStep

KINDS = {"f4": TensorProto.FLOAT, "f8": TensorProto.DOUBLE, "f2": TensorProto.FLOAT16, "i4": TensorProto.INT32}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Whatever a test declares is gone after it."""
    before = dict(custom._functions)
    yield
    custom._functions.clear()
    custom._functions.update(before)


def model(*ops: tuple[Any, ...], kind: str = "f4", shapes: dict[str, list[Any]] | None = None) -> onnx.ModelProto:
    """Nodes as (op, inputs, output, attributes); capital names with a dot in front are of the domain `custom`."""
    nodes = []
    for op, ins, out, *attrs in ops:
        domain = "custom" if op[0] == "." else ""
        nodes.append(helper.make_node(op.lstrip("."), ins.split(), [out], domain=domain, **(attrs[0] if attrs else {})))
    shapes = shapes or {"x": ["N", 5]}
    inputs = [helper.make_tensor_value_info(n, KINDS[kind], s) for n, s in shapes.items()]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], KINDS[kind], None)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=9)


def run(m: onnx.ModelProto, **feeds: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    (out,) = fusec.compile(m, threads=1).run(feeds).values()
    return out  # type: ignore[no-any-return]


def by_hand(function: Any, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the plain Python function gives, element by element, in float64."""
    wide = [a.astype(np.float64) for a in arrays]
    return np.vectorize(lambda *xs: float(function(*map(float, xs))), otypes=["f8"])(*wide)


def data(*shape: int, kind: str = "f4", seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).normal(size=shape) * 3).astype(kind)


def helper_of_one(x: Any) -> Any:
    return math.tanh(x) + 1


def softsign(x: Any) -> Any:
    return fusec.where(x > 0, x / (1 + x), x / (1 - x))


def many_words(x: Any, y: Any) -> Any:
    a = math.exp(-abs(x)) + math.log(1 + y * y) - math.sqrt(x**2 + 0.5) + math.erf(y)
    b = math.sin(x) * math.cos(y) + math.pow(abs(x) + 1, 0.3) + math.floor(y) - math.ceil(x) + pow(2, x)
    return min(a, b, 3.0) + max(0, -b) + (x > y) * 2 + x % 2.5 - x // 2 + (-x) ** 3 + helper_of_one(x) + round(y)


def with_numpy(x: Any, y: Any) -> Any:
    z = np.where((x < y) & ~(x > 1), np.exp(x), np.arctan(y)) + np.minimum(x, 2) * np.float64(0.5)
    return np.clip(z, -1.5, np.maximum(y, 0)) + np.square(np.tanh(z)) - math.pi


def halley(x: Any, steps: int = 3) -> Any:
    root = 1.0
    for _ in range(steps):
        root = root * 0.5 + 0.5 * abs(x) / root
    return root


def with_branches(x: Any, y: Any) -> Any:
    """Early returns, `elif`, `and`, `or`, a chained comparison, a conditional expression, `not`, and a float as a condition."""
    if x > y and y > 0:
        return x * 2
    if 0 < x < 1 or y < -1:
        return math.exp(y) if y < 0 else y
    elif not x > -2:
        return x - y
    return 3 if y else 4


def early_end(x: Any) -> Any:
    """Newton's method, which stops when it is near enough."""
    root = 1.0
    for _ in range(4):
        following = 0.5 * (root + abs(x) / root)
        if abs(following - root) < 1e-2:
            break
        root = following
    return root


def calls_one_with_branches(x: Any) -> Any:
    return gate(abs(x)) + sorted([x, 1.0, 0.5])[1]


TRACEABLE = {"softsign": (softsign, 1), "words": (many_words, 2), "numpy": (with_numpy, 2), "loop": (halley, 1),
             "branches": (with_branches, 2), "break": (early_end, 1), "calls": (calls_one_with_branches, 1)}  # fmt: skip


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("name", TRACEABLE)
def test_traced_functions_agree_with_python(name: str, kind: str) -> None:
    function, count = TRACEABLE[name]
    made = fusec.elementwise(function, name="Mine")
    assert made.why is None
    arrays = [data(7, 5, kind=kind, seed=i) for i in range(count)]
    m = model((".Mine", " ".join("xy"[:count]), "z"), kind=kind, shapes={n: ["N", 5] for n in "xy"[:count]})
    got = run(m, **dict(zip("xy", arrays)))
    assert got.dtype == arrays[0].dtype
    np.testing.assert_allclose(got, by_hand(function, *arrays), rtol=1e-4 if kind == "f4" else 1e-12, atol=1e-5)


def test_it_is_still_the_function() -> None:
    assert fusec.elementwise(softsign, name="Mine")(-3.0) == -0.75
    assert fusec.where(True, 1.0, 2.0) == 1.0
    assert fusec.where(np.float64(0.0), 1.0, 2.0) == 2.0
    assert fusec.where(np.array([True, False]), 1.0, 2.0).tolist() == [1.0, 2.0]


def test_one_declared_function_may_call_another() -> None:
    inner = fusec.elementwise(lambda x: math.exp(x) + 1, name="Inner")
    outer = fusec.elementwise(lambda x: inner(x) * 2, name="Outer")
    assert isinstance(outer, Elementwise)
    assert outer.why is None
    x = data(3, 5)
    np.testing.assert_allclose(run(model((".Outer", "x", "y")), x=x), 2 * np.exp(x) + 2, rtol=1e-5)


def test_it_is_fused_with_its_neighbours() -> None:
    fusec.elementwise(softsign, name="Softsign")
    m = model(("Add", "x x", "a"), (".Softsign", "a", "b"), ("MatMul", "b w", "c"), (".Softsign", "c", "d"), ("Relu", "d", "y"),
              shapes={"x": ["N", 5], "w": [5, 4]})  # fmt: skip
    session = fusec.compile(m, threads=1)
    (step,) = session.plan.steps
    assert isinstance(step, RegionStep)
    assert len(step.calls) == 1
    assert step.calls[0].label == "add+custom.Softsign+matmul+custom.Softsign+relu"
    x, w = data(9, 5), data(5, 4, seed=1)
    soft = lambda a: a / (1 + abs(a))  # noqa: E731
    (y,) = session.run({"x": x, "w": w}).values()
    np.testing.assert_allclose(y, np.maximum(soft(soft(x + x) @ w), 0), rtol=1e-5, atol=1e-6)
    (unfused,) = fusec.compile(m, threads=1, fuse=False).run({"x": x, "w": w}).values()
    np.testing.assert_allclose(y, unfused, rtol=1e-5, atol=1e-6)


def test_inputs_broadcast_and_attributes_are_numbers() -> None:
    @fusec.elementwise
    def Blend(x: Any, y: Any, share: float = 0.5, twice: int = 0) -> Any:
        return (x * share + y * (1 - share)) * (2 if twice else 1)

    assert isinstance(Blend, Elementwise)
    x, y = data(3, 1), data(4, seed=1)
    shapes: dict[str, list[Any]] = {"x": ["N", 1], "y": [4]}
    m = model((".Blend", "x y", "z", {"share": 0.25, "twice": 1}), shapes=shapes)
    np.testing.assert_allclose(run(m, x=x, y=y), (x * 0.25 + y * 0.75) * 2, rtol=1e-6)
    np.testing.assert_allclose(run(model((".Blend", "x y", "z"), shapes=shapes), x=x, y=y), (x + y) / 2, rtol=1e-6)
    with pytest.raises(ModelError, match=r"custom::Blend has no attribute 'shrae'.*share=0\.5"):
        fusec.compile(model((".Blend", "x y", "z", {"shrae": 0.25}), shapes=shapes))


def test_half_precision_is_computed_in_single() -> None:
    fusec.elementwise(lambda x: (x + 1000.0) - 1000.0, name="Mine")
    x = data(4, 5, kind="f2")
    got = run(model((".Mine", "x", "y"), kind="f2"), x=x)
    np.testing.assert_array_equal(got, ((x.astype("f4") + np.float32(1000)) - np.float32(1000)).astype("f2"))
    (wide,) = custom.find("custom", "Mine").op.reference([x.astype(ml_dtypes.bfloat16)], {})  # type: ignore[union-attr]
    assert wide.dtype == ml_dtypes.bfloat16


def test_a_constant_function_has_the_shape_of_its_input() -> None:
    fusec.elementwise(lambda x: 2.5, name="Mine")
    np.testing.assert_array_equal(run(model((".Mine", "x", "y")), x=data(3, 5)), np.full((3, 5), 2.5, "f4"))


# What cannot be traced


def newton(x: Any, limit: int = 20) -> Any:
    """A loop whose length depends on the value."""
    root, n = 1.0, 0
    while abs(root * root - abs(x)) > 1e-9 and n < limit:
        root = 0.5 * (root + abs(x) / root)
        n += 1
    return gate(root) if x > 0 else -root


def gate(x: Any) -> Any:
    return fusec.where(x > 1.0, x, math.sqrt(x))


@pytest.mark.parametrize("kind", ["f4", "f8", "f2"])
def test_untraceable_functions_run_compiled(kind: str) -> None:
    made = fusec.elementwise(newton, name="Newton")
    assert "more than 2000 steps" in str(made.why)
    session = fusec.compile(model(("Add", "x x", "a"), (".Newton", "a", "b"), ("Relu", "b", "y"), kind=kind), threads=1)
    host = [s.node for s in session.plan.steps if isinstance(s, HostStep)]
    assert [n.attr("function") for n in host] == [made.source]
    assert str(host[0].outputs[0].type) == f"f{8 * np.dtype(kind).itemsize}[N, 5]"
    x = data(6, 5, kind=kind)
    (y,) = session.run({"x": x}).values()
    expected = np.maximum(by_hand(newton, x + x), 0)
    np.testing.assert_allclose(y.astype("f8"), expected, rtol=2e-3 if kind == "f2" else 1e-5)


def test_untraceable_functions_broadcast_and_take_attributes() -> None:
    @fusec.elementwise(name="Repeat", domain="custom")
    def repeat(x: Any, y: Any, times: int = 2, scale: float = 1.0, flip: bool = False) -> Any:
        total = 0.0
        for _ in range(times):
            if total < y:
                total += x * scale
        return -total if flip else total

    x, y = data(3, 1), data(4, seed=1)
    assert repeat.refusal({"times": 2}) is None
    assert "more than" in str(repeat.refusal({"times": 30}))
    m = model((".Repeat", "x y", "z", {"times": 30, "scale": 0.5, "flip": 1}), shapes={"x": ["N", 1], "y": [4]})
    assert any(isinstance(s, HostStep) for s in fusec.compile(m, threads=1).plan.steps)
    np.testing.assert_allclose(run(m, x=x, y=y), by_hand(lambda a, b: repeat(a, b, 30, 0.5, True), x, y), rtol=1e-6)


def test_functions_inside_branches_run_on_the_host() -> None:
    fusec.elementwise(softsign, name="Softsign")
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])  # noqa: E731
    inner = helper.make_graph([helper.make_node("Softsign", ["x"], ["t"], domain="custom")], "then", [], [info("t")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [info("e")])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
    ]
    values = [info("x"), info("y")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    m = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=opsets, ir_version=9)
    x = data(3)
    np.testing.assert_allclose(run(m, x=x), x / (1 + abs(x)), rtol=1e-6)


# Plans


def test_a_plan_of_traced_functions_needs_nothing(tmp_path: Path) -> None:
    fusec.elementwise(softsign, name="Softsign")
    session = fusec.compile(model((".Softsign", "x", "y")), threads=1)
    x = data(3, 5)
    save(session.plan, tmp_path / "a.fplan")
    np.save(tmp_path / "x.npy", x)
    code = """
import numpy as np, fusec
(y,) = fusec.load("a.fplan").run({"x": np.load("x.npy")}).values()
np.save("y.npy", y)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)
    (y,) = session.run({"x": x}).values()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), y)


def test_a_plan_with_a_compiled_function_says_what_it_needs(tmp_path: Path) -> None:
    made = fusec.elementwise(newton, name="Newton")
    session = fusec.compile(model((".Newton", "x", "y")), threads=1)
    save(session.plan, tmp_path / "a.fplan")
    x = data(3, 5)
    (y,) = session.run({"x": x}).values()
    (again,) = fusec.load(tmp_path / "a.fplan", threads=1).run({"x": x}).values()
    np.testing.assert_array_equal(y, again)
    custom._functions.clear()
    assert load(tmp_path / "a.fplan").name == "g"  # it may be looked at
    with pytest.raises(UnsupportedError, match="custom::Newton") as caught:
        fusec.load(tmp_path / "a.fplan")
    assert made.source in str(caught.value)
    with pytest.raises(UnsupportedError, match=r"custom::Newton.*@fusec\.elementwise"):
        fusec.compile(model((".Newton", "x", "y")))


# Mistakes


def test_numbas_errors_name_function_and_line() -> None:
    @fusec.elementwise(name="Bad")
    def bad(x: Any) -> Any:
        if x > 0:
            return np.fft.fftfreq(x).bad
        return x

    with pytest.raises(CompileError, match=r"bad \(.*test_traced\.py, line \d+\) cannot be compiled") as caught:
        fusec.compile(model((".Bad", "x", "y")))
    line = bad.function.__code__.co_firstlineno + 3
    assert f"line {line}" in str(caught.value), caught.value
    assert "running it on symbols ends in" in str(caught.value.hint)


def steps_to_one(x: Any) -> Any:
    n = 0
    while x > 1:
        x, n = x / 2, n + 1
    return n


COIN = itertools.cycle([True, False])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: 1.0 if steps_to_one(x) else 0.0, "more than 32 times: a loop may never end"),
        (lambda x: sum(x > i for i in range(9) if x > i), "in more than 32 ways"),
        (lambda x: x if x > 0 else None, "NoneType"),
        (lambda x: x if next(COIN) and x > 0 else -x, "the same way each time"),
        (lambda x: math.gamma(x) + 1, "math.gamma is not among the primitives"),
        (lambda x: np.sinc(x) + 1, "numpy"),
        (lambda x: (x, x), "tuple"),
        (lambda x: [1, 2, 3][int(x)], "needs a number"),
        (lambda x: halley(x, 500), "more than 2000 steps"),
        (lambda x: 1 / 0 * x, "ZeroDivisionError"),
    ],
)
def test_why_a_function_cannot_be_traced(function: Any, words: str) -> None:
    assert words in str(fusec.elementwise(function, name="Mine").why)


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (lambda: 1.0, {"name": "F"}, "1 to 4 inputs"),
        (lambda a, b, c, d, e: a, {"name": "F"}, "1 to 4 inputs"),
        (lambda *xs: xs[0], {"name": "F"}, "1 to 4 inputs"),
        (lambda x, mode="fast": x, {"name": "F"}, "numbers as defaults"),
        (lambda x: x, {}, "'<lambda>'"),
        (lambda x: x, {"name": "F", "domain": ""}, "domain"),
        (math.exp, {"name": "F"}, None),
    ],
)
def test_declarations_that_are_refused(function: Any, options: dict[str, str], words: str | None) -> None:
    if words is None:
        assert fusec.elementwise(function, **options).why is not None
        return
    with pytest.raises(UsageError, match=words):
        fusec.elementwise(function, **options)


def test_one_name_has_one_meaning() -> None:
    first = fusec.elementwise(softsign, name="Mine")
    assert fusec.elementwise(softsign, name="Mine") is not first  # a module that is loaded again
    with pytest.raises(UsageError, match=r"custom::Mine is declared twice: by .*softsign and .*halley"):
        fusec.elementwise(halley, name="Mine")
    fusec.elementwise(softsign, name="Gelu", domain="com.microsoft")
    m = helper.make_model(
        helper.make_graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], "g",
                          [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
                          [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9)  # fmt: skip
    with pytest.raises(
        UsageError, match=r"declared as com\.microsoft::Gelu, which fusec or another package computes already"
    ):
        fusec.compile(m)


@pytest.mark.parametrize(
    ("nodes", "kind", "words"),
    [
        ((".Mine", "x x", "y"), "f4", "takes 1 inputs"),
        ((".Mine", "x", "y"), "i4", "a function of floats"),
        ((".Mine", "x", "y", {"alpha": 1.0}), "f4", "has no attribute 'alpha'"),
    ],
)
def test_models_that_use_a_function_wrongly(nodes: tuple[Any, ...], kind: str, words: str) -> None:
    fusec.elementwise(softsign, name="Mine")
    with pytest.raises(ModelError, match=words):
        fusec.compile(model(nodes, kind=kind))
