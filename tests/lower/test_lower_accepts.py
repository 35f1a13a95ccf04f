"""What the templates accept can be lowered, and computes what the ops' references compute: random groups."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value

from fusec.errors import FusecError
from fusec.ir.graph import Node, Value, weight
from fusec.ir.types import DType
from fusec.kernels.templates import accepts

UNARY = ["relu", "tanh", "sigmoid", "gelu", "neg", "exp"]


class Maker:
    """Grows a random group, node by node; sizes come from a small set so that many things fit."""

    def __init__(self, seed: int, heavy: bool) -> None:
        self.r = np.random.default_rng(seed)
        self.heavy = heavy
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.weights: list[Any] = []
        self.pool: list[Value] = [
            self.input(*(int(d) for d in self.r.choice([1, 2, 3, 4, 6], int(self.r.integers(2, 5)))))
        ]

    def input(self, *shape: int, dtype: DType = DType.F32) -> Value:
        v = value(f"x{len(self.inputs)}", *shape, dtype=dtype)
        self.inputs.append(v)
        return v

    def weight(self, *shape: int) -> Value:
        w = weight(f"w{len(self.weights)}", (self.r.standard_normal(shape) * 0.7).astype(np.float32))
        self.weights.append(w)
        return w.value

    def pick(self) -> Value:
        return self.pool[-1] if self.r.random() < 0.7 else self.pool[int(self.r.integers(len(self.pool)))]

    def grow(self) -> None:
        x = self.pick()
        rank = len(x.shape)
        choices = [
            "unary",
            "unary",
            "binary",
            "binary",
            "transpose",
            "reshape",
            "slice",
            "concat",
            "pad",
            "expand",
            "gather",
        ]
        if self.heavy:
            choices += ["reduce", "reduce", "softmax", "norm", "matmul", "matmul"]
        kind = str(self.r.choice(choices))
        name = f"v{len(self.nodes)}"
        node = getattr(self, kind)(name, x, rank)
        if node is not None:
            self.nodes.append(node)
            self.pool.append(node.output)

    def unary(self, name: str, x: Value, rank: int) -> Node:
        op = str(self.r.choice(UNARY))
        return apply(op, name, x, **({"approximate": "none"} if op == "gelu" else {}))

    def binary(self, name: str, x: Value, rank: int) -> Node | None:
        same = [v for v in self.pool if v.shape == x.shape]
        how = self.r.random()
        if how < 0.5:
            y = same[int(self.r.integers(len(same)))]
        elif how < 0.75:
            y = self.weight(*x.shape[rank - int(self.r.integers(0, rank + 1)) :])
        else:
            y = self.input(*(d if self.r.random() < 0.6 else 1 for d in x.shape))
        return apply(str(self.r.choice(["add", "sub", "mul", "max"])), name, x, y)

    def transpose(self, name: str, x: Value, rank: int) -> Node:
        return apply("transpose", name, x, perm=tuple(int(i) for i in self.r.permutation(rank)))

    def reshape(self, name: str, x: Value, rank: int) -> Node | None:
        shape = list(x.shape)
        d = int(self.r.integers(0, max(1, rank)))
        if rank > 1 and self.r.random() < 0.5:
            d = min(d, rank - 2)
            shape[d : d + 2] = [shape[d] * shape[d + 1]]
        elif rank and shape[d] in (4, 6):
            shape[d : d + 1] = [2, shape[d] // 2]
        else:
            shape.insert(d, 1)
        return apply("reshape", name, x, shape=tuple(shape)) if len(shape) < 6 else None

    def slice(self, name: str, x: Value, rank: int) -> Node:
        sizes = [max(1, d - int(self.r.integers(0, 2))) for d in x.shape]
        starts = [int(self.r.integers(0, d - s + 1)) for d, s in zip(x.shape, sizes)]
        return apply("slice", name, x, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * rank)

    def concat(self, name: str, x: Value, rank: int) -> Node | None:
        same = [v for v in self.pool if v.shape == x.shape]
        return apply("concat", name, x, same[0], axis=int(self.r.integers(rank))) if rank else None

    def pad(self, name: str, x: Value, rank: int) -> Node:
        b, a = (tuple(int(i) for i in self.r.integers(0, 2, rank)) for _ in range(2))
        return apply("pad", name, x, before=b, after=a, mode="constant")

    def expand(self, name: str, x: Value, rank: int) -> Node | None:
        return apply("expand", name, x, shape=(2, *x.shape)) if rank < 4 else None

    def gather(self, name: str, x: Value, rank: int) -> Node | None:
        if not rank:
            return None
        axis = int(self.r.integers(rank))
        return apply("gather", name, x, self.input(3, dtype=DType.I64), axis=axis)

    def reduce(self, name: str, x: Value, rank: int) -> Node | None:
        if not rank:
            return None
        axes = tuple(sorted({int(i) for i in self.r.integers(0, rank, 2)}))
        op = str(self.r.choice(["reduce_sum", "reduce_mean", "reduce_max"]))
        return apply(op, name, x, axes=axes, keepdims=bool(self.r.random() < 0.6))

    def softmax(self, name: str, x: Value, rank: int) -> Node | None:
        return apply("softmax", name, x, axis=int(self.r.integers(rank))) if rank else None

    def norm(self, name: str, x: Value, rank: int) -> Node | None:
        return apply("layer_norm", name, x, self.weight(x.shape[-1]), axis=rank - 1, epsilon=1e-3) if rank else None

    def matmul(self, name: str, x: Value, rank: int) -> Node | None:
        if rank < 2:
            return None
        k = x.shape[-1]
        assert isinstance(k, int)
        return apply("matmul", name, x, self.weight(k, int(self.r.choice([1, 3, 4]))))

    def feeds(self) -> dict[str, Any]:
        out = {}
        for v in self.inputs:
            shape = tuple(int(d) for d in v.shape)  # type: ignore[arg-type]
            integers = v.dtype is DType.I64
            out[v.name] = self.r.integers(0, 1, shape) if integers else self.r.standard_normal(shape).astype(np.float32)
        return out


def group(seed: int, heavy: bool) -> tuple[Maker, list[Value]]:
    m = Maker(seed, heavy)
    for _ in range(int(m.r.integers(2, 9))):
        m.grow()
    readers = Counter(v.name for n in m.nodes for v in n.operands)
    outputs = [n.output for n in m.nodes if not readers[n.output.name] or m.r.random() < 0.1]
    return m, outputs


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("block", range(8))
def test_accepted_groups_compute_the_right_thing(heavy: bool, block: int) -> None:
    taken = 0
    for seed in range(block * 25, block * 25 + 25):
        m, outputs = group(seed, heavy)
        if not outputs or not accepts(m.nodes, outputs):
            continue
        taken += 1
        try:
            check(m.nodes, m.feeds(), outputs, m.weights, rtol=2e-4)
        except FusecError as e:
            shown = "\n".join(
                f"{n.outputs[0]} = {n.op}{dict(n.attrs)}({', '.join(map(str, n.operands))})" for n in m.nodes
            )
            raise AssertionError(f"seed {seed}: {e}\n{shown}\noutputs {outputs}") from e
    assert taken > 2


@pytest.mark.parametrize("between", ["slice", "concat", "pad", "expand"])
def test_a_table_that_is_cut_or_extended_is_no_gather_s(between: str) -> None:
    """An index outside of the table would lie inside of what it is made of, and nothing would notice it."""
    m = Maker(0, heavy=False)
    m.pool = [m.input(4, 6)]
    table = getattr(m, between)("t", m.pool[0], 2)
    gather = m.gather("y", table.output, 2)
    assert not accepts([table, gather], [gather.output])
    plain = apply("relu", "t", m.pool[0])
    gather = m.gather("y", plain.output, 2)
    assert accepts([plain, gather], [gather.output])
