"""Rows of convolutions: random attributes against onnxruntime, sizes known and symbolic; what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import fails, node
from onnx_rival import one_node, same_as_onnxruntime

import fusec
from fusec.errors import InputError, ModelError
from fusec.frontend.read import read_model

pytest.importorskip("onnxruntime")

MS = (("com.microsoft", 1),)


def f32(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def draw(op: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes that onnxruntime takes, and arrays that they fit."""
    r = np.random.default_rng(seed)
    rank = int(r.integers(1, 4))
    kernel = [int(k) for k in r.integers(1, 4, rank)]
    groups, channels, filters = (int(n) for n in r.choice([[1, 3, 5], [1, 8, 4], [2, 4, 3], [3, 1, 2], [4, 1, 1]]))
    attrs: dict[str, Any] = {"group": groups}
    if r.random() < 0.6:
        attrs["kernel_shape"] = kernel
    if r.random() < 0.7:
        attrs["strides"] = [int(s) for s in r.integers(1, 4, rank)]
    if r.random() < 0.4:
        attrs["dilations"] = [int(d) for d in r.integers(1, 3, rank)]
    auto = ["VALID", "SAME_UPPER", "SAME_LOWER"][int(r.integers(3))] if r.random() < 0.3 else "NOTSET"
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
        attrs["strides"] = [min(k, s) for k, s in zip(kernel, attrs.get("strides", kernel))]
        attrs.pop("dilations", None)
    elif r.random() < 0.7:
        attrs["pads"] = [int(r.integers(0, k)) for k in kernel * 2]
    if op == "ConvTranspose" and r.random() < 0.4 and auto == "NOTSET":
        attrs["output_padding"] = [int(r.integers(0, s)) for s in attrs.get("strides", [1] * rank)]
    size = [int(n) for n in r.integers(6, 9, rank)]
    w = (groups * channels, filters) if op == "ConvTranspose" else (groups * filters, channels)
    arrays = {"x": f32(2, groups * channels, *size), "w": f32(*w, *kernel, seed=1)}
    if r.random() < 0.7:
        arrays["b"] = f32(groups * filters, seed=2)
    return attrs, arrays


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("seed", range(30))
def test_random_attributes(op: str, seed: int) -> None:
    attrs, arrays = draw(op, seed)
    n = node(op, " ".join(arrays), "y", **attrs)
    weights = {k: v for k, v in arrays.items() if k != "x"}
    for symbolic in (False, True):
        m = one_node(n, {"x": arrays["x"]}, weights, symbolic=symbolic)
        m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = arrays["x"].shape[1]
        same_as_onnxruntime(m, {"x": arrays["x"]})
    if seed % 5 == 0:  # weights that come with each run
        same_as_onnxruntime(one_node(n, arrays), arrays)


@pytest.mark.parametrize("attrs", [{"output_shape": [12, 12]}, {"output_shape": [11, 13], "auto_pad": "SAME_LOWER"}])
def test_output_shape(attrs: dict[str, Any]) -> None:
    n = node("ConvTranspose", "x w", "y", strides=[3, 3], output_padding=[1, 1], **attrs)
    same_as_onnxruntime(one_node(n, {"x": f32(1, 4, 4, 4)}, {"w": f32(4, 2, 3, 3)}), {"x": f32(1, 4, 4, 4)})


def test_strided_views_of_few_channels_are_rows_of_a_matrix() -> None:
    n = node("Conv", "x w b", "y", strides=[3, 3])
    g = read_model(one_node(n, {"x": f32(2, 3, 6, 6)}, {"w": f32(4, 3, 3, 3), "b": f32(4)}))
    assert "matmul" in [n.op for n in g.nodes]
    same_as_onnxruntime(
        one_node(n, {"x": f32(2, 3, 6, 6)}, {"w": f32(4, 3, 3, 3), "b": f32(4)}), {"x": f32(2, 3, 6, 6)}
    )


@pytest.mark.parametrize(
    ("channels", "kernel", "ahead"),
    [(3, (3, 3), True), (8, (3, 3), True), (15, (1, 3), True), (16, (3, 3), False), (8, (3, 1), False)],
)
def test_few_channels_are_padded_ahead(channels: int, kernel: tuple[int, int], ahead: bool) -> None:
    """Few channels always; some more where a window's rows are wider than a pixel."""
    n = node("Conv", "x w", "y", pads=[1, 1, 1, 1])
    g = read_model(one_node(n, {"x": f32(1, channels, 6, 6)}, {"w": f32(4, channels, *kernel)}))
    assert [n.op for n in g.nodes if n.op in ("pad", "conv")] == (["pad", "conv"] if ahead else ["conv"])


