"""bench.nodes: its models are valid ONNX, its table is one, and a wrong result ends it."""

import numpy as np
import onnx
import pytest

from bench import nodes
from bench.node_cases import FAMILIES, Node

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_valid_and_named_apart(family: str) -> None:
    cases = list(FAMILIES[family]())
    assert len({c.name for c in cases}) == len(cases)
    for case in cases:
        onnx.checker.check_model(onnx.load_model_from_string(case.model()[0]), full_check=True)


def test_a_table_of_one_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nodes", "orders", "--only", "Hardmax", "--rounds", "3"])
    nodes.main()
    table = capsys.readouterr().out
    assert "Hardmax 256x512" in table and "over 1" in table


def test_a_wrong_result_ends_it() -> None:
    case = Node("n", "Relu", (np.zeros(2, np.float32),))
    good, bad = np.zeros(2, np.float32), np.array([0, np.nan], np.float32)
    nodes.check(case, ["y"], [good], [good])
    for wrong in (bad, good + 1, np.zeros(3, np.float32), np.zeros(2, np.float64)):
        with pytest.raises(SystemExit, match="n: y"):
            nodes.check(case, ["y"], [wrong], [good])
