"""Tree ensembles as tables in one form: every node asks whether a feature is at most a number, leaves lead to themselves.

The other comparisons become that one: `<` by the next smaller number, `>` and `>=` by swapping the children, `==` and
sets by several nodes. A missing value (NaN) fails every test; a node where it should pass reads the feature from a copy
in which -inf stands for NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call

Array = npt.NDArray[Any]
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
DEEPEST = 24
"""Levels of a tree that are descended by kernels: each is some nodes of the graph."""
LARGEST = 1 << 22
"""Places of a forest, copies of nodes included."""
HEAP = 1 << 16
"""Places up to which trees are filled up to full height, so that children need no table."""


@dataclass
class Nodes:
    """Nodes in the making, as columns; a leaf has itself as children, and no number."""

    dtype: npt.DTypeLike
    features: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    lows: list[bool] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)

    def reserve(self, count: int) -> None:
        """Let there be `count` leaves."""
        self.features += [0] * count
        self.values += [np.nan] * count
        self.lows += [False] * count
        self.fails += range(len(self.fails), len(self.fails) + count)
        self.holds += range(len(self.holds), len(self.holds) + count)

    def at_most(self, i: int, feature: int, value: Any, holds: int, fails: int, low: bool) -> None:
        """Let node `i` go to `holds` where the feature is at most `value`, or where it is missing and `low`."""
        if np.isnan(value):  # never at most
            value, holds, fails, low = np.inf, fails, holds if low else fails, False
        self.features[i], self.values[i], self.lows[i] = feature, value, low
        self.holds[i], self.fails[i] = holds, fails

    def is_equal(self, i: int, feature: int, value: Any, yes: int, no: int, missing: bool) -> None:
        """Let node `i` go to `yes` where the feature is `value`, or where it is missing and `missing`."""
        second = len(self.features)
        self.reserve(1)
        self.at_most(i, feature, value, second, no, missing)
        self.at_most(second, feature, self.below(value), no, yes, False)

    def below(self, value: Any) -> Any:
        """The next smaller number; NaN where there is none."""
        exact = np.asarray(value, self.dtype)
        return np.nan if np.isneginf(exact) else np.nextafter(exact, np.asarray(-np.inf, self.dtype))

    def branch(self, i: int, mode: str, feature: int, value: Any, yes: int, no: int, missing: bool) -> None:
        """Let node `i` do what ONNX says about the mode."""
        if np.isnan(value):
            mode = "BRANCH_NEQ" if mode == "BRANCH_NEQ" else "BRANCH_LEQ"
        match mode:
            case "BRANCH_LEQ":
                self.at_most(i, feature, value, yes, no, missing)
            case "BRANCH_LT":
                self.at_most(i, feature, self.below(value), yes, no, missing)
            case "BRANCH_GT":
                self.at_most(i, feature, value, no, yes, not missing)
            case "BRANCH_GTE":
                self.at_most(i, feature, self.below(value), no, yes, not missing)
            case "BRANCH_EQ":
                self.is_equal(i, feature, value, yes, no, missing)
            case "BRANCH_NEQ":  # a missing value differs from any
                self.is_equal(i, feature, value, no, yes, False)
            case _:
                raise NotNative(f"nodes of mode {mode!r}")

    def member(self, i: int, members: Sequence[Any], feature: int, yes: int, no: int, missing: bool) -> None:
        """Let node `i` go to `yes` where the feature is among some numbers."""
        if not members:
            self.at_most(i, feature, np.nan, yes, no, missing)
        for k, value in enumerate(members):
            after = no
            if k + 1 < len(members):
                after = len(self.features)
                self.reserve(1)
            self.is_equal(i, feature, value, yes, after, missing)
            i = after


@dataclass(frozen=True)
class Forest:
    """Nodes as columns, the trees' roots, and what each node weighs per target: [nodes, targets], NaN where nothing."""

    features: Array
    values: Array
    lows: Array
    fails: Array
    holds: Array
    roots: Array
    weights: Array
    base_values: Array

    @property
    def depth(self) -> int:
        """Tests on the longest way from a root to a leaf. NotNative where there are too many."""
        level, depth = np.unique(self.roots), 0
        while True:
            level = level[self.fails[level] != level]
            if not level.size:
                return depth
            depth += 1
            if depth > DEEPEST:
                raise NotNative(f"trees of more than {DEEPEST} levels")
            level = np.unique(np.concatenate([self.fails[level], self.holds[level]]))


