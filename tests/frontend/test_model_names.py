"""Names in a model are data: they choose no path, reach no terminal and run nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, info, model, relu_model

from fusec.errors import FusecError, ModelError, UnsupportedError
from fusec.frontend.read import read_model

NASTY = [
    '"); import os; os.system("touch pwned") #',
    "a\nb",
    "../../etc/passwd",
    "x" * 100_000,
    "lambda",
    "{0}%s%n",
    "\x1b[31mred\x1b]0;title\x07",
    "[/bold][red]",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_nasty_names_pass_through_as_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Relu", [name], [name + "h"], name=name),
        helper.make_node("Neg", [name + "h"], ["y"], doc_string=name),
    ]
    g = read_model(model(nodes, [info(name, (name, 3))], [info("y")]))
    assert g.inputs[0].name == name
    assert all(s.isidentifier() for d in g.inputs[0].shape if not isinstance(d, int) for s in d.symbols)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_errors_strip_control_characters(name: str) -> None:
    bad = helper.make_node("MatMul", ["a", "b"], ["y"], name=name)
    error = fails(ModelError, model([bad], [info("a", (2, 3)), info("b", (4, 5))]))
    assert len(str(error)) < 2000
    unknown = helper.make_node(name, ["a"], ["y"], name=name)
    fails(UnsupportedError, model([unknown], [info("a")]))
    fails(ModelError, model([helper.make_node("Relu", [name], ["y"])], [info("a")]))


def test_text_that_is_not_utf8() -> None:
    data = relu_model().SerializeToString().replace(b"Relu", b"R\xff\xfeu")
    with pytest.raises(FusecError):
        read_model(data)