def u8(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


@pytest.mark.parametrize("zeros", [(), (7,), (7, 131)])
def test_integers(zeros: tuple[int, ...]) -> None:
    names = ["x", "w", "xz", "wz"][: 2 + len(zeros)]
    inits = {"w": u8(4, 2, 3, 3), "xz": np.uint8(7), "wz": np.uint8(131)}
    n = node("ConvInteger", " ".join(names), "y", pads=[1, 0, 1, 2], strides=[2, 1], group=2)
    m = one_node(n, {"x": u8(2, 4, 6, 5)}, {k: v for k, v in inits.items() if k in names})
    same_as_onnxruntime(m, {"x": u8(2, 4, 6, 5)})


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised(per_channel: bool) -> None:
    scale = (f32(4, seed=3) ** 2 + 0.1) * 0.01 if per_channel else np.float32(0.01)
    zero = np.zeros(4, np.int8) if per_channel else np.int8(3)
    inits = {
        "xs": np.float32(0.05),
        "xz": np.uint8(120),
        "w": (u8(4, 3, 3, 3) % 60).astype(np.int8),
        "ws": scale,
        "wz": zero,
    }
    inits |= {"ys": np.float32(0.2), "yz": np.uint8(100), "b": np.arange(4, dtype=np.int32) * 90}
    n = node("QLinearConv", "x xs xz w ws wz ys yz b", "y", pads=[1, 1, 1, 1])
    same_as_onnxruntime(one_node(n, {"x": u8(2, 3, 6, 5)}, inits), {"x": u8(2, 3, 6, 5)})


@pytest.mark.parametrize(("activation", "params"), [("Relu", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 0.5])])
def test_fused(activation: str, params: list[float]) -> None:
    more = {"activation_params": params} if params else {}
    n = node("FusedConv", "x w b z", "y", domain="com.microsoft", activation=activation, pads=[1, 1, 1, 1], **more)
    feeds = {"x": f32(1, 3, 5, 6), "z": f32(1, 4, 5, 6, seed=4)}
    same_as_onnxruntime(one_node(n, feeds, {"w": f32(4, 3, 3, 3), "b": f32(4)}, domains=MS), feeds)


@pytest.mark.parametrize("params", [{}, {"activation_alpha": 0.3}])
def test_fused_products(params: dict[str, float]) -> None:
    activation = "LeakyRelu" if params else "Relu"
    n = node("FusedGemm", "x w b", "y", domain="com.microsoft", activation=activation, transB=1, alpha=0.5, **params)
    same_as_onnxruntime(one_node(n, {"x": f32(3, 5)}, {"w": f32(4, 5), "b": f32(4)}, domains=MS), {"x": f32(3, 5)})


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"kernel_shape": [3, 2]}, "Conv", "kernel_shape [3, 2]"),
    ({"group": 3}, "Conv", "group 3"),
    ({"group": 0}, "Conv", "group 0"),
    ({"strides": [0, 1]}, "Conv", "strides [0, 1]"),
    ({"strides": [1]}, "Conv", "strides [1]"),
    ({"dilations": [1, 9]}, "Conv", "kernel_shape [3, 3] reaches over 19 elements"),
    ({"pads": [1, 1]}, "Conv", "pads [1, 1]"),
    ({"pads": [-1, 0, 0, 0]}, "Conv", "pads [-1, 0, 0, 0]"),
    ({"pads": [2, 1, 1, 1], "auto_pad": "SAME_UPPER"}, "Conv", "auto_pad 'SAME_UPPER'"),
    ({"pads": [1 << 62] * 4}, "Conv", "pads [4611686018427387904"),
    ({"strides": [1 << 62] * 2}, "ConvTranspose", "strides [4611686018427387904"),
    ({"auto_pad": "SAME"}, "Conv", "auto_pad 'SAME'"),
    ({"pads": [5, 5, 5, 5]}, "ConvTranspose", "pads [5, 5, 5, 5]"),
    ({"output_padding": [1, 1]}, "ConvTranspose", "output_padding [1, 1]"),
    ({"output_shape": [0, 1]}, "ConvTranspose", "output_shape [0, 1]"),
    ({"group": 5}, "ConvTranspose", "group 5"),
]


@pytest.mark.parametrize(("attrs", "op", "words"), REFUSED)
def test_contradictions_name_node_and_attribute(attrs: dict[str, Any], op: str, words: str) -> None:
    n = node(op, "x w", "y", name="the_node", **attrs)
    fails(ModelError, one_node(n, {"x": f32(1, 4, 6, 6)}, {"w": f32(4, 4, 3, 3)}), "the_node", words)


@pytest.mark.parametrize("shape", [(1, 4, 2, 6), (1, 4, 0, 6), (0, 4, 6, 2)])
def test_kernels_larger_than_the_input(shape: tuple[int, ...]) -> None:
    n = node("Conv", "x w", "y", name="the_node")
    fails(ModelError, one_node(n, {"x": f32(*shape)}, {"w": f32(4, 4, 3, 3)}), "the_node", "kernel_shape [3, 3]")


def test_no_images_are_no_error() -> None:
    n = node("Conv", "x w", "y", pads=[1, 1, 1, 1])
    same_as_onnxruntime(one_node(n, {"x": f32(0, 4, 6, 6)}, {"w": f32(4, 4, 3, 3)}), {"x": f32(0, 4, 6, 6)})


def test_inputs_smaller_than_a_window_are_refused_at_run_time() -> None:
    n = node("Conv", "x w", "y", name="the_node")
    m = one_node(n, {"x": f32(1, 4, 6, 6)}, {"w": f32(4, 4, 3, 3)}, symbolic=True)
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    session = fusec.compile(m, threads=1)
    assert session.run({"x": f32(1, 4, 3, 4)})["y"].shape == (1, 4, 1, 2)
    with pytest.raises(InputError, match="the_node"):
        session.run({"x": f32(1, 4, 1, 4)})
