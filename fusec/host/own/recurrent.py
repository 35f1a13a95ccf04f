"""LSTM, GRU and RNN with both directions, sequence lengths and every activation; the reference has one direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.host.compute import Attrs, Compute
from fusec.host.own.windows import Array

Activation = Callable[[Array], Array]
Product = Callable[[Array], Array]
"""x @ W.T for one direction, however the weights are stored."""


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0)).astype(x.dtype, copy=False)


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    table: dict[str, Activation] = {
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "affine": lambda x: given(alpha, 1.0) * x + given(beta, 0.0),
        "leakyrelu": lambda x: np.where(x >= 0, x, given(alpha, 0.01) * x),
        "thresholdedrelu": lambda x: np.where(x >= given(alpha, 1.0), x, 0),
        "scaledtanh": lambda x: given(alpha, 1.0) * np.tanh(given(beta, 1.0) * x),
        "hardsigmoid": lambda x: np.clip(given(alpha, 0.2) * x + given(beta, 0.5), 0, 1),
        "elu": lambda x: np.where(x >= 0, x, given(alpha, 1.0) * np.expm1(np.minimum(x, 0))),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.logaddexp(x, 0),
    }
    return table[name.lower()]


_WITH_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
_WITH_BETA = ("affine", "scaledtanh", "hardsigmoid")


@dataclass(frozen=True)
class Layer:
    """What one direction of a recurrent layer is made of."""

    of_input: Product
    of_state: Product
    input_bias: Array
    state_bias: Array
    peepholes: Array | None
    activations: tuple[Activation, ...]
    hidden: int
    clip: float
    attrs: Attrs


Step = Callable[[Layer, Array, Array, Array], tuple[Array, Array]]
"""(layer, x @ W, hidden, cell) -> (hidden, cell)."""


def activations_of(attrs: Attrs, defaults: Sequence[str], directions: int) -> list[tuple[Activation, ...]]:
    """The activation functions of every direction."""
    names = [n.decode() if isinstance(n, bytes) else n for n in attrs.get("activations") or list(defaults) * directions]
    alphas, betas = list(attrs.get("activation_alpha") or ()), list(attrs.get("activation_beta") or ())
    made = []
    for n in names:
        alpha = alphas.pop(0) if n.lower() in _WITH_ALPHA and alphas else None
        beta = betas.pop(0) if n.lower() in _WITH_BETA and betas else None
        made.append(_activation(n, alpha, beta))
    per = len(defaults)
    return [tuple(made[i * per : (i + 1) * per]) for i in range(directions)]


def _clipped(layer: Layer, x: Array) -> Array:
    return np.clip(x, -layer.clip, layer.clip) if layer.clip else x


def lstm_step(layer: Layer, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Gates in the order input, output, forget, cell."""
    f, g, last = layer.activations
    total = gates + layer.of_state(h) + (layer.input_bias + layer.state_bias)
    i, o, r, n = np.split(total, 4, axis=-1)
    p_i, p_o, p_f = np.split(layer.peepholes, 3) if layer.peepholes is not None else (0, 0, 0)
    i = f(_clipped(layer, i + p_i * c))
    r = 1 - i if layer.attrs.get("input_forget", 0) else f(_clipped(layer, r + p_f * c))
    cell = r * c + i * g(_clipped(layer, n))
    return f(_clipped(layer, o + p_o * cell)) * last(cell), cell