@dataclass(frozen=True)
class Tables:
    """A forest by places: where the test of place `p` fails a tree goes on at `children[p]`, else one further.

    Without `children` the places are those of a heap of all trees: level after level, each with 2^level places per tree,
    so that `2 * p` is the first child of `p`: nothing stands before the roots, which are as many places as there are
    trees. `leaf` is what the leaves' places are counted from.
    """

    depth: int
    roots: Array
    features: Array
    values: Array
    lows: Array
    children: Array | None
    weights: Array
    leaf: int
    missing: str


def make_tables(forest: Forest) -> Tables:
    """The places of a forest, and what stands there."""
    depth, trees = forest.depth, len(forest.roots)
    used = _reached(forest)
    tests = used[forest.fails[used] != used]
    lows = forest.lows[tests]
    missing = "high" if not lows.any() else "low" if lows.all() else "both"
    if trees << depth <= max(HEAP, 4 * len(tests)):
        levels = [forest.roots]
        for _ in range(depth):
            levels.append(np.stack([forest.fails[levels[-1]], forest.holds[levels[-1]]], 1).reshape(-1))
        at = np.concatenate([forest.roots, *levels[:-1]])
        roots, children, last = trees + np.arange(trees), None, levels[-1]
        leaf = trees << depth
    else:
        if trees + 2 * len(tests) > LARGEST:
            raise NotNative(f"{len(tests)} tests: tables of more than {LARGEST} places")
        pair = np.zeros(len(forest.features), np.int64)
        pair[tests] = trees + 2 * np.arange(len(tests))
        at = np.concatenate([forest.roots, np.stack([forest.fails[tests], forest.holds[tests]], 1).reshape(-1)])
        children = np.where(forest.fails[at] == at, np.arange(len(at)), pair[at])
        roots, last, leaf = np.arange(trees), at, 0
    features, values, lows = forest.features[at], forest.values[at], forest.lows[at]
    return Tables(depth, roots, features, values, lows, children, forest.weights[last], leaf, missing)


def _reached(forest: Forest) -> Array:
    """The nodes that a tree's root leads to."""
    seen = np.zeros(len(forest.features), np.bool_)
    level = np.unique(forest.roots)
    while level.size:
        seen[level] = True
        below = np.unique(np.concatenate([forest.fails[level], forest.holds[level]]))
        level = below[~seen[below]]
    return np.flatnonzero(seen)


def numbers(call: Call, name: str) -> Array:
    """An attribute of numbers: floats, or a tensor of `name_as_tensor`."""
    tensor = call.attr(f"{name}_as_tensor")
    if tensor is not None:
        return np.asarray(numpy_helper.to_array(tensor)).reshape(-1)
    return np.asarray(call.attr(name, ()), np.float32)


def forest_of_lists(call: Call, kind: str, targets: int, dtype: npt.DTypeLike) -> Forest:
    """The forest of a TreeEnsembleClassifier or TreeEnsembleRegressor; `kind`: what its weights are of."""
    modes, values = call.attr("nodes_modes", ()), numbers(call, "nodes_values")
    count = len(modes)
    trees, names, features, yes, no = (
        call.attr(f"nodes_{n}", ()) for n in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    )
    missing = call.attr("nodes_missing_value_tracks_true") or (0,) * count
    if not count or any(len(c) != count for c in (values, trees, names, features, yes, no, missing)):
        raise NotNative("node attributes of different lengths")
    owner_trees, owner_nodes = call.attr(f"{kind}_treeids", ()), call.attr(f"{kind}_nodeids", ())
    if len(owner_trees) != len(owner_nodes):
        raise NotNative("weights of different lengths")
    place = {key: i for i, key in enumerate(zip(trees, names, strict=True))}
    nodes = Nodes(dtype)
    nodes.reserve(count)
    try:
        for i, mode in enumerate(modes):
            if mode != "LEAF":
                children = place[trees[i], yes[i]], place[trees[i], no[i]]
                nodes.branch(i, mode, features[i], values[i], *children, missing[i] == 1)
        owners = [place[key] for key in zip(owner_trees, owner_nodes, strict=True)]
    except KeyError as e:
        raise NotNative(f"no node {e.args[0][1]} in tree {e.args[0][0]}") from None
    roots = [i for i in range(count) if i == 0 or trees[i] != trees[i - 1]]
    function = call.attr("aggregate_function", "SUM")
    ids, given = np.asarray(call.attr(f"{kind}_ids", ()), np.int64), numbers(call, f"{kind}_weights")
    if len(set(trees)) != len(roots):
        raise NotNative("trees whose nodes do not stand together")
    return _finished(
        nodes, roots, (np.asarray(owners, np.int64), ids, given), targets, function, numbers(call, "base_values")
    )


