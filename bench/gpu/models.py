"""What the tables of bench.gpu are about: the same model for fusec and for PyTorch, with the same weights.

fusec gets graphs made by hand (bfloat16 and a billion parameters are no trouble there) or ONNX; PyTorch gets the functions that
its users would write: `addmm`, `layer_norm`, `scaled_dot_product_attention`, `nn.LSTM`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusec.ir.build import GraphBuilder
from fusec.ir.graph import Graph

Array = npt.NDArray[Any]
Torch = Any
"""The module torch, which is imported only where it is asked for."""
Rival = Callable[[Torch, Callable[[Array], Any]], Callable[..., Any]]
"""Given torch and how arrays come to the device, a function from input tensors to output tensors."""
NUMPY = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
TOLERANCE = {"f32": 1e-4, "bf16": 4e-2}
"""What outputs may differ by, of 1 + their peak."""


@dataclass(frozen=True, eq=False)
class Made:
    """A model: for fusec a graph or the bytes of an ONNX model, its inputs, PyTorch's version, and how much work it is."""

    model: Graph | bytes
    feeds: dict[str, Array]
    torch: Rival
    dtype: str
    flops: float
    weight_bytes: int
    outputs: tuple[int, ...] | None = None
    """Which of fusec's outputs the other one gives, where these are not all."""
    passes: dict[str, str] = field(default_factory=dict)
    """Other ways to compile it that are worth comparing: name -> passes."""


