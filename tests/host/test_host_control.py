"""Branches and loops of host steps, where the onnx package's evaluator stops short."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper

from fusec.frontend.read import read_model
from fusec.host.run import run_host


def typed(name: str, shape: tuple[int, ...] = (2,), dtype: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, dtype, shape)


def running_sum() -> GraphProto:
    """s, x -> s + x, s + x."""
    steps = [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Identity", ["t"], ["u"])]
    return helper.make_graph(steps, "b", [typed("s"), typed("x")], [typed("t"), typed("u")])


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_along_an_axis_in_a_direction(backwards: int) -> None:
    n = helper.make_node(
        "Scan", ["s0", "xs"], ["last", "all"], body=running_sum(), num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[backwards], scan_output_axes=[-1], scan_output_directions=[backwards],
    )  # fmt: skip
    outs = [typed("last"), typed("all", (2, 3))]
    graph = helper.make_graph([n], "g", [typed("s0"), typed("xs", (2, 3))], outs)
    (node,) = read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).nodes
    xs = np.arange(6, dtype=np.float32).reshape(2, 3)
    last, every = run_host(node, [np.ones(2, np.float32), xs])
    step = -1 if backwards else 1
    np.testing.assert_array_equal(every, 1 + np.cumsum(xs[:, ::step], axis=1)[:, ::step])
    np.testing.assert_array_equal(last, 1 + xs.sum(axis=1))


def test_scan_of_a_batch_with_lengths() -> None:
    n = helper.make_node("Scan", ["n", "s0", "xs"], ["last", "all"], body=running_sum(), num_scan_inputs=1)
    ins = [typed("n", (2,), TensorProto.INT64), typed("s0", (2, 2)), typed("xs", (2, 3, 2))]
    graph = helper.make_graph([n], "g", ins, [typed("last", (2, 2)), typed("all", (2, 3, 2))])
    (node,) = read_model(helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 8)])).nodes
    xs = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    last, every = run_host(node, [np.array([3, 2]), np.zeros((2, 2), np.float32), xs])
    want = np.cumsum(xs, axis=1)
    want[1, 2] = 0
    np.testing.assert_array_equal(every, want)
    np.testing.assert_array_equal(last, [want[0, 2], want[1, 1]])


@pytest.mark.parametrize("there", [True, False])
def test_a_branch_may_give_an_empty_optional(there: bool) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    empty = helper.make_node("Optional", [], ["o"], type=kind)
    full = helper.make_node("Optional", ["x"], ["o"])
    out = helper.make_value_info("o", helper.make_optional_type_proto(kind))
    branches = {f"{w}_branch": helper.make_graph([n], w, [], [out]) for w, n in (("then", full), ("else", empty))}
    n = helper.make_node("If", ["c"], ["o2"], **branches)
    result = helper.make_value_info("o2", helper.make_optional_type_proto(kind))
    graph = helper.make_graph([n], "g", [typed("c", (), TensorProto.BOOL), typed("x")], [result])
    (node,) = read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).nodes
    x = np.ones(2, np.float32)
    (made,) = run_host(node, [np.array(there), x])
    assert (made is None) is not there
    if there:
        np.testing.assert_array_equal(np.asarray(made), x)
