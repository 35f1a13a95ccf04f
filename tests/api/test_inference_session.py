"""Programs that were written for onnxruntime: the same calls on both, and a clear word where fusec has no counterpart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fusec
from fusec.errors import UsageError

ort = pytest.importorskip("onnxruntime")
CPU = ["CPUExecutionProvider"]


def described() -> onnx.ModelProto:
    """A model that says everything about itself that a model can say."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    z = helper.make_tensor_value_info("z", TensorProto.BOOL, ["N", 3])
    w = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=1), helper.make_node("Greater", ["x", "zero"], ["z"])]
    graph = helper.make_graph(nodes, "a graph", [x, i], [y, z], [w], doc_string="about the graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="a maker")
    model.doc_string, model.domain, model.model_version = "about the model\nin two lines", "org.example", 7
    helper.set_model_props(model, {"names": "{0: 'cat'}", "leer": "", "ä": "\x1b[31m"})
    return model


@pytest.fixture(scope="module")
def both() -> list[Any]:
    data = described().SerializeToString()
    return [fusec.InferenceSession(data, providers=CPU), ort.InferenceSession(data, providers=CPU)]


META = ("producer_name", "graph_name", "domain", "description", "graph_description", "version", "custom_metadata_map")


def test_both_say_the_same(both: list[Any]) -> None:
    ours, theirs = ([getattr(s.get_modelmeta(), name) for name in META] for s in both)
    assert ours == theirs
    for which in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        ours, theirs = ([(v.name, v.shape, v.type) for v in getattr(s, which)()] for s in both)
        assert ours == theirs
    ours, theirs = (s.get_providers() for s in both)
    assert ours == theirs
    assert both[0].get_provider_options().keys() == both[1].get_provider_options().keys()


@pytest.mark.parametrize("names", [None, [], ["z"], ["z", "y"], ("y", "z")])
@pytest.mark.parametrize("run_options", [None, ort.RunOptions(), fusec.RunOptions()], ids=["none", "theirs", "ours"])
def test_both_compute_the_same(both: list[Any], names: Any, run_options: Any) -> None:
    feeds = {"x": np.arange(-3, 3, dtype=np.float32).reshape(2, 3), "i": np.array([2, 0])}
    ours = both[0].run(names, feeds, run_options)
    theirs = both[1].run(names, feeds)
    assert isinstance(ours, list)
    assert [(a.dtype, a.tolist()) for a in ours] == [(a.dtype, a.tolist()) for a in theirs]


def test_a_plan_keeps_what_the_model_says(both: list[Any], tmp_path: Path) -> None:
    both[0].session.save(tmp_path / "m.fplan")
    session = fusec.InferenceSession(str(tmp_path / "m.fplan"))
    assert session.get_modelmeta() == both[0].get_modelmeta()
    assert session.get_session_options() == fusec.SessionOptions()


def test_options_mean_what_they_say() -> None:
    options = fusec.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = fusec.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_free_dimension_override_by_name("N", 5)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = fusec.InferenceSession(described().SerializeToString(), options)
    assert session.session.threads == 1
    assert session.get_inputs()[0].shape == [5, 3]
    assert session.get_session_options() is options
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(UsageError, match=r"session\.x"):
        options.get_session_config_entry("session.x")
    with pytest.raises(AttributeError):
        options.intra_op_threads = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "value"), [("enable_profiling", True), ("optimized_model_filepath", "a.onnx")])
def test_options_without_effect_are_named(name: str, value: Any) -> None:
    options = fusec.SessionOptions(**{name: value})
    with pytest.warns(UserWarning, match="fusec writes no"):
        fusec.InferenceSession(described().SerializeToString(), options)
    with pytest.warns(UserWarning, match=r"session\.x"):
        options.add_session_config_entry("session.x", "1")
    with pytest.warns(UserWarning, match=r"memory\.x"):
        fusec.RunOptions().add_run_config_entry("memory.x", "1")


def test_what_is_absent_is_refused(both: list[Any]) -> None:
    session, data = both[0], described().SerializeToString()
    with pytest.raises(UsageError, match=r"run\(None, feeds\)"):
        session.io_binding()
    with pytest.raises(AttributeError, match="nonsense"):
        session.nonsense()
    with pytest.raises(UsageError, match="terminate"):
        session.run(None, {}, fusec.RunOptions(terminate=True))
    with pytest.raises(UsageError, match="CUDAExecutionProvider"):
        fusec.InferenceSession(data, providers=["CUDAExecutionProvider"])
    with pytest.raises(UsageError, match="provider_options"):
        fusec.InferenceSession(data, None, CPU, [{"arena": "1"}])
    with pytest.raises(UsageError, match=r"fusec\.SessionOptions"):
        fusec.InferenceSession(data, ort.SessionOptions())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="elementwise"):
        fusec.SessionOptions().register_custom_ops_library("ops.so")
