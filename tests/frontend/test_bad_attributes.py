"""Attributes and sizes that contradict each other: an error that names the node and the attribute, never a guess."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node

import fusec
from fusec.errors import FusecError, ModelError, ResourceError

X = np.zeros((1, 2, 5, 5), np.float32)


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


POOLS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["kernel_shape", "missing"]),
    ({"kernel_shape": [3]}, ["kernel_shape [3]"]),
    ({"kernel_shape": [3, 3, 3]}, ["kernel_shape [3, 3, 3]"]),
    ({"kernel_shape": [0, 3]}, ["kernel_shape [0, 3]"]),
    ({"kernel_shape": [7, 3]}, ["kernel_shape [7, 3]", "has 5"]),
    ({"kernel_shape": [2**40, 3]}, ["kernel_shape"]),
    ({"kernel_shape": [3, 3], "strides": [0, 1]}, ["strides [0, 1]"]),
    ({"kernel_shape": [3, 3], "strides": [1]}, ["strides [1]"]),
    ({"kernel_shape": [3, 3], "dilations": [0, 1]}, ["dilations [0, 1]"]),
    ({"kernel_shape": [3, 3], "dilations": [3, 1]}, ["reaches over 7", "has 5"]),
    ({"kernel_shape": [3, 3], "pads": [1, 1]}, ["pads [1, 1]"]),
    ({"kernel_shape": [3, 3], "pads": [-1, 0, 0, 0]}, ["pads [-1, 0, 0, 0]"]),
    ({"kernel_shape": [3, 3], "pads": [3, 0, 0, 0]}, ["pads [3, 0, 0, 0]", "kernel_shape"]),
    ({"kernel_shape": [3, 3], "pads": [2**62] * 4}, ["pads"]),
    ({"kernel_shape": [3, 3], "auto_pad": "SAME"}, ["auto_pad 'SAME'"]),
    ({"kernel_shape": [3, 3], "auto_pad": "VALID", "pads": [1, 0, 0, 0]}, ["pads", "auto_pad 'VALID'"]),
    ({"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "pads": [1, 0, 0, 0]}, ["pads", "auto_pad"]),
]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(("attrs", "words"), POOLS, ids=[str(a) for a, _ in POOLS])
def test_pools(op: str, attrs: dict[str, Any], words: list[str]) -> None:
    fails(ModelError, one_node(node(op, "x", "y", **attrs), {"x": X}, opset=22), op, f"{op}_0", *words)


BAD: list[tuple[Any, dict[str, Any], dict[str, Any], int, list[str]]] = [
    (node("MaxPool", "x", "y", kernel_shape=[3, 3]), {"x": X[0, 0]}, {}, 18, ["at least one more axis"]),
    (node("MaxPool", "x", "y", kernel_shape=[3, 3]), {"x": X[:, :, :0]}, {}, 18, ["kernel_shape", "has 0"]),
    (node("MaxPool", "x", "y", kernel_shape=[3, 3], storage_order=2), {"x": X}, {}, 18, ["storage_order 2"]),
    (node("LpPool", "x", "y", kernel_shape=[3, 3], p=0), {"x": X}, {}, 18, ["p is 0"]),
    (node("GlobalMaxPool", "x", "y"), {"x": X[:, :, :0]}, {}, 18, ["nothing to pool"]),
    (node("GlobalAveragePool", "x", "y"), {"x": X[0, 0]}, {}, 18, ["at least one more axis"]),
    (node("LRN", "x", "y", size=0), {"x": X}, {}, 18, ["size 0"]),
    (node("LRN", "x", "y"), {"x": X}, {}, 18, ["attribute 'size' is missing"]),
    (node("BatchNormalization", "x s b m v", "y"), {"x": X}, {**dict.fromkeys("sbm", ones(2)), "v": ones(3)}, 15,
     ["input 4", "2 channels"]),
    (node("BatchNormalization", "x s b m v", "y"), {"x": X}, {**dict.fromkeys("bmv", ones(2)), "s": ones(2, 1)}, 15,
     ["input 1", "2 channels"]),
    (node("InstanceNormalization", "x s b", "y"), {"x": X}, {"s": ones(2), "b": ones(1)}, 18, ["input 2", "2 channels"]),
    (node("InstanceNormalization", "x s b", "y"), {"x": X[0, 0]}, {"s": ones(5), "b": ones(5)}, 18, ["one more axis"]),
    (node("GroupNormalization", "x s b", "y"), {"x": X}, {"s": ones(2), "b": ones(2)}, 21, ["'num_groups' is missing"]),
    (node("GroupNormalization", "x s b", "y", num_groups=0), {"x": X}, {"s": ones(2), "b": ones(2)}, 21, ["num_groups 0"]),
    (node("LayerNormalization", "x s", "y", axis=7), {"x": X}, {"s": ones(5)}, 17, ["axis 7"]),
    (node("LayerNormalization", "x s", "y"), {"x": X}, {"s": ones(4)}, 17, ["[4]"]),
    (node("DepthToSpace", "x", "y", blocksize=0), {"x": X}, {}, 18, ["blocksize 0"]),
    (node("DepthToSpace", "x", "y", blocksize=1, mode="XYZ"), {"x": X}, {}, 18, ["mode 'XYZ'"]),
    (node("DepthToSpace", "x", "y", blocksize=2), {"x": X[0]}, {}, 18, ["four axes"]),
    (node("SpaceToDepth", "x", "y", blocksize=2), {"x": X}, {}, 18, ["blocksize 2", "5 x 5"]),
    (node("SpaceToDepth", "x", "y", blocksize=-1), {"x": X}, {}, 18, ["blocksize -1"]),
    (node("Pad", "x p - a", "y"), {"x": X}, {"p": ints(1, 1, 1, 1), "a": ints(1, 1)}, 18, ["axes", "twice"]),
    (node("Pad", "x p - a", "y"), {"x": X}, {"p": ints(1, 1), "a": ints(9)}, 18, ["axis 9"]),
    (node("Resize", "x - s", "y", axes=[2, 2]), {"x": X}, {"s": ones(2)}, 18, ["axes", "twice"]),
    (node("Resize", "x - - n", "y"), {"x": X}, {"n": ints(1, 2, 0, 3)}, 18, ["axis 2", "0 elements"]),
    (node("Resize", "x - - n", "y"), {"x": X[:, :, :0]}, {"n": ints(1, 2, 4, 3)}, 18, ["axis 2", "4 elements"]),
    (node("CumSum", "x a", "y"), {"x": X}, {"a": np.int64(9)}, 18, ["axis 9"]),
    (node("TopK", "x k", "v i"), {"x": X}, {"k": ints(-1)}, 18, ["k is -1"]),
    (node("Split", "x s", "a b", axis=2), {"x": X}, {"s": ints(-2, 7)}, 18, ["split [-2, 7]"]),
    (node("Tile", "x s", "y"), {"x": X}, {"s": ints(1, 1, -1, 1)}, 18, ["repeats [1, 1, -1, 1]"]),
    (node("OneHot", "i d v", "y"), {"i": ints(1)}, {"d": ints(-3), "v": ones(2)}, 18, ["depth is -3"]),
    (node("OneHot", "i d v", "y"), {"i": ints(1)}, {"d": ints(3), "v": ones(1)}, 18, ["values"]),
    (node("Trilu", "x", "y"), {"x": ones(3)}, {}, 18, ["needs a matrix"]),
    (node("EyeLike", "x", "y"), {"x": ones(3)}, {}, 18, ["needs a matrix"]),
    (node("Einsum", "x", "y"), {"x": ones(3, 2)}, {}, 18, ["'equation' is missing"]),
    (node("QuantizeLinear", "x s", "y", axis=5), {"x": ones(2, 3)}, {"s": ones(3)}, 18, ["axis 5"]),
    (node("CenterCropPad", "x s", "y", axes=[1]), {"x": X}, {"s": ints(-2)}, 18, ["shape [-2]"]),
    (node("DFT", "x", "y", onesided=1), {"x": ones(1, 4, 2)}, {}, 20, ["onesided"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "feeds", "inits", "opset", "words"), BAD, ids=[f"{b[0].op_type}{i}" for i, b in enumerate(BAD)]
)
def test_other_operators(n: Any, feeds: dict[str, Any], inits: dict[str, Any], opset: int, words: list[str]) -> None:
    fails(ModelError, one_node(n, feeds, inits, opset), n.op_type, f"{n.op_type}_0", *words)


@pytest.mark.parametrize(
    ("n", "inits"),
    [
        (node("Pad", "x p", "y"), {"p": ints(*[2**62] * 8)}),
        (node("Pad", "x p", "y"), {"p": ints(0, 0, 0, 0, 2**40, 2**20, 0, 0)}),
        (node("Resize", "x - s", "y"), {"s": np.array([1, 1, 1e30, 1], np.float32)}),
        (node("Resize", "x - - n", "y"), {"n": ints(1, 2, 2**40, 2**40)}),
        (node("CenterCropPad", "x n", "y"), {"n": ints(1, 2, 2**40, 2**40)}),
    ],
    ids=lambda v: v.op_type if hasattr(v, "op_type") else "",
)
def test_sizes_beyond_all_memory(n: Any, inits: dict[str, Any]) -> None:
    fails(ResourceError, one_node(n, {"x": X}, inits), n.op_type)


@pytest.mark.parametrize(
    ("n", "inits", "rows"),
    [
        (node("MaxPool", "x", "y", kernel_shape=[3, 3]), {}, 1),
        (node("Pad", "x p", "y"), {"p": ints(0, 0, -2, 0, 0, 0, -2, 0)}, 3),
        (node("Pad", "x p", "y", mode="edge"), {"p": ints(0, 0, 2, 0, 0, 0, 2, 0)}, 0),
        (node("Pad", "x p", "y", mode="reflect"), {"p": ints(0, 0, 2, 0, 0, 0, 2, 0)}, 0),
        (node("Pad", "x p", "y", mode="wrap"), {"p": ints(0, 0, 2, 0, 0, 0, 2, 0)}, 0),
        (node("Resize", "x - - s", "y"), {"s": ints(1, 2, 4, 4)}, 0),
    ],
    ids=lambda v: v.op_type if hasattr(v, "op_type") else "",
)
def test_sizes_that_only_a_run_shows(n: Any, inits: dict[str, Any], rows: int) -> None:
    session = fusec.compile(one_node(n, {"x": X}, inits, symbolic=True), threads=1)
    with pytest.raises(FusecError):
        session.run({"x": X[:, :, :rows]})