def forest_of_splits(call: Call, targets: int, function: str, dtype: npt.DTypeLike) -> Forest:
    """The forest of a TreeEnsemble."""
    modes, values = numbers_of(call, "nodes_modes"), numbers_of(call, "nodes_splits")
    count, leaves = len(modes), len(call.attr("leaf_targetids", ()))
    features, yes, no = (call.attr(f"nodes_{n}", ()) for n in ("featureids", "truenodeids", "falsenodeids"))
    yes_leaf, no_leaf = call.attr("nodes_trueleafs", ()), call.attr("nodes_falseleafs", ())
    missing = call.attr("nodes_missing_value_tracks_true") or (0,) * count
    columns = (values, features, yes, no, yes_leaf, no_leaf, missing)
    if not count or any(len(c) != count for c in columns) or int(modes.max()) >= len(MODES):
        raise NotNative("node attributes of different lengths, or of unknown modes")
    nodes = Nodes(dtype)
    nodes.reserve(count + leaves)
    sets = _sets(numbers_of(call, "membership_values"))
    for i in range(count):
        children = yes[i] + count * yes_leaf[i], no[i] + count * no_leaf[i]
        if not all(
            0 <= c < (count + leaves if leaf else count)
            for c, leaf in zip(children, (yes_leaf[i], no_leaf[i]), strict=True)
        ):
            raise NotNative(f"node {i} has a child that is not there")
        if MODES[modes[i]] == "BRANCH_MEMBER":
            if not sets:
                raise NotNative("fewer sets of members than nodes that ask for one")
            nodes.member(i, sets.pop(0), features[i], *children, missing[i] == 1)
        else:
            nodes.branch(i, MODES[modes[i]], features[i], values[i], *children, missing[i] == 1)
    ids = np.asarray(call.attr("leaf_targetids", ()), np.int64)
    weights = count + np.arange(leaves), ids, numbers_of(call, "leaf_weights")
    return _finished(nodes, call.attr("tree_roots", ()), weights, targets, function, np.zeros(0, np.float32))


def numbers_of(call: Call, name: str) -> Array:
    """An attribute that is a tensor."""
    tensor = call.attr(name)
    return np.zeros(0, np.float32) if tensor is None else np.asarray(numpy_helper.to_array(tensor)).reshape(-1)


def _sets(values: Array) -> list[list[Any]]:
    out: list[list[Any]] = [[]]
    for v in values:
        if np.isnan(v):
            out.append([])
        else:
            out[-1].append(v)
    return out[:-1]


def _finished(
    nodes: Nodes, roots: Sequence[int], given: tuple[Array, Array, Array], targets: int, function: str, base: Array
) -> Forest:
    owners, ids, values = given
    if not len(owners) == len(ids) == len(values) or not len(roots):
        raise NotNative("weights of different lengths, or no tree")
    if not 0 <= min(roots) <= max(roots) < len(nodes.features):
        raise NotNative(f"a tree with root {max(roots)} of {len(nodes.features)} nodes")
    if ids.size and not 0 <= ids.min() <= ids.max() < targets:
        raise NotNative(f"a weight of target {ids.max()} of {targets}")
    weights = np.full((len(nodes.features), targets), np.nan, values.dtype)
    join = {"MIN": np.fmin, "MAX": np.fmax}.get(function)
    if join is not None:
        join.at(weights, (owners, ids), values)
    else:
        np.add.at(has := np.zeros(weights.shape, np.int64), (owners, ids), 1)
        np.add.at(total := np.zeros_like(weights), (owners, ids), values)
        weights = np.where(has > 0, total, np.nan).astype(values.dtype)
    columns = np.asarray(nodes.features, np.int64), np.asarray(nodes.values, nodes.dtype), np.asarray(nodes.lows)
    children = np.asarray(nodes.fails, np.int64), np.asarray(nodes.holds, np.int64)
    return Forest(*columns, *children, np.asarray(roots, np.int64), weights, base)
