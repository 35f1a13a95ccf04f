"""Hostile and broken files through the command line: one of each kind, its exit code, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import run_here, run_process

import fusec
from bench.models.architectures import mlp
from fusec.plan.file import save

NASTY = '\x1b[31m[/]"); import os; os.system("touch pwned") #'


def model(*nodes: onnx.NodeProto, inputs: list | None = None, initializer: tuple = (), functions: tuple = ()) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", inputs or [x], [y], list(initializer))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1), helper.make_opsetid("other", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    return made.SerializeToString()


def node(op: str, *inputs: str, out: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [out], **attributes)


def plain() -> bytes:
    return model(node("Relu", "x"))


def external(location: str) -> bytes:
    w = TensorProto(name="w", data_type=1, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=location)
    return model(node("Add", "x", "w"), initializer=(w,))


def short_data() -> bytes:
    return model(
        node("Add", "x", "w"), initializer=(TensorProto(name="w", data_type=1, dims=[2, 3], raw_data=b"1234"),)
    )


def bomb() -> bytes:
    """Functions that call the one before twice, 30 deep."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = [helper.make_function("f", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], imports)]
    for i in range(1, 30):
        calls = [
            helper.make_node(f"F{i - 1}", ["a"], ["m"], domain="f"),
            helper.make_node(f"F{i - 1}", ["m"], ["b"], domain="f"),
        ]
        made.append(helper.make_function("f", f"F{i}", ["a"], ["b"], calls, imports))
    return model(node("F29", "x", domain="f"), functions=tuple(made))


def huge() -> bytes:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    return model(node("ConstantOfShape", "s", out="c"), node("ReduceSum", "c"), initializer=(shape,))


FAULTS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(64), 3, "png"),
    "truncated": (lambda: plain()[:-7], 3, ""),
    "cycle": (lambda: model(node("Add", "x", "b", out="a"), node("Relu", "a", out="b"), node("Relu", "b")), 3, "cycle"),
    "dangling": (lambda: model(node("Add", "x", "nowhere")), 3, "nowhere"),
    "contradiction": (lambda: model(node("MatMul", "x", "x")), 3, "[2, 3]"),
    "unknown op": (lambda: model(node("Frobnicate", "x", domain="other")), 4, "Frobnicate"),
    "short data": (short_data, 3, "'w'"),
    "outside": (lambda: external("../secret.bin"), 3, "secret.bin"),
    "absolute": (lambda: external("/etc/hostname"), 3, "hostname"),
    "function bomb": (bomb, 9, "nodes"),
    "huge": (huge, 9, "TiB"),
    "nasty op": (lambda: model(node(NASTY, "x", domain="other")), 4, ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_broken_models(name: str, tmp_path: Path) -> None:
    build, code, words = FAULTS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    (folder / "m.onnx").write_bytes(build())
    result = run_here(folder, "inspect", "m.onnx")
    assert result.returncode == code, result.stdout + result.stderr
    assert words.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert sorted(os.listdir(tmp_path)) == ["folder", "secret.bin"]
    assert os.listdir(folder) == ["m.onnx"]


def test_nasty_names_are_only_data(tmp_path: Path) -> None:
    """Names that are code, markup and terminal commands: shown cleaned, never executed, never a path."""
    x = helper.make_tensor_value_info(NASTY, TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("../../" + NASTY, TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("Relu", [NASTY], [y.name], name=NASTY)], NASTY, [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    for arguments in (("inspect", "m.onnx", "--kernels"), ("explain", "m.onnx"), ("run", "m.onnx", "-o", "out")):
        result = run_process(tmp_path, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "\x1b" not in result.stdout + result.stderr
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "out"]
    (file,) = (tmp_path / "out").iterdir()
    assert np.load(file, allow_pickle=False).shape == (2, 3)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "m.fplan"
    save(fusec.compile(mlp([8, 16, 4], dynamic=True).model(), threads=1).plan, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "m.fplan", "-i", "x=@object.npy"), 5, "x"),
        (("run", "m.fplan", "-i", "x=@strings.npy"), 5, "x"),
        (("run", "m.fplan", "-i", "x=@rank.npy"), 5, "dimensions"),
        (("run", "m.fplan", "--dim", "batch=100000000", "--max-memory", "100MiB"), 9, "MiB"),
        (("run", "flipped.fplan"), 8, "damaged"),
        (("run", "cut.fplan"), 8, "truncated"),
        (("inspect", "flipped.fplan"), 8, "damaged"),
    ],
    ids=lambda p: " ".join(p) if isinstance(p, tuple) else None,
)
def test_runs_and_plans(plan: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    data = plan.read_bytes()
    (tmp_path / "m.fplan").write_bytes(data)
    (tmp_path / "cut.fplan").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.fplan").write_bytes(data[:-3000] + bytes([data[-3000] ^ 4]) + data[-2999:])
    np.save(tmp_path / "object.npy", np.array([{}, "a"], object), allow_pickle=True)
    np.save(tmp_path / "strings.npy", np.array(["a", "b"]))
    np.save(tmp_path / "rank.npy", np.zeros((2, 3, 8), np.float32))
    before = sorted(os.listdir(tmp_path))
    result = run_here(tmp_path, *arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert words.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_errors_are_json_where_json_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run_here(tmp_path, "inspect", "m.onnx", "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["error"]