class _Weights:
    """Seeded weights of sensible size, each kept for the other side by name. Large ones repeat a pool of random numbers."""

    def __init__(self, builder: GraphBuilder, dtype: str) -> None:
        self.b, self.dtype, self.arrays = builder, NUMPY[dtype], dict[str, Array]()
        self._rng = np.random.default_rng(0)
        self._pool = self._rng.standard_normal(1 << 22, dtype=np.float32)
        self._at = 0

    def __call__(self, name: str, *shape: int, scale: float | None = None, offset: float = 0.0) -> Any:
        count = math.prod(shape)
        start, self._at = self._at, (self._at + 104729 + count) % len(self._pool)
        flat = np.take(self._pool, np.arange(start, start + count), mode="wrap")
        size = np.float32(1 / math.sqrt(shape[0]) if scale is None else scale)
        array = (flat * size + np.float32(offset)).reshape(shape).astype(self.dtype)
        self.arrays[name] = array
        return self.b.weight(name, array)

    def example(self, *shape: int, scale: float = 1.0) -> Array:
        """An input."""
        return (self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(a.nbytes for a in self.arrays.values())


def mlp(sizes: Sequence[int], dtype: str = "f32", rows: int = 1) -> Made:
    """Linear layers with ReLU between them."""
    b = GraphBuilder("mlp")
    w = _Weights(b, dtype)
    x = b.input("x", f"{dtype}[{rows}, {sizes[0]}]")
    layers = list(itertools.pairwise(sizes))
    for i, (inner, outer) in enumerate(layers):
        product = b.op("matmul", x, w(f"w{i}", inner, outer, scale=math.sqrt(2 / inner)))
        x = b.op("add", product, w(f"b{i}", outer, scale=0.02))
        x = b.op("relu", x) if i < len(layers) - 1 else x

    def rival(torch: Torch, put: Callable[[Array], Any]) -> Callable[..., Any]:
        pairs = [(put(w.arrays[f"w{i}"]), put(w.arrays[f"b{i}"])) for i in range(len(layers))]

        def run(x: Any) -> list[Any]:
            for i, (weight, bias) in enumerate(pairs):
                x = torch.addmm(bias, x, weight)
                x = torch.relu(x) if i < len(pairs) - 1 else x
            return [x]

        return run

    flops = 2.0 * rows * sum(i * o for i, o in layers)
    return Made(b.graph([x]), {"x": w.example(rows, sizes[0])}, rival, dtype, flops, w.nbytes)


@dataclass(frozen=True)
class Decoder:
    """The shape of a transformer that decodes one token."""

    layers: int
    width: int
    heads: int
    past: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Numbers in all matrices."""
        return self.layers * 12 * self.width**2 + self.width * self.vocabulary


def decoder(s: Decoder, dtype: str) -> Made:
    """One decoding step at batch 1 with a cache of keys and values, which grows by one; the last layer gives scores."""
    b = GraphBuilder("decoder")
    w = _Weights(b, dtype)
    head = s.width // s.heads
    x = b.input("x", f"{dtype}[1, {s.width}]")
    cache = f"{dtype}[{s.heads}, {s.past}, {head}]"
    pasts = [(b.input(f"past_k{i}", cache), b.input(f"past_v{i}", cache)) for i in range(s.layers)]

    def norm(x: Any, name: str) -> Any:
        scale = w(f"{name}_scale", s.width, scale=0.1, offset=1.0)
        return b.op("layer_norm", x, scale, w(f"{name}_bias", s.width, scale=0.02), axis=1, epsilon=1e-5)

    def linear(x: Any, name: str, inner: int, outer: int) -> Any:
        return b.op("add", b.op("matmul", x, w(f"{name}_w", inner, outer)), w(f"{name}_b", outer, scale=0.02))

    presents = []
    for i, (past_k, past_v) in enumerate(pasts):
        qkv = linear(norm(x, f"n{i}"), f"qkv{i}", s.width, 3 * s.width)
        parts = [
            b.op("reshape", b.op("slice", qkv, starts=(0, j * s.width), sizes=(1, s.width), steps=(1, 1)),
                 shape=(s.heads, 1, head))
            for j in range(3)
        ]  # fmt: skip
        k, v = b.op("concat", past_k, parts[1], axis=1), b.op("concat", past_v, parts[2], axis=1)
        presents += [k, v]
        seen = b.op("attention", parts[0], k, v, scale=1 / math.sqrt(head), causal=False)
        x = b.op("add", x, linear(b.op("reshape", seen, shape=(1, s.width)), f"out{i}", s.width, s.width))
        up = b.op("gelu", linear(norm(x, f"m{i}"), f"up{i}", s.width, 4 * s.width), approximate="tanh")
        x = b.op("add", x, linear(up, f"down{i}", 4 * s.width, s.width))
    scores = b.op("matmul", norm(x, "last"), w("head_w", s.width, s.vocabulary))
    feeds = {"x": w.example(1, s.width)}
    for k, v in pasts:
        feeds |= {n.name: w.example(s.heads, s.past, head) for n in (k, v)}
    graph = b.graph([scores, *presents])
    flops = 2.0 * s.parameters + 4.0 * s.layers * s.width * (s.past + 1)
    return Made(graph, feeds, _decoder_rival(s, w.arrays), dtype, flops, w.nbytes)


def _decoder_rival(s: Decoder, arrays: dict[str, Array]) -> Rival:
    def rival(torch: Torch, put: Callable[[Array], Any]) -> Callable[..., Any]:
        w = {n: put(a) for n, a in arrays.items()}
        head, functional = s.width // s.heads, torch.nn.functional

        def norm(x: Any, name: str) -> Any:
            return functional.layer_norm(x, (s.width,), w[f"{name}_scale"], w[f"{name}_bias"], 1e-5)

        def linear(x: Any, name: str) -> Any:
            return torch.addmm(w[f"{name}_b"], x, w[f"{name}_w"])

        def run(x: Any, *pasts: Any) -> list[Any]:
            presents = []
            for i in range(s.layers):
                q, k, v = (t.reshape(s.heads, 1, head) for t in linear(norm(x, f"n{i}"), f"qkv{i}").chunk(3, dim=1))
                k, v = torch.cat((pasts[2 * i], k), 1), torch.cat((pasts[2 * i + 1], v), 1)
                presents += [k, v]
                seen = functional.scaled_dot_product_attention(q[None], k[None], v[None])
                x = x + linear(seen.reshape(1, s.width), f"out{i}")
                x = x + linear(functional.gelu(linear(norm(x, f"m{i}"), f"up{i}"), approximate="tanh"), f"down{i}")
            return [norm(x, "last") @ w["head_w"], *presents]

        return run

    return rival


def lstm(layers: int, steps: int, hidden: int) -> Made:
    """Rammer's LSTM: layers one above the other, batch 1; the last state of the last layer."""
    from onnx import numpy_helper

    from bench.models.recurrent import lstm_nodes

    made = lstm_nodes(1, layers, steps, hidden)
    model = made.model()
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "LSTM"]
    per_layer = [[arrays[n] for n in node.input[1:4]] for node in nodes]

    def rival(torch: Torch, put: Callable[[Array], Any]) -> Callable[..., Any]:
        network = torch.nn.LSTM(hidden, hidden, layers)
        for i, (w, r, bias) in enumerate(per_layer):
            both = np.split(bias[0], 2)
            for name, array in (("weight_ih", w[0]), ("weight_hh", r[0]), ("bias_ih", both[0]), ("bias_hh", both[1])):
                tensor = put(np.ascontiguousarray(_gates_as_torch(array)))
                setattr(network, f"{name}_l{i}", torch.nn.Parameter(tensor, requires_grad=False))
        network.flatten_parameters()

        def run(x: Any) -> list[Any]:
            return [network(x)[1][0][-1:]]

        return run

    flops = 2.0 * 8 * hidden * hidden * layers * steps
    nbytes = sum(a.nbytes for w in per_layer for a in w)
    return Made(model.SerializeToString(), made.feeds, rival, "f32", flops, nbytes)


