"""Operators of symbolic sizes on small and odd ones: the answer of onnxruntime, or an error with a name; never anything else.

One model is compiled per case, for all sizes. Where onnxruntime refuses, or crashes (a recurrence over nothing), an answer
must at least be free of NaN.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "frontend"))
from onnx_models import info, init, model, node

import fusec
from fusec.errors import ExecutionError, InputError

runtime = pytest.importorskip("onnxruntime")

SIZES = (0, 1, 2, 3, 7, 8)
COMBINATIONS = 3
"""How many combinations of sizes a case is tried with, drawn at random, besides all ones and all the largest."""
R = np.random.default_rng(0)
IMAGE = (2, 4, "H", "W")
LINES = ("N", 4, "H")


@dataclass(frozen=True)
class Case:
    """Nodes over float32 inputs of these shapes, in which a name is a symbol."""

    nodes: Sequence[onnx.NodeProto]
    shapes: dict[str, tuple[int | str, ...]]
    weights: dict[str, Any] = field(default_factory=dict)
    opset: int = 20
    crashes_on_nothing: bool = False

    @property
    def symbols(self) -> list[str]:
        return sorted({d for shape in self.shapes.values() for d in shape if isinstance(d, str)})

    def model(self) -> onnx.ModelProto:
        outputs = [onnx.ValueInfoProto(name=o) for o in self.nodes[-1].output]
        inputs = [info(name, shape) for name, shape in self.shapes.items()]
        return model(self.nodes, inputs, outputs, [init(k, v) for k, v in self.weights.items()], self.opset)

    def feeds(self, sizes: dict[str, int]) -> dict[str, Any]:
        shapes = {k: [sizes[d] if isinstance(d, str) else d for d in s] for k, s in self.shapes.items()}
        return {k: R.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def weight(*shape: int) -> Any:
    return (R.standard_normal(shape) / 2).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def conv(*shape: int, op: str = "Conv", **attrs: Any) -> Case:
    return Case([node(op, "x w", "y", name="n", **attrs)], {"x": IMAGE}, {"w": weight(*shape)})


def pool(op: str, *kernel: int, **attrs: Any) -> Case:
    return Case([node(op, "x", "y", name="n", kernel_shape=list(kernel), **attrs)], {"x": IMAGE}, {}, 22)


def one(op: str, shape: tuple[int | str, ...], attrs: dict[str, Any] | None = None, **weights: Any) -> Case:
    return Case([node(op, " ".join(["x", *weights]), "y", name="n", **attrs or {})], {"x": shape}, weights)


def recurrent(op: str, gates: int) -> Case:
    weights = {"w": weight(2, gates * 3, 4), "r": weight(2, gates * 3, 3)}
    n = node(op, "x w r", "y h", name="n", hidden_size=3, direction="bidirectional")
    return Case([n], {"x": ("S", "B", 4)}, weights, crashes_on_nothing=True)


def attention(*mask: str) -> Case:
    scored = [node("Add", "s m", "a", name="n3")] if mask else []
    nodes = [
        node("Transpose", "k", "t", name="n1", perm=[0, 2, 1]),
        node("MatMul", "q t", "s", name="n2"),
        *scored,
        node("Softmax", "a" if mask else "s", "p", name="n4"),
        node("MatMul", "p v", "y", name="n5"),
    ]
    return Case(nodes, {"q": (2, "Q", 8), "k": (2, "K", 8), "v": (2, "K", 8)} | dict.fromkeys(mask, ("Q", "K")))


def sized(op: str, names: str, shape: tuple[int | str, ...], **weights: Any) -> Case:
    """`z` is the first size of another input."""
    nodes = [node("Shape", "t", "z", name="n1", start=0, end=1), node(op, names, "y", name="n2")]
    return Case(nodes, {"x": shape, "t": ("P",)}, weights)


CASES = {
    "conv": conv(6, 4, 3, 3),
    "conv-padded-strided": conv(6, 4, 3, 3, pads=[1] * 4, strides=[2, 2]),
    "conv-dilated": conv(6, 4, 3, 3, dilations=[3, 2], pads=[1, 2, 0, 1]),
    "conv-same": conv(6, 4, 3, 2, auto_pad="SAME_LOWER", strides=[2, 3]),
    "conv-depthwise": conv(4, 1, 3, 3, group=4, pads=[1] * 4),
    "conv-patches": conv(6, 4, 4, 4, strides=[4, 4]),
    "transposed": conv(4, 6, 3, 3, op="ConvTranspose", strides=[2, 2], pads=[1] * 4),
    "transposed-cropped": conv(4, 6, 3, 3, op="ConvTranspose", strides=[1, 2], pads=[3] * 4),
    "max-pool-ceil": pool("MaxPool", 3, 3, pads=[1] * 4, strides=[2, 2], ceil_mode=1),
    "max-pool-wide-stride": pool("MaxPool", 2, 2, strides=[3, 3], ceil_mode=1),
    "mean-pool-ceil": pool("AveragePool", 3, 2, strides=[2, 3], ceil_mode=1, pads=[1, 0, 1, 1]),
    "mean-pool-dilated": pool("AveragePool", 2, 3, strides=[2, 2], dilations=[3, 2], pads=[1] * 4, ceil_mode=1),
    "mean-pool-same": pool("AveragePool", 3, 2, strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
    "norm-pool-dilated": pool("LpPool", 3, 3, dilations=[2, 3]),
    "global-mean": one("GlobalAveragePool", IMAGE),
    "global-max": one("GlobalMaxPool", IMAGE),
    "window-mean": Case(
        [node("MaxPool", "x", "a", name="n1", kernel_shape=[3, 3]), node("GlobalAveragePool", "a", "y", name="n2")],
        {"x": IMAGE},
    ),
    "lrn": one("LRN", ("N", "C", "H", 3), {"size": 3}),
    "resize-by": Case([node("Resize", "x - s", "y", name="n", mode="linear")], {"x": IMAGE}, {"s": np.float32([1, 1, 2, 0.5])}),
    "resize-to": Case([node("Resize", "x - - s", "y", name="n", mode="linear")], {"x": IMAGE}, {"s": ints(2, 4, 5, 3)}),
    "crop": one("Pad", IMAGE, p=ints(0, 0, -3, 2, 0, 0, 1, -2)),
    "mirror": one("Pad", IMAGE, {"mode": "reflect"}, p=ints(0, 0, -1, 1, 0, 0, 1, 0)),
    "slice-back": one("Slice", IMAGE, s=ints(7, -1), e=ints(0, -100), a=ints(3, 2), p=ints(-2, -1)),
    "slice-to-a-size": sized("Slice", "x o z o", ("H", 3), o=ints(0)),
    "lstm": recurrent("LSTM", 4),
    "gru": recurrent("GRU", 3),
    "attention": attention(),
    "attention-masked": attention("m"),
    "softmax": one("Softmax", LINES, {"axis": 2}),
    "largest": one("ReduceMax", LINES, {"keepdims": 0}),
    "largest-place": one("ArgMax", LINES, {"axis": 2}),
    "top-3": Case([node("TopK", "x k", "v i", name="n")], {"x": LINES}, {"k": ints(3)}),
    "top-some": Case([node("Shape", "t", "k", name="n1"), node("TopK", "x k", "v i", name="n2")],
                     {"x": ("N", "H"), "t": ("P",)}),
    "split": Case([node("Split", "x s", "a b", name="n", axis=2)], {"x": LINES}, {"s": ints(2, 6)}),
    "squeeze": one("Squeeze", LINES, a=ints(2)),
    "reshape": one("Reshape", LINES, s=ints(-1, 8)),
    "tile": sized("Tile", "x z", ("N",)),
    "expand": Case([node("Shape", "t", "s", name="n1"), node("Expand", "x s", "y", name="n2")],
                   {"x": ("N", 1), "t": ("P", "Q")}),
    "gather": one("Gather", ("N", 3), i=ints(0, 2, -1)),
    "concat": Case([node("Concat", "a b", "y", name="n", axis=1)], {"a": ("N", 2), "b": ("M", 3)}),
    "range": Case([node("Shape", "x", "s", name="n1"), node("Squeeze", "s", "n", name="n2"),
                   node("Range", "o n d", "y", name="n3")], {"x": ("N",)}, {"o": np.int64(5), "d": np.int64(-2)}),
    "grid-sample": Case([node("GridSample", "x g", "y", name="n")], {"x": (1, 2, "H", "W"), "g": (1, "P", 2, 2)}),
    "stft": Case([node("STFT", "x s - l", "y", name="n")], {"x": (2, "T", 1)}, {"s": np.int64(2), "l": np.int64(4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_small_sizes(name: str, thorough: bool) -> None:
    case = CASES[name]
    rival = _rival(case)
    sessions = [fusec.compile(case.model(), fuse=fuse, threads=1) for fuse in (True, False)]
    combinations = list(itertools.product(SIZES, repeat=len(case.symbols)))
    random.Random(name).shuffle(combinations)
    always = [(n,) * len(case.symbols) for n in (1, SIZES[-1])]
    names, answers = {n.name for n in case.nodes}, 0
    for numbers in combinations if thorough else (*combinations[:COMBINATIONS], *always):
        sizes = dict(zip(case.symbols, numbers, strict=True))
        feeds = case.feeds(sizes)
        wanted = None if case.crashes_on_nothing and 0 in numbers else _answers(rival, feeds)
        for session in sessions:
            try:
                made = session.run_list(feeds)
            except (InputError, ExecutionError) as e:
                assert e.node in names, (sizes, e)
                continue
            answers += 1
            _compare(made, wanted, sizes)
    assert answers, "all sizes were refused"


def _rival(case: Case) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(case.model().SerializeToString(), options, providers=["CPUExecutionProvider"])


def _answers(rival: Any, feeds: dict[str, Any]) -> list[Any] | None:
    try:
        return list(rival.run(None, feeds))
    except Exception:  # onnxruntime has no class of its own for a refusal
        return None


def _compare(made: list[Any], wanted: list[Any] | None, sizes: dict[str, int]) -> None:
    for i, array in enumerate(made):
        assert array.dtype.kind != "f" or not np.isnan(array).any(), sizes
        if wanted is not None:
            assert array.shape == wanted[i].shape, sizes
            np.testing.assert_allclose(array, wanted[i], rtol=1e-3, atol=1e-4, err_msg=str(sizes))
