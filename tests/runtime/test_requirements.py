"""Sizes that a model cannot run with are refused by name when they are known: windows larger than what they slide over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "frontend"))
from onnx_models import info, init, model, node

import fusec
from fusec.api import Options, compile_plan, new_trace
from fusec.cli.summary import describe_plan
from fusec.errors import FusecError, InputError
from fusec.frontend.read import read_model
from fusec.ir.reference import run_reference
from fusec.kernels.cuda.machine import compiler
from fusec.measure.feeds import choose_sizes

R = np.random.default_rng(0)


def pooled(stride: int = 2) -> onnx.ModelProto:
    """Two windows after each other, then a mean, which would be NaN of nothing."""
    nodes = [
        node("Conv", "x w", "a", name="conv", strides=[stride, stride]),
        node("MaxPool", "a", "b", name="pool", kernel_shape=[3, 2], strides=[2, 2]),
        node("GlobalAveragePool", "b", "y"),
    ]
    w = R.standard_normal((4, 3, 3, 3)).astype(np.float32)
    return model(nodes, [info("x", ("N", 3, "H", "W"))], [onnx.ValueInfoProto(name="y")], [init("w", w)])


def image(h: int, w: int) -> dict[str, Any]:
    return {"x": R.standard_normal((2, 3, h, w)).astype(np.float32)}


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("saved", [True, False])
def test_small_images_are_refused_by_node_and_attribute(tmp_path: Path, fuse: bool, saved: bool) -> None:
    session = fusec.compile(pooled(), fuse=fuse, threads=1)
    if saved:
        session.save(tmp_path / "m.fplan")
        session = fusec.load(tmp_path / "m.fplan", threads=1)
    words = r"MaxPool 'pool': kernel_shape \[3, 2\] reaches over 3 elements, the padded input has 2; with H=6; .* is 7"
    for _ in range(2):  # also when these sizes come again
        with pytest.raises(InputError, match=words) as e:
            session.run(image(6, 9))
        assert e.value.node == "pool"
    for h, w in ((0, 9), (1, 9), (7, 4), (2, 2)):
        with pytest.raises(InputError, match="kernel_shape"):
            session.run(image(h, w))
    for h, w in ((7, 5), (8, 6), (30, 31)):
        assert np.isfinite(session.run(image(h, w))["y"]).all()


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to emulate a device with")
def test_a_device_refuses_them_too() -> None:
    m = pooled()
    session = fusec.compile(m, device="cuda:sm_80-emulated")
    with pytest.raises(InputError, match="kernel_shape"):
        session.run(image(6, 9))
    x = image(8, 9)
    np.testing.assert_allclose(session.run(x)["y"], fusec.compile(m, threads=1).run(x)["y"], atol=1e-5)


def test_the_reference_refuses_them_too() -> None:
    graph = read_model(pooled())
    with pytest.raises(InputError, match="kernel_shape"):
        run_reference(graph, image(6, 9))
    assert np.isfinite(run_reference(graph, image(7, 9))["y"]).all()


def test_requirements_of_fixed_sizes_are_errors_of_the_model() -> None:
    assert read_model(pooled(), dims={"H": 7, "W": 5}).requirements == ()
    with pytest.raises(FusecError, match="MaxPool 'pool': kernel_shape"):
        read_model(pooled(), dims={"H": 6})


def test_sizes_that_only_a_host_step_tells() -> None:
    """How many values are unique is known when they are: the windows are judged then."""
    nodes = [
        node("Unique", "x", "u"),
        node("Unsqueeze", "u axes", "v"),
        node("AveragePool", "v", "y", name="pool", kernel_shape=[4]),
    ]
    m = model(nodes, [info("x", ("N",))], [onnx.ValueInfoProto(name="y")], [init("axes", np.array([0, 1]))])
    session = fusec.compile(m, threads=1)
    few, many = np.array([1, 2, 3, 3, 2], np.float32), np.array([1, 2, 3, 4, 5], np.float32)
    np.testing.assert_allclose(session.run({"x": many})["y"], [[[2.5, 3.5]]])
    with pytest.raises(InputError, match=r"pool.*reaches over 4 elements, the padded input has 3"):
        session.run({"x": few})
    np.testing.assert_allclose(session.run({"x": many})["y"], [[[2.5, 3.5]]])


def test_the_body_of_a_loop_that_makes_its_input_smaller() -> None:
    """Each turn takes away three elements: as many turns as there are windows for run, one more is refused."""
    body = onnx.helper.make_graph(
        [
            node("AveragePool", "c", "p", name="pool", kernel_shape=[4]),
            node("GlobalAveragePool", "p", "m", name="mean"),
            node("Identity", "go", "on"),
        ],
        "body",
        [info("i", (), 7), info("go", (), 9), info("c", (1, 1, None))],
        [info("on", (), 9), info("p", (1, 1, None)), info("m", None)],
    )
    m = model(
        [node("Loop", "k - x", "y ms", name="loop", body=body)],
        [info("k", (), 7), info("x", (1, 1, "N"))],
        [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="ms")],
    )
    session = fusec.compile(m, threads=1)
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 9)
    for _ in range(2):
        np.testing.assert_allclose(session.run({"k": np.array(2), "x": x})["y"], [[[3, 4, 5]]])
        with pytest.raises(
            FusecError, match=r"loop.*kernel_shape \[4\] reaches over 4 elements, the padded input has 3"
        ):
            session.run({"k": np.array(3), "x": x})


def test_sizes_that_nobody_gave_meet_them() -> None:
    needed = read_model(pooled()).requirements
    assert choose_sizes(["N", "H", "W"], needed) == {"N": 1, "H": 7, "W": 5}
    told = describe_plan(compile_plan(pooled(), Options(), new_trace()))
    assert "  sizes  H >= 7, W >= 5" in told
    assert choose_sizes(["N", "W"], needed, {"H": 20}) == {"N": 1, "W": 5}
    assert choose_sizes(["N", "H"], needed, {"W": 1}) == {"N": 1, "H": 7}  # nothing helps; the run says so


def test_sizes_that_nobody_gave_let_parts_meet() -> None:
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[4, 4], strides=[4, 4]),
        node("Resize", "p - s", "u", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", "u x", "y", name="add"),
    ]
    m = model(nodes, [info("x", (1, 3, "H", "W"))], inits=[init("s", np.array([1, 1, 4, 4], np.float32))])
    sizes = choose_sizes(["H", "W"], read_model(m).requirements)
    assert sizes["H"] % 4 == sizes["W"] % 4 == 0
    session = fusec.compile(m, threads=1)
    (told,) = [line for line in describe_plan(session.plan) if "sizes" in line]
    assert told == "  sizes  H >= 4, W >= 4, 2 other conditions (see --nodes), as met by H=4, W=4"
    with pytest.raises(InputError, match=r"Add 'add': the sizes .* must be the same, and differ by .*H=6; .* is 8"):
        session.run({"x": np.zeros((1, 3, 6, 8), np.float32)})