def _gates_as_torch(array: Array) -> Array:
    """ONNX stores the gates i, o, f, c; PyTorch i, f, g, o."""
    i, o, f, c = np.split(array, 4)
    return np.concatenate([i, f, c, o])


def gemm(m: int, n: int, k: int, dtype: str) -> Made:
    """A product whose second factor is a weight."""
    b = GraphBuilder("gemm")
    w = _Weights(b, dtype)
    x = b.input("x", f"{dtype}[{m}, {k}]")
    y = b.op("matmul", x, w("w", k, n))

    def rival(torch: Torch, put: Callable[[Array], Any]) -> Callable[..., Any]:
        weight = put(w.arrays["w"])
        return lambda x: [torch.matmul(x, weight)]

    return Made(b.graph([y]), {"x": w.example(m, k)}, rival, dtype, 2.0 * m * n * k, w.nbytes)


def chain(batch: int, m: int, k: int, inner: int, n: int, between: str, dtype: str) -> Made:
    """x @ a, something in between, @ c: all three are inputs. `between` is "", "relu" or "softmax"."""
    b = GraphBuilder("chain")
    w = _Weights(b, dtype)
    shapes = {"x": (batch, m, k), "a": (batch, k, inner), "c": (batch, inner, n)}
    values = {name: b.input(name, f"{dtype}[{', '.join(map(str, shape))}]") for name, shape in shapes.items()}
    h = b.op("matmul", values["x"], values["a"])
    h = b.op("relu", h) if between == "relu" else b.op("softmax", h, axis=2) if between == "softmax" else h
    y = b.op("matmul", h, values["c"])
    feeds = {name: w.example(*shape, scale=shape[-2] ** -0.5) for name, shape in shapes.items()}

    def rival(torch: Torch, put: Callable[[Array], Any]) -> Callable[..., Any]:
        del put

        def run(x: Any, a: Any, c: Any) -> list[Any]:
            h = torch.matmul(x, a)
            h = torch.relu(h) if between == "relu" else torch.softmax(h, -1) if between == "softmax" else h
            return [torch.matmul(h, c)]

        return run

    flops = 2.0 * batch * m * inner * (k + n)
    apart = {"apart": "-fuse-chain,-canonicalise-attention"}
    return Made(b.graph([y]), feeds, rival, dtype, flops, 0, passes=apart)
