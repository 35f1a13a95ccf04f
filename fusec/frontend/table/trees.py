"""Rows of the tree ensembles of ai.onnx.ml: all trees of all rows descend together, one level at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.forest import Forest, Tables, forest_of_lists, forest_of_splits, make_tables
from fusec.ir.graph import Value
from fusec.ir.types import DType

ML = "ai.onnx.ml"
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
EXTREMES = {"MIN": ("reduce_min", np.inf), "MAX": ("reduce_max", -np.inf)}
FEW_TARGETS = 8
FLOATS = (DType.F32, DType.F64)


@row("TreeEnsembleClassifier", domain=ML)
def _classifier(call: Call) -> tuple[Value, Value]:
    labels = call.attr("classlabels_int64s")
    if not labels or call.attr("classlabels_strings"):
        raise NotNative("labels that are strings")
    if len(labels) == 1:
        raise NotNative("a classifier of one class")
    x = _features(call)
    forest = forest_of_lists(call, "class", len(labels), x.dtype.numpy)
    scored = np.flatnonzero((~np.isnan(forest.weights)).any(0))
    if len(labels) == 2 and len(scored) == 1:
        return _binary(call, x, forest, labels)
    scores = _added(call, _aggregate(call, x, forest, "SUM"), forest.base_values)
    best = call.emit("argmax", scores, axis=1, keepdims=False)
    scores = _transformed(call, call.cast(scores, DType.F32), call.attr("post_transform", "NONE"))
    return _label(call, best, labels), scores


def _binary(call: Call, x: Value, forest: Forest, labels: tuple[int, ...]) -> tuple[Value, Value]:
    """Two classes, and the weights tell only how much the positive one is meant."""
    transform, base = call.attr("post_transform", "NONE"), forest.base_values
    weights = forest.weights[~np.isnan(forest.weights)]
    if transform == "PROBIT" or base.size > 1 or np.isnan(forest.weights[:, 0]).all():
        raise NotNative("two classes told by one weight, with another weight, base values or transform than usual")
    score = _aggregate(call, x, replace(forest, weights=forest.weights[:, :1]), "SUM")
    score = _added(call, score, base)
    positive = bool((weights >= 0).all())
    test = call.emit("gt", score, call.scalar(0.5 if positive else 0.0, score.dtype))
    best = call.reshape(call.cast(test, DType.I64), x.shape[:1])
    score = call.cast(score, DType.F32)
    if transform == "LOGISTIC":
        scores = call.emit("sigmoid", call.concat([call.emit("neg", score), score], 1))
    else:
        other = call.emit("sub", call.scalar(1.0, DType.F32), score) if positive else call.emit("neg", score)
        scores = call.concat([other, score], 1)
    return _label(call, best, labels), scores


@row("TreeEnsembleRegressor", domain=ML)
def _regressor(call: Call) -> Value:
    x = _features(call)
    forest = forest_of_lists(call, "target", int(call.attr("n_targets", 1)), x.dtype.numpy)
    out = _aggregate(call, x, forest, call.attr("aggregate_function", "SUM"))
    out = call.cast(_added(call, out, forest.base_values), DType.F32)
    return _transformed(call, out, call.attr("post_transform", "NONE"))


@row("TreeEnsemble", domain=ML)
def _ensemble(call: Call) -> Value:
    x = call.x()
    if x.dtype not in FLOATS:
        raise NotNative(f"features of {x.dtype}")
    chosen, transform = int(call.attr("aggregate_function", 1)), int(call.attr("post_transform", 0))
    if not (0 <= chosen < len(AGGREGATES) and 0 <= transform < len(TRANSFORMS)):
        raise NotNative(f"aggregate_function {chosen} or post_transform {transform}")
    x, function = _features(call), AGGREGATES[chosen]
    forest = forest_of_splits(call, int(call.attr("n_targets", 1)), function, x.dtype.numpy)
    out = _aggregate(call, x, forest, function)
    return _transformed(call, out, TRANSFORMS[transform])


def _features(call: Call) -> Value:
    x = call.x()
    if len(x.shape) != 2 or not isinstance(x.shape[1], int):
        raise NotNative("features that are no matrix of known width")
    return x if x.dtype in FLOATS else call.cast(x, DType.F32)


def _descend(call: Call, x: Value, tables: Tables) -> Value:
    """Where each tree leads each row to, counted among the leaves: u32[rows, trees]."""
    rows, width = x.shape
    assert isinstance(width, int)
    if tables.features.size and not 0 <= int(tables.features.min()) <= int(tables.features.max()) < width:
        raise call.error(f"a node tests feature {int(tables.features.max())} of {width}")
    trees, read = len(tables.roots), x
    if not tables.depth:
        return call.expand(_places(call, tables.roots[None] - tables.leaf), (rows, trees))
    if tables.missing != "high":
        low = call.emit("where", call.emit("isnan", x), call.scalar(-np.inf, x.dtype), x)
        read = low if tables.missing == "low" else call.concat([x, low], 1)
    features = tables.features + width * tables.lows if tables.missing == "both" else tables.features
    columns, values = _places(call, features), call.builder.constant(tables.values)
    children = None if tables.children is None else _places(call, tables.children)
    after = 2 * tables.roots if tables.children is None else tables.children[tables.roots]
    found = call.emit("gather", read, _places(call, features[tables.roots]), axis=1)
    test = call.emit("le", found, call.builder.constant(tables.values[tables.roots]))
    place = call.emit("add", _places(call, after), call.cast(test, DType.U32))
    for _ in range(tables.depth - 1):
        found = call.emit("gather_elements", read, call.emit("gather", columns, place, axis=0), axis=1)
        test = call.emit("le", found, call.emit("gather", values, place, axis=0))
        first = call.emit("gather", children, place, axis=0) if children else call.emit("add", place, place)
        place = call.emit("add", first, call.cast(test, DType.U32))
    return call.emit("sub", place, call.scalar(tables.leaf, DType.U32)) if tables.leaf else place


def _places(call: Call, array: npt.NDArray[np.generic]) -> Value:
    """A constant of places, which no run has to look for negative ones."""
    return call.builder.constant(array.astype(np.uint32))


def _aggregate(call: Call, x: Value, forest: Forest, function: str) -> Value:
    """What the leaves weigh together: [rows, targets]. A target without any weight gets 0."""
    tables = make_tables(forest)
    leaves = _descend(call, x, tables)
    op, absent = EXTREMES.get(function, ("reduce_sum", 0.0))
    zeros = np.isnan(tables.weights)
    weights = np.where(zeros, absent, tables.weights).astype(tables.weights.dtype)
    if weights.shape[1] > FEW_TARGETS:
        out = call.emit(
            op, call.emit("gather", call.builder.constant(weights), leaves, axis=0), axes=(1,), keepdims=False
        )
    else:  # one target after the other: trees then lie side by side in a vector
        tables_of = [call.builder.constant(np.ascontiguousarray(column)) for column in weights.T]
        found = [call.emit("gather", table, leaves, axis=0) for table in tables_of]
        out = call.concat([call.emit(op, f, axes=(1,), keepdims=True) for f in found], 1)
    if absent and zeros.any():
        limit, zero = (call.scalar(v, out.dtype) for v in (absent, 0.0))
        out = call.emit("where", call.emit("eq", out, limit), zero, out)
    if function == "AVERAGE":
        out = call.emit("div", out, call.scalar(len(tables.roots), out.dtype))
    return out


def _added(call: Call, out: Value, base: npt.NDArray[np.generic]) -> Value:
    """The scores with the base values, which are none or one per score."""
    if base.size not in (0, out.shape[1]):
        raise NotNative(f"{base.size} base values for {out.shape[1]} scores")
    return call.elementwise("add", out, call.builder.constant(base.astype(out.dtype.numpy))) if base.any() else out


def _label(call: Call, best: Value, labels: tuple[int, ...]) -> Value:
    if labels == tuple(range(len(labels))):
        return best
    return call.emit("gather", call.builder.constant(np.asarray(labels, np.int64)), best, axis=0)


def _transformed(call: Call, x: Value, transform: str) -> Value:
    match transform:
        case "NONE":
            return x
        case "SOFTMAX":
            return call.emit("softmax", x, axis=1)
        case "LOGISTIC":
            return call.emit("sigmoid", x)
    raise NotNative(f"post_transform {transform}")
