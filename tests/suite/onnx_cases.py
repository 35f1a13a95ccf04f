"""The ONNX backend test suite of the installed onnx package, as plain cases: a model, its inputs, the expected outputs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One case; `source` is onnx's own record, or the path of a light model."""

    name: str
    kind: str
    source: Any

    def model(self) -> onnx.ModelProto:
        if isinstance(self.source, Path):
            return onnx.load(self.source)
        return self.source.model or onnx.load(Path(self.source.model_dir) / "model.onnx")

    def data_sets(self, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, as many sets as the case has."""
        if isinstance(self.source, Path):
            yield _light(self.source, model)
        elif self.source.data_sets is not None:
            for inputs, outputs in self.source.data_sets:
                yield [_array(x) for x in inputs], [_array(x) for x in outputs]
        else:
            for folder in sorted(Path(self.source.model_dir).glob("test_data_set*")):
                yield _load(folder, "input", model.graph.input), _load(folder, "output", model.graph.output)

    @property
    def tolerance(self) -> tuple[float, float]:
        """Relative and absolute tolerance, as the suite states them."""
        return (1e-3, 1e-7) if isinstance(self.source, Path) else (self.source.rtol, self.source.atol)


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every case by name. Node cases are generated in this process, from one seed."""
    np.random.seed(0)
    cases = {t.name: Case(t.name, kind, t) for kind in KINDS for t in load_model_tests(kind=kind)}
    spec = importlib.util.find_spec("onnx.backend.test")
    assert spec is not None
    assert spec.origin is not None
    for path in sorted((Path(spec.origin).parent / "data" / "light").glob("light_*.onnx")):
        cases[f"test_{path.stem}"] = Case(f"test_{path.stem}", "light", path)
    return cases


def _array(x: Any) -> Any:
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def _load(folder: Path, what: str, values: Any) -> list[Any]:
    out: list[Any] = []
    for i in range(len(list(folder.glob(f"{what}_*.pb")))):
        Runner._load_proto(object.__new__(Runner), str(folder / f"{what}_{i}.pb"), out, values[i].type)
    return out


def _light(path: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    constants = {t.name for t in model.graph.initializer}
    inputs = [
        Runner.generate_dummy_data(v, seed=0, name=v.name, random=False)
        for v in model.graph.input
        if v.name not in constants
    ]
    outputs = []
    for i in range(len(model.graph.output)):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.with_name(f"{path.stem}_output_{i}.pb").read_bytes())
        outputs.append(numpy_helper.to_array(tensor))
    return inputs, outputs
