"""Models with loops: greedy decoders of fifty turns, and recurrent nets that are written as Scan and as Loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

Feeds = dict[str, npt.NDArray[Any]]
FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TURNS = 50


def gru_decoder(batch: int = 1, hidden: int = 128, words: int = 1000, source: int = 40) -> tuple[bytes, Feeds]:
    """Embedding, GRU, attention over an encoder's states, logits, argmax; it ends when all sequences have ended."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "emb": rng.standard_normal((words, hidden)).astype(np.float32) / 3,
        **{n: _weight(rng, 2 * hidden, hidden) for n in ("wz", "wr", "wn", "wo")},
        "wq": _weight(rng, hidden, hidden),
        "wl": _weight(rng, hidden, words) * 8,
        "one": np.float32(1),
        "end": np.int64(words + 1),  # no sequence ends early, so that all runs do the same
        "axis1": np.array([1]),
        "turns": np.array(TURNS),
    }
    body = _Nodes()
    op = body.op
    x = op("Gather", "emb", "token")
    both = op("Concat", x, "state", axis=1)
    z, r = (op("Sigmoid", op("MatMul", both, w)) for w in ("wz", "wr"))
    n = op("Tanh", op("MatMul", op("Concat", x, op("Mul", r, "state"), axis=1), "wn"))
    state = op("Add", op("Mul", op("Sub", "one", z), n), op("Mul", z, "state"))
    query = op("Unsqueeze", op("MatMul", state, "wq"), "axis1")
    scores = op("MatMul", query, op("Transpose", "encoded", perm=[0, 2, 1]))
    seen = op("Squeeze", op("MatMul", op("Softmax", scores, axis=-1), "encoded"), "axis1")
    logits = op("MatMul", op("Tanh", op("MatMul", op("Concat", state, seen, axis=1), "wo")), "wl")
    token = op("ArgMax", logits, axis=1, keepdims=0)
    ended = op("Cast", op("Equal", token, "end"), to=INT)
    go = op("Not", op("Cast", op("ReduceMin", ended, keepdims=0), to=BOOL))
    graph = body.graph(
        [_value("turn", INT), _value("going", BOOL), _value("token", INT, "B"), _value("state", FLOAT, "B", hidden)],
        [_value(go, BOOL), _value(token, INT, "B"), _value(state, FLOAT, "B", hidden),
         _value(op("Identity", token), INT, "B")],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["turns", "", "first", "start"], ["last", "end_state", "tokens"], body=graph)
    model = _model(
        [loop],
        [_value("first", INT, "B"), _value("start", FLOAT, "B", hidden), _value("encoded", FLOAT, "B", "S", hidden)],
        [_value("end_state", FLOAT, "B", hidden), _value("tokens", INT, "T", "B")],
        weights,
    )
    feeds: Feeds = {
        "first": np.arange(batch),
        "start": rng.standard_normal((batch, hidden)).astype(np.float32),
        "encoded": rng.standard_normal((batch, source, hidden)).astype(np.float32),
    }
    return model, feeds


def cache_decoder(hidden: int = 128, heads: int = 4, layers: int = 2, past: int = 10) -> tuple[bytes, Feeds]:
    """Two transformer layers; keys and values of each are states that grow with every turn."""
    rng = np.random.default_rng(1)
    size = hidden // heads
    weights: dict[str, Any] = {
        "split": np.array([1, 1, heads, size]), "join": np.array([1, 1, hidden]), "scale": np.float32(size**-0.5),
        "turns": np.array(TURNS),
    }  # fmt: skip
    body = _Nodes()
    op = body.op
    x, caches, made = "x", [], []
    for i in range(layers):
        weights |= {f"{n}{i}": _weight(rng, hidden, hidden) for n in ("q", "k", "v", "o")}
        weights |= {f"up{i}": _weight(rng, hidden, 4 * hidden), f"down{i}": _weight(rng, 4 * hidden, hidden)}
        weights[f"gain{i}"] = np.ones(hidden, np.float32)
        y = op("LayerNormalization", x, f"gain{i}")
        q, k, v = (
            op("Transpose", op("Reshape", op("MatMul", y, f"{n}{i}"), "split"), perm=[0, 2, 1, 3]) for n in "qkv"
        )
        k, v = op("Concat", f"keys{i}", k, axis=2), op("Concat", f"values{i}", v, axis=2)
        scores = op("Mul", op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2])), "scale")
        seen = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = op("Add", x, op("MatMul", op("Reshape", seen, "join"), f"o{i}"))
        x = op("Add", x, op("MatMul", op("Relu", op("MatMul", x, f"up{i}")), f"down{i}"))
        caches += [f"keys{i}", f"values{i}"]
        made += [k, v]
    x = op("Tanh", x)
    graph = body.graph(
        [_value("turn", INT), _value("going", BOOL), _value("x", FLOAT, 1, 1, hidden),
         *(_value(c, FLOAT, 1, heads, "P", size) for c in caches)],
        [_value(op("Identity", "going"), BOOL), _value(x, FLOAT, 1, 1, hidden),
         *(_value(m, FLOAT, 1, heads, "Q", size) for m in made), _value(op("Identity", x), FLOAT, 1, 1, hidden)],
    )  # fmt: skip
    firsts = [f"first_{c}" for c in caches]
    loop = helper.make_node(
        "Loop", ["turns", "", "first", *firsts], ["last", *(f"last_{c}" for c in caches), "all"], body=graph
    )
    ins = [_value("first", FLOAT, 1, 1, hidden), *(_value(n, FLOAT, 1, heads, "P", size) for n in firsts)]
    model = _model([loop], ins, [_value("last", FLOAT, 1, 1, hidden), _value("all", FLOAT, "T", 1, 1, hidden)], weights)
    feeds: Feeds = {n: rng.standard_normal((1, heads, past, size)).astype(np.float32) for n in firsts}
    return model, feeds | {"first": rng.standard_normal((1, 1, hidden)).astype(np.float32)}


