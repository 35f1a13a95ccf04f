"""Recurrent layers of several kinds as ONNX models, small enough for emulation."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto
from onnx import helper as h
from session_models import model, numbers

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = np.array([5, 2], np.int32)
"""Of two sequences."""


def layer(
    op: str, hidden=24, batch=2, steps="T", *, inputs=12, lengths=False, peepholes=False, initial=False, **attrs
) -> ModelProto:
    """One node, with everything that it may have."""
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    gates, states = GATES[op] * hidden, ["h", "c"] if op == "LSTM" else ["h"]
    weights = {
        "w": numbers(directions, gates, inputs, seed=1),
        "r": numbers(directions, gates, hidden, seed=2),
        "b": numbers(directions, 2 * gates, seed=3),
    }
    feeds = [("x", [steps, batch, inputs])]
    names = ["x", "w", "r", "b", "n" if lengths else ""]
    if lengths:
        feeds.append(("n", [batch], TensorProto.INT32))
    if initial:
        weights |= {f"{s}0": numbers(directions, batch, hidden, seed=4) for s in states}
        names += [f"{s}0" for s in states]
    if peepholes:
        weights["p"] = numbers(directions, 3 * hidden, seed=5)
        names += [""] * (7 - len(names)) + ["p"]
    ends = [("y", [steps, directions, batch, hidden]), ("hn", [directions, batch, hidden])]
    node = h.make_node(op, names, ["y", *(f"{s}n" for s in states)], hidden_size=hidden, **attrs)
    return model([node], feeds, ends, weights)


def stack(layers=3, hidden=24, batch=2, steps="T", op="LSTM") -> ModelProto:
    """Layers one after the other: each goes on while the one before still runs."""
    nodes, weights, x = [], {"axes": np.array([1])}, "x"
    for i in range(layers):
        gates = GATES[op] * hidden
        weights[f"w{i}"], weights[f"r{i}"] = numbers(1, gates, hidden, seed=i), numbers(1, gates, hidden, seed=9 + i)
        nodes.append(h.make_node(op, [x, f"w{i}", f"r{i}"], [f"y{i}"], hidden_size=hidden))
        nodes.append(h.make_node("Squeeze", [f"y{i}", "axes"], [x := f"s{i}"]))
    return model(nodes, [("x", [steps, batch, hidden])], [(x, [steps, batch, hidden])], weights)
