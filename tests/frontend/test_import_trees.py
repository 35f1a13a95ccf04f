"""Tree ensembles against onnxruntime: every mode, missing values, transforms, aggregates, odd shapes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import node
from onnx_rival import one_node, same_as_onnxruntime

from fusec.frontend.read import read_model

pytest.importorskip("onnxruntime")
ML = "ai.onnx.ml"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


class Forest:
    """Random trees as attributes; some thresholds are whole numbers, so that features meet them."""

    def __init__(self, modes: tuple[str, ...] = MODES[:1], missing: bool = False, seed: int = 0) -> None:
        self.random, self.modes, self.missing = np.random.default_rng(seed), modes, missing
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
        self.nodes: dict[str, list[Any]] = {n: [] for n in (*names, "missing_value_tracks_true")}
        self.leaves: dict[str, list[Any]] = {n: [] for n in ("treeids", "nodeids", "ids", "weights")}

    def grow(self, tree: int, depth: int, features: int, targets: int, low: float, name: int = 0) -> int:
        """One tree; returns how many names its nodes took."""
        r, at = self.random, len(self.nodes["modes"])
        leaf = depth == 0 or (name > 0 and r.random() < 0.2)
        mode = "LEAF" if leaf else str(r.choice(self.modes))
        given = (tree, name, int(r.integers(features)), mode, float(r.integers(-2, 3)), 0, 0, int(r.integers(2)))
        for column, value in zip(self.nodes.values(), given, strict=True):
            column.append(value)
        if leaf:
            for k in range(targets):
                weight = (tree, name, k, float(low + r.random()))
                for column, value in zip(self.leaves.values(), weight, strict=True):
                    column.append(value)
            return 1
        self.nodes["truenodeids"][at] = name + 1
        count = 1 + self.grow(tree, depth - 1, features, targets, low, name + 1)
        self.nodes["falsenodeids"][at] = name + count
        return count + self.grow(tree, depth - 1, features, targets, low, name + count)

    def attributes(self, kind: str, trees: int, depth: int, targets: int, low: float = 0.0, features: int = 5) -> Any:
        for t in range(trees):
            self.grow(t, depth, features, targets, low)
        given = {f"nodes_{k}": v for k, v in self.nodes.items() if self.missing or k != "missing_value_tracks_true"}
        return given | {f"{kind}_{k}": v for k, v in self.leaves.items()}


def features(rows: int = 23, missing: bool = True, seed: int = 1) -> Any:
    r = np.random.default_rng(seed)
    x = r.integers(-3, 4, (rows, 5)).astype(np.float32)
    return np.where(r.random(x.shape) < 0.2, np.float32(np.nan), x) if missing else x


def ensemble(op: str, x: Any, outputs: str = "y", opset: int = 3, **attrs: Any) -> onnx.ModelProto:
    return one_node(node(op, "x", outputs, domain=ML, **attrs), {"x": x}, domains=[(ML, opset)])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modes", [*((m,) for m in MODES), MODES], ids=lambda m: m[0] if len(m) == 1 else "all")
def test_modes(modes: tuple[str, ...], missing: bool) -> None:
    x = features()
    attrs = Forest(modes, missing).attributes("target", 5, 4, 1)
    same_as_onnxruntime(ensemble("TreeEnsembleRegressor", x, n_targets=1, **attrs), {"x": x})


@pytest.mark.parametrize(("trees", "depth"), [(1, 0), (1, 1), (3, 2), (17, 6), (5, 15), (33, 12)])
@pytest.mark.parametrize("rows", [1, 7])
def test_shapes(trees: int, depth: int, rows: int) -> None:
    x = features(rows)
    attrs = Forest(MODES[:2], True, depth).attributes("target", trees, depth, 1)
    same_as_onnxruntime(ensemble("TreeEnsembleRegressor", x, n_targets=1, **attrs), {"x": x}, compiled=True)


def test_no_rows_and_symbolic_rows() -> None:
    attrs = Forest().attributes("target", 3, 3, 2)
    m = ensemble("TreeEnsembleRegressor", features(), n_targets=2, **attrs)
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    for rows in (0, 1, 40):
        x = features(rows)
        want = [np.zeros((0, 2), np.float32)] if rows == 0 else None
        same_as_onnxruntime(m, {"x": x}, compiled=True, want=want)


@pytest.mark.parametrize("function", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3, 11])
def test_aggregates(function: str, targets: int) -> None:
    x = features()
    attrs = Forest().attributes("target", 6, 4, targets, low=-0.5)
    base = [float(i) for i in range(targets)]
    m = ensemble("TreeEnsembleRegressor", x, n_targets=targets, aggregate_function=function, base_values=base, **attrs)
    same_as_onnxruntime(m, {"x": x}, compiled=targets == 3)


def test_leaves_without_some_targets() -> None:
    x = features()
    attrs = Forest().attributes("target", 2, 2, 3)
    keep = [i for i, k in enumerate(attrs["target_ids"]) if k != 1 and (i // 3) % 2]
    attrs |= {k: [v[i] for i in keep] for k, v in attrs.items() if k.startswith("target_")}
    for function in ("SUM", "MIN", "MAX"):
        m = ensemble("TreeEnsembleRegressor", x, n_targets=3, aggregate_function=function, **attrs)
        same_as_onnxruntime(m, {"x": x})


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("low", [0.0, -0.5])
@pytest.mark.parametrize("labels", [[0, 1], [7, -2]])
def test_two_classes_by_one_weight(transform: str, low: float, labels: list[int]) -> None:
    x = features()
    attrs = Forest().attributes("class", 1, 4, 1, low)
    attrs |= {"classlabels_int64s": labels, "post_transform": transform}
    same_as_onnxruntime(ensemble("TreeEnsembleClassifier", x, "label scores", **attrs), {"x": x})
    attrs |= {"base_values": [0.125]}
    same_as_onnxruntime(ensemble("TreeEnsembleClassifier", x, "label scores", **attrs), {"x": x}, compiled=True)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_classes(transform: str) -> None:
    x = features()
    attrs = Forest().attributes("class", 4, 4, 3, -0.5)
    attrs |= {"classlabels_int64s": [3, 1, 9], "post_transform": transform, "base_values": [0.5, 0.0, 0.25]}
    same_as_onnxruntime(ensemble("TreeEnsembleClassifier", x, "label scores", **attrs), {"x": x}, compiled=True)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_features_of_other_types(dtype: Any) -> None:
    x = features(missing=False).astype(dtype)
    attrs = Forest(MODES[:4]).attributes("class", 4, 4, 3) | {"classlabels_int64s": [0, 1, 2]}
    same_as_onnxruntime(ensemble("TreeEnsembleClassifier", x, "label scores", **attrs), {"x": x})


def splits(dtype: int, members: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """A tree of three tests and four leaves as TreeEnsemble has it."""
    modes = [0, 4, 6] if members else [0, 1, 5]
    attrs: dict[str, Any] = {
        "nodes_featureids": [0, 1, 2],
        "nodes_splits": helper.make_tensor("splits", dtype, (3,), [1.0, -1.0, 2.0]),
        "nodes_modes": helper.make_tensor("modes", TensorProto.UINT8, (3,), modes),
        "nodes_truenodeids": [1, 0, 2],
        "nodes_falsenodeids": [2, 1, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falseleafs": [0, 1, 1],
        "leaf_targetids": [0, 1, 0, 1],
        "leaf_weights": helper.make_tensor("weights", dtype, (4,), [5.0, -4.0, 2.0, 1.0]),
        "tree_roots": [0],
        "n_targets": 2,
    }
    if members:
        attrs["membership_values"] = helper.make_tensor("members", dtype, (len(members),), members)
    return attrs | more


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize("function", [0, 1, 2, 3])
def test_tree_ensemble(dtype: int, function: int) -> None:
    x = features(missing=False).astype(np.float64 if dtype == TensorProto.DOUBLE else np.float32)
    tests, leaves = [x[:, 0] <= 1, x[:, 1] < -1, x[:, 2] != 2], [5.0, -4.0, 2.0, 1.0]
    at = np.where(tests[0], np.where(tests[1], 0, 1), np.where(tests[2], 2, 3))
    want = np.zeros((len(x), 2), x.dtype)
    want[np.arange(len(x)), at % 2] = np.asarray(leaves)[at]
    m = ensemble("TreeEnsemble", x, opset=5, **splits(dtype, aggregate_function=function))
    same_as_onnxruntime(m, {"x": x}, want=[want])


def test_members_of_a_set() -> None:
    x = features(missing=False)
    tests, leaves = [x[:, 0] <= 1, x[:, 1] == -1, np.isin(x[:, 2], [2, -3, 0])], [5.0, -4.0, 2.0, 1.0]
    at = np.where(tests[0], np.where(tests[1], 0, 1), np.where(tests[2], 2, 3))
    want = np.zeros((len(x), 2), x.dtype)
    want[np.arange(len(x)), at % 2] = np.asarray(leaves)[at]
    m = ensemble("TreeEnsemble", x, opset=5, **splits(TensorProto.FLOAT, [2.0, -3.0, 0.0, float("nan")]))
    same_as_onnxruntime(m, {"x": x}, want=[want], compiled=True)


def test_what_stays_on_the_host() -> None:
    x = features()

    def why(m: onnx.ModelProto) -> str:
        (n,) = [n for n in read_model(m).nodes if n.op == "opaque"]
        return str(n.attr("why"))

    attrs = Forest().attributes("class", 2, 2, 2)
    labelled = ensemble("TreeEnsembleClassifier", x, "label scores", classlabels_strings=["a", "b"], **attrs)
    assert "strings" in why(labelled)
    probit = ensemble("TreeEnsembleClassifier", x, "l s", classlabels_int64s=[0, 1], post_transform="PROBIT", **attrs)
    assert "PROBIT" in why(probit)
    deep: dict[str, Any] = {
        "nodes_treeids": [0] * 61,
        "nodes_nodeids": list(range(61)),
        "nodes_featureids": [0] * 61,
        "nodes_modes": ["BRANCH_LEQ", "LEAF"] * 30 + ["LEAF"],
        "nodes_values": [0.0] * 61,
        "nodes_truenodeids": [i + 1 if i % 2 == 0 and i < 60 else 0 for i in range(61)],
        "nodes_falsenodeids": [i + 2 if i % 2 == 0 and i < 60 else 0 for i in range(61)],
        "target_treeids": [0],
        "target_nodeids": [60],
        "target_ids": [0],
        "target_weights": [1.0],
    }
    assert "levels" in why(ensemble("TreeEnsembleRegressor", x, n_targets=1, **deep))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_treeids", [0]),
        ("target_ids", [9] * 100),
        ("nodes_values", [0.0]),
        ("nodes_truenodeids", [77] * 100),
        ("nodes_truenodeids", [0] * 100),
        ("nodes_modes", ["BRANCH_NEVER"] * 100),
    ],
)
def test_damaged_attributes(name: str, value: list[Any]) -> None:
    attrs = Forest().attributes("target", 2, 3, 1)
    attrs[name] = value[: max(1, len(attrs[name]))]
    m = ensemble("TreeEnsembleRegressor", features(), n_targets=1, **attrs)
    assert [n.op for n in read_model(m).nodes] == ["opaque"]


def test_roots_that_are_not_there() -> None:
    m = ensemble("TreeEnsemble", features(), opset=5, **splits(TensorProto.FLOAT, tree_roots=[40]))
    assert [n.op for n in read_model(m).nodes] == ["opaque"]