def scan_net(hidden: int = 128, batch: int = 1, steps: int = 100) -> tuple[bytes, Feeds]:
    """A recurrent net as a Scan."""
    body = _Nodes()
    new = body.op("Tanh", body.op("Add", body.op("MatMul", "x", "w"), body.op("MatMul", "h", "u")))
    state, row = _value("h", FLOAT, "B", hidden), _value(body.op("Identity", new), FLOAT, "B", hidden)
    graph = body.graph([state, _value("x", FLOAT, "B", hidden)], [_value(new, FLOAT, "B", hidden), row])
    scan = helper.make_node("Scan", ["start", "xs"], ["last", "all"], body=graph, num_scan_inputs=1)
    return _recurrent(scan, hidden, batch, steps, {})


def loop_net(hidden: int = 128, batch: int = 1, steps: int = 100) -> tuple[bytes, Feeds]:
    """The same as a Loop that takes its inputs by number."""
    body = _Nodes()
    x = body.op("Gather", "xs", "turn", axis=0)
    new = body.op("Tanh", body.op("Add", body.op("MatMul", x, "w"), body.op("MatMul", "h", "u")))
    row = _value(body.op("Identity", new), FLOAT, "B", hidden)
    graph = body.graph(
        [_value("turn", INT), _value("going", BOOL), _value("h", FLOAT, "B", hidden)],
        [_value(body.op("Identity", "going"), BOOL), _value(new, FLOAT, "B", hidden), row],
    )
    loop = helper.make_node("Loop", ["turns", "", "start"], ["last", "all"], body=graph)
    return _recurrent(loop, hidden, batch, steps, {"turns": np.array(steps)})


LOOPS: dict[str, Callable[[], tuple[bytes, Feeds]]] = {
    "gru decoder": gru_decoder,
    "gru decoder, 4 at once": lambda: gru_decoder(4),
    "attention with a cache": cache_decoder,
    "scan, 32 units": lambda: scan_net(32),
    "scan, 128 units": scan_net,
    "scan, 256 units, 8 at once": lambda: scan_net(256, 8),
    "loop, 128 units": loop_net,
}


class _Nodes:
    """The nodes of a body; names are numbers."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def graph(self, inputs: list[Any], outputs: list[Any]) -> Any:
        """The body."""
        return helper.make_graph(self.nodes, "body", inputs, outputs)


def _recurrent(node: Any, hidden: int, batch: int, steps: int, more: dict[str, Any]) -> tuple[bytes, Feeds]:
    rng = np.random.default_rng(2)
    weights = {"w": _weight(rng, hidden, hidden), "u": _weight(rng, hidden, hidden), **more}
    ins = [_value("start", FLOAT, "B", hidden), _value("xs", FLOAT, "T", "B", hidden)]
    outs = [_value("last", FLOAT, "B", hidden), _value("all", FLOAT, "T", "B", hidden)]
    shapes = {"start": (batch, hidden), "xs": (steps, batch, hidden)}
    feeds: Feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return _model([node], ins, outs, weights), feeds


def _weight(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[Any]:
    return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)


def _value(name: str, dtype: int, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> bytes:
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "loops", inputs, outputs, constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
