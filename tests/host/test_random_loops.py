"""Random loops: as plans, many turns in one go included, they give what the reference implementation gives."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusec
from fusec.runtime.session import Session

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SHAPE = [3, 16]
ONE = ("Tanh", "Neg", "Abs", "Sigmoid", "Identity", "Identity")
TWO = ("Add", "Mul", "Sub", "Max", "MatMul")


def typed(name: str, shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


class Maker:
    """Draws a model with one Loop or Scan."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.is_loop = self.rng.random() < 0.6
        self.nodes: list[Any] = []
        self.states = [f"s{i}" for i in range(self.rng.randint(1, 3))]
        self.slices = [] if self.is_loop else [f"x{i}" for i in range(self.rng.randint(1, 2))]
        self.values = [*self.states, *self.slices, "outer", "weight"]

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def draw(self) -> None:
        """A node over values that are there already."""
        kind = self.rng.choice((*ONE, *TWO))
        a, b = self.rng.choice(self.values), self.rng.choice(self.values)
        if kind == "MatMul":
            self.values.append(self.op("Tanh", self.op("MatMul", a, "square")))
        else:
            self.values.append(self.op(kind, a) if kind in ONE else self.op("Tanh", self.op(kind, a, b)))

    def state(self) -> str:
        """What a state becomes: a name of its own in most cases, or a value that is handed on."""
        return self.op("Identity", self.rng.choice(self.values))

    def model(self) -> tuple[bytes, bool]:
        rng = self.rng
        if self.is_loop and rng.random() < 0.7:
            self.values.append(self.op("Gather", "table", self.op("Mod", "turn", "five")))
        for _ in range(rng.randint(1, 9)):
            self.draw()
        after = [self.state() for _ in self.states]
        rows = [self.op("Identity", rng.choice(self.values)) for _ in range(rng.randint(0, 3))]
        ins = [typed(s, SHAPE) for s in (*self.states, *self.slices)]
        outs = [typed(v, SHAPE) for v in (*after, *rows)]
        firsts, lasts = [f"first_{s}" for s in self.states], [f"last_{s}" for s in self.states]
        scanned = [f"all{i}" for i in range(len(rows))]
        ends = False
        if self.is_loop:
            ends = rng.random() < 0.4
            go = self.op("Less", "turn", "stop") if ends else self.op("Identity", rng.choice(["going", "true"]))
            ins = [typed("turn", [], INT), typed("going", [], BOOL), *ins]
            body = helper.make_graph(self.nodes, "body", ins, [typed(go, [], BOOL), *outs])
            node = helper.make_node("Loop", ["trips", "", *firsts], [*lasts, *scanned], body=body)
        else:
            body = helper.make_graph(self.nodes, "body", ins, outs)
            names, count = [f"all_{x}" for x in self.slices], len(self.slices)
            attributes = {"scan_input_directions": [rng.randint(0, 1) for _ in names]} if rng.random() < 0.5 else {}
            node = helper.make_node(
                "Scan", [*firsts, *names], [*lasts, *scanned], body=body, num_scan_inputs=count, **attributes
            )
        given = [typed(f, SHAPE) for f in firsts] + [typed(f"all_{x}", ["T", *SHAPE]) for x in self.slices]
        given += [typed("outer", SHAPE), typed("table", [5, *SHAPE]), typed("trips", [], INT)]
        array = np.random.default_rng(1).standard_normal
        weights = {
            "weight": array(SHAPE).astype(np.float32), "square": (array((16, 16)) / 4).astype(np.float32),
            "five": np.array(5), "stop": np.array(7), "true": np.array(True),
        }  # fmt: skip
        results = [typed(n, SHAPE) for n in lasts] + [typed(n, ["R", *SHAPE]) for n in scanned]
        constants = [numpy_helper.from_array(v, n) for n, v in weights.items()]
        graph = helper.make_graph([node], "g", given, results, constants)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        return model.SerializeToString(), ends


@pytest.mark.parametrize("seed", range(8))
def test_random_loops(seed: int, thorough: bool) -> None:
    for s in range(seed * 100, seed * 100 + (20 if thorough else 2)):
        check(s)


def check(seed: int) -> None:
    model, ends = Maker(seed).model()
    session = fusec.compile(model, threads=1)
    reference = Session(session.plan, threads=1)
    rng = np.random.default_rng(seed)
    for turns in (0, 1, 5, 40):
        feeds: dict[str, Any] = {}
        for v in session.inputs:
            shape = [d if isinstance(d, int) else turns for d in v.type.shape]
            feeds[v.name] = rng.standard_normal(shape).astype(np.float32)
        if "trips" in feeds:
            feeds["trips"] = np.array(turns)
        got, want = session.run(feeds), reference.run(feeds)
        for name, w in want.items():
            assert got[name].shape == w.shape and got[name].dtype == w.dtype, (seed, name)
            np.testing.assert_allclose(got[name], w, rtol=1e-3, atol=1e-4, err_msg=f"{seed} {name}")
            assert not any(np.shares_memory(got[name], x) for x in feeds.values())
    assert not ends or all(b.turns <= 40 for b in session.steps.bodies)
    assert not any(b.why for b in session.steps.bodies), [b.why for b in session.steps.bodies]