def gru_step(layer: Layer, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Gates in the order update, reset, hidden."""
    f, g = layer.activations
    size = layer.hidden
    gates = gates + layer.input_bias
    if layer.attrs.get("linear_before_reset", 0):
        state = layer.of_state(h) + layer.state_bias
        z, r = (
            f(_clipped(layer, gates[:, k * size : (k + 1) * size] + state[:, k * size : (k + 1) * size]))
            for k in (0, 1)
        )
        n = g(_clipped(layer, gates[:, 2 * size :] + r * state[:, 2 * size :]))
    else:
        state = layer.of_state(h) + layer.state_bias
        z, r = (
            f(_clipped(layer, gates[:, k * size : (k + 1) * size] + state[:, k * size : (k + 1) * size]))
            for k in (0, 1)
        )
        inner = (layer.of_state(r * h) + layer.state_bias)[:, 2 * size :]
        n = g(_clipped(layer, gates[:, 2 * size :] + inner))
    return (1 - z) * n + z * h, c


def rnn_step(layer: Layer, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One gate."""
    (f,) = layer.activations
    return f(_clipped(layer, gates + layer.of_state(h) + (layer.input_bias + layer.state_bias))), c


def run_layers(
    x: Array, layers: Sequence[Layer], step: Step, lengths: Array | None, h0: Array | None, c0: Array | None
) -> tuple[Array, Array, Array]:
    """x is [steps, batch, size]; gives ([steps, directions, batch, hidden], last hidden, last cell)."""
    steps, batch, _ = x.shape
    hidden = layers[0].hidden
    out = np.zeros((steps, len(layers), batch, hidden), x.dtype)
    last_h = np.zeros((len(layers), batch, hidden), x.dtype)
    last_c = np.zeros_like(last_h)
    backward_only = layers[0].attrs.get("direction", b"forward") in (b"reverse", "reverse")
    for d, layer in enumerate(layers):
        h = np.zeros((batch, hidden), x.dtype) if h0 is None else h0[d]
        c = np.zeros((batch, hidden), x.dtype) if c0 is None else c0[d]
        gates = layer.of_input(x.reshape(steps * batch, -1)).reshape(steps, batch, -1)
        order = range(steps) if d == 0 and not backward_only else range(steps - 1, -1, -1)
        for t in order:
            new_h, new_c = step(layer, gates[t], h, c)
            if lengths is not None:  # past its end a sequence keeps its state and gives zeros
                live = (t < lengths)[:, None]
                h, c = np.where(live, new_h, h), np.where(live, new_c, c)
                out[t, d] = np.where(live, new_h, 0)
            else:
                h, c = new_h, new_c
                out[t, d] = h
        last_h[d], last_c[d] = h, c
    return out, last_h, last_c


def make_layers(
    products: Sequence[tuple[Product, Product]],
    bias: Array | None,
    peepholes: Array | None,
    hidden: int,
    gates: int,
    defaults: Sequence[str],
    attrs: Attrs,
    dtype: Any,
) -> list[Layer]:
    """A layer per direction, from its products with inputs and states; the biases of both stand side by side in `bias`."""
    functions = activations_of(attrs, defaults, len(products))
    bias = np.zeros((len(products), 2 * gates * hidden), dtype) if bias is None else bias
    clip = float(attrs.get("clip", 0.0) or 0.0)
    layers = []
    for d, (of_input, of_state) in enumerate(products):
        input_bias, state_bias = np.split(bias[d], 2)
        peep = None if peepholes is None else peepholes[d]
        layers.append(Layer(of_input, of_state, input_bias, state_bias, peep, functions[d], hidden, clip, attrs))
    return layers


def _recurrent(step: Step, gates: int, defaults: Sequence[str]) -> Compute:
    def compute(inputs: Sequence[Any], attrs: Attrs, _opset: int, _outputs: int) -> Sequence[Any]:
        x, w, r, bias, lengths, h0, c0, peepholes = (*inputs, *(None,) * 8)[:8]
        batch_first = bool(attrs.get("layout", 0))
        if batch_first:
            x = x.swapaxes(0, 1)
            h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
        products = [(_product(of_input), _product(of_state)) for of_input, of_state in zip(w, r, strict=True)]
        layers = make_layers(products, bias, peepholes, r.shape[-1], gates, defaults, attrs, x.dtype)
        y, h, c = run_layers(x, layers, step, lengths, h0, c0)
        if batch_first:
            y, h, c = y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)
        return tuple(np.ascontiguousarray(v) for v in (y, h, c))

    return compute


def _product(weights: Array) -> Product:
    transposed = np.ascontiguousarray(weights.T)
    return lambda x: np.asarray(x @ transposed)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {
    ("", "LSTM"): _recurrent(lstm_step, 4, ("Sigmoid", "Tanh", "Tanh")),
    ("", "GRU"): _recurrent(gru_step, 3, ("Sigmoid", "Tanh")),
    ("", "RNN"): _recurrent(rnn_step, 1, ("Tanh",)),
}
