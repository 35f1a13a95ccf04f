"""Rows of attention operators against onnxruntime: masks, caches, shared heads; and what the standard's cases leave out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

from fusec.errors import ModelError

pytest.importorskip("onnxruntime")
MICROSOFT = [("com.microsoft", 1)]


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("attrs", [{}, {"unidirectional": 1}, {"scale": 0.2}])
def test_multi_head_attention(past: int, attrs: dict[str, Any]) -> None:
    batch, t, s, heads = 2, 5, 5 + past, 3
    feeds = {"q": floats(batch, t, 12), "k": floats(batch, t, 12), "v": floats(batch, t, 12), "b": floats(36)}
    feeds["a"] = floats(1, heads, t, s)
    names = "q k v b  a"
    if past:
        feeds |= {"pk": floats(batch, heads, past, 4), "pv": floats(batch, heads, past, 4)}
        names += " pk pv"
    inputs = names.split(" ")
    n = node("MultiHeadAttention", names.replace("  ", " "), "y pk1 pv1" if past else "y", domain="com.microsoft",
             num_heads=heads, **attrs)  # fmt: skip
    del n.input[:]
    n.input.extend([*inputs[:4], "", *inputs[5:]])
    same_as_onnxruntime(one_node(n, feeds, domains=MICROSOFT), feeds, compiled=True)


def test_keys_of_another_length_that_are_padded() -> None:
    feeds = {"q": floats(2, 3, 8), "k": floats(2, 7, 8), "v": floats(2, 7, 6)}
    feeds["p"] = np.array([[1] * 7, [1, 1, 1, 1, 0, 0, 0]], np.int32)
    n = node("MultiHeadAttention", "q k v p", "y", domain="com.microsoft", num_heads=2)
    n.input.insert(3, "")
    same_as_onnxruntime(one_node(n, feeds, domains=MICROSOFT), feeds, compiled=True)


def test_keys_that_are_split_already() -> None:
    feeds = {"q": floats(2, 3, 8), "k": floats(2, 2, 7, 4), "v": floats(2, 2, 7, 4)}
    n = node("MultiHeadAttention", "q k v", "y", domain="com.microsoft", num_heads=2)
    same_as_onnxruntime(one_node(n, feeds, domains=MICROSOFT), feeds, compiled=True)


def test_features_that_do_not_split() -> None:
    feeds = {"q": floats(2, 3, 8), "k": floats(2, 7, 8), "v": floats(2, 7, 8)}
    n = node("MultiHeadAttention", "q k v", "y", domain="com.microsoft", num_heads=3)
    fails(ModelError, one_node(n, feeds, domains=MICROSOFT), "MultiHeadAttention", "8 features", "3 heads")


@pytest.mark.parametrize("mask", ["", "positions", "lengths", "rows"])
@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("attrs", [{}, {"unidirectional": 1}])
def test_attention_with_its_projections(mask: str, past: int, attrs: dict[str, Any]) -> None:
    batch, t, heads = 2, 5, 2
    s = t + past
    if mask in ("positions", "rows") and past:
        pytest.skip("masks of that kind go with no cache")
    feeds = {"x": floats(batch, t, 6), "w": floats(6, 24), "b": floats(24)}
    if mask == "positions":
        feeds["m"] = np.array([[1] * s, [1] * (s - 2) + [0] * 2], np.int32)
    elif mask == "lengths":
        feeds["m"] = np.array([s, s - 2], np.int32)
    elif mask == "rows":
        feeds["m"] = np.tril(np.ones((batch, t, s), np.int32))
    if past:
        feeds["p"] = floats(2, batch, heads, past, 4)
    n = node("Attention", "x w b", "y z" if past else "y", domain="com.microsoft", num_heads=heads, **attrs)
    n.input.extend(["m" if mask else "", *(["p"] if past else [])])
    same_as_onnxruntime(one_node(n, feeds, domains=MICROSOFT), feeds, compiled=True)


@pytest.mark.parametrize("ids", [False, True])
def test_embeddings(ids: bool) -> None:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {"i": rng.integers(0, 11, (2, 5)).astype(np.int32)}
    feeds["g"] = rng.integers(0, 2, (2, 5)).astype(np.int32)
    feeds["m"] = np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)
    inits = {"w": floats(11, 8), "p": floats(7, 8), "s": floats(2, 8), "c": floats(8), "b": floats(8)}
    if ids:
        feeds["o"] = rng.integers(0, 7, (2, 5)).astype(np.int32)
    n = node("EmbedLayerNormalization", "i g w p s c b m" + " o" * ids, "y z", domain="com.microsoft")
    same_as_onnxruntime(one_node(n, feeds, inits, domains=MICROSOFT), feeds, compiled=True)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [0, 3])
def test_standard_attention(symbolic: bool, groups: int, causal: int, past: int) -> None:
    t = 4
    feeds = {"q": floats(2, 2 * groups, t, 8), "k": floats(2, 2, t, 8), "v": floats(2, 2, t, 6)}
    names = "q k v"
    if past:
        feeds |= {"m": floats(t, t + past), "pk": floats(2, 2, past, 8), "pv": floats(2, 2, past, 6)}
        names += " m pk pv"
    n = node("Attention", names, "y a b" if past else "y", is_causal=causal, scale=0.3)
    m = one_node(n, feeds, opset=23, symbolic=False)
    if symbolic:
        for i in m.graph.input:
            dims = i.type.tensor_type.shape.dim
            if i.name != "m":
                dims[0].dim_param = "batch"
    same_as_onnxruntime(m, feeds, compiled=True)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_rows_that_see_nothing_are_zero(kind: str) -> None:
    feeds = {"q": floats(2, 3, 8, 4), "k": floats(2, 3, 9, 4), "v": floats(2, 3, 9, 4)}
    seen = np.random.default_rng(1).random((8, 9)) < 0.5
    seen[3] = False
    feeds["m"] = seen if kind == "bool" else np.where(seen, np.float32(0), np.float32(-np.inf))
    same_as_onnxruntime(one_node(node("Attention", "q k v m", "y"), feeds, opset=23), feeds, want=[_reference(feeds, seen)],
                        compiled=True)  # fmt: skip


def _reference(feeds: dict[str, Any], seen: Any) -> Any:
    scores = feeds["q"] @ np.swapaxes(feeds["k"], -1, -2) / 2.0
    powers = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    total = powers.sum(-1, keepdims=True)
    return (powers / np.where(total == 0, 1, total)) @ feeds["v"]
