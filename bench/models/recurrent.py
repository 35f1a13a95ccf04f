"""Rammer's LSTM (OSDI 2020): ten layers, a hundred steps, 256 hidden units, as LSTM nodes and written out step by step."""

from __future__ import annotations

import math

import numpy as np

from bench.models.builder import ModelBuilder

LAYERS, STEPS, HIDDEN = 10, 100, 256


def lstm_nodes(batch: int = 1, layers: int = LAYERS, steps: int = STEPS, hidden: int = HIDDEN) -> ModelBuilder:
    """One LSTM node per layer; the output is the last layer's last state."""
    b = ModelBuilder("lstm_nodes")
    x = b.input("x", [steps, batch, hidden], b.rng.standard_normal((steps, batch, hidden)).astype(np.float32))
    last = ""
    for _ in range(layers):
        w, r = (b.weight(1, 4 * hidden, hidden, scale=1 / math.sqrt(hidden)) for _ in range(2))
        bias = b.weight(1, 8 * hidden, scale=0.05)
        y, last, _ = b.op("LSTM", x, w, r, bias, outputs=3, hidden_size=hidden)
        x = b.op("Squeeze", y, b.ints(1))
    b.output(last, [1, batch, hidden])
    return b


def lstm_unrolled(batch: int = 1, layers: int = LAYERS, steps: int = STEPS, hidden: int = HIDDEN) -> ModelBuilder:
    """The same sizes as matrix products, additions and activations: each gate has a matrix for x and one for the state."""
    b = ModelBuilder("lstm_unrolled")
    x = b.input("x", [steps, batch, hidden], b.rng.standard_normal((steps, batch, hidden)).astype(np.float32))
    split = b.op("Split", x, b.ints(*[1] * steps), outputs=steps, axis=0)
    axis, zero = b.ints(0), b.constant(np.zeros((batch, hidden), np.float32))
    parts = [b.op("Squeeze", s, axis) for s in (split if steps > 1 else [split])]
    for _ in range(layers):
        gates = [(b.weight(hidden, hidden), b.weight(hidden, hidden), b.weight(hidden, scale=0.05)) for _ in range(4)]
        h, c, out = zero, zero, []
        for step in parts:
            i, o, f, g = (
                b.op("Add", b.op("Add", b.op("MatMul", step, w), b.op("MatMul", h, u)), v) for w, u, v in gates
            )
            i, o, f, g = (*(b.op("Sigmoid", v) for v in (i, o, f)), b.op("Tanh", g))
            c = b.op("Add", b.op("Mul", f, c), b.op("Mul", i, g))
            h = b.op("Mul", o, b.op("Tanh", c))
            out.append(h)
        parts = out
    b.output(parts[-1], [batch, hidden])
    return b
