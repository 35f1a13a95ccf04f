"""Recurrent layers over one direction: lstm, gru, rnn. The input is projected before, for all steps at once.

Their first input is x @ W + b of every step, [T, B, G*H] with the gates of ONNX in ONNX's order, or several of these
side by side, of which `part` says the one; the second input are the recurrent weights as [G, H, H], from old state to
gate. Then follow, each of them optional, the initial states [B, H], what only one of the three has, and the lengths of
the sequences [B]: past its end a sequence keeps its state and gives zeros. With `scales` [G, H] the weights are short
integers, and each step rounds the state to 256 levels of its own range before the product, as quantised models do.
Outputs are the states of all steps [T, B, H] and the last ones [B, H]. `reverse` starts at the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import ModelError
from fusec.ir.dim import Extent, exact_quotient
from fusec.ir.evaluate import evaluate_expr
from fusec.ir.expr import Expr, Ref, cast, prim
from fusec.ir.types import DType, TensorType, Type
from fusec.ops.body import SMALL_FLOATS, add, compare, const, div, maximum, minimum, mul, sub, where
from fusec.ops.op import Attrs, Infer, Kind, Op, Reference, register
from fusec.ops.product import SHORT_INTEGERS
from fusec.ops.rules import FLOATS, INTEGERS, accept, native, unify

Array = npt.NDArray[Any]
Activation = tuple[str, float, float]
"""Name, alpha and beta (0 where the function has none)."""
Body = Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class Cell:
    """What one of the ops looks like from outside: gates, states, activations, and its inputs after the first two."""

    gates: int
    states: int
    activations: int
    inputs: tuple[str, ...]


CELLS = {
    "lstm": Cell(4, 2, 3, ("h", "c", "peepholes", "lengths", "scales")),
    "gru": Cell(3, 1, 2, ("h", "bias", "lengths")),
    "rnn": Cell(1, 1, 1, ("h", "lengths")),
}


def _catalogue(name: str, *attrs: str) -> Callable[[Expr, float, float], Expr]:
    def build(x: Expr, alpha: float, beta: float) -> Expr:
        from fusec.ops.op import get

        body = get(name).scalar
        assert body is not None
        return body([x], {a: {"alpha": alpha, "beta": beta}[a] for a in attrs})

    return build


ACTIVATIONS: dict[str, Callable[[Expr, float, float], Expr]] = {
    "sigmoid": _catalogue("sigmoid"),
    "tanh": _catalogue("tanh"),
    "relu": _catalogue("relu"),
    "leaky_relu": _catalogue("leaky_relu", "alpha"),
    "hard_sigmoid": _catalogue("hard_sigmoid", "alpha", "beta"),
    "elu": _catalogue("elu", "alpha"),
    "softsign": _catalogue("softsign"),
    "softplus": _catalogue("softplus"),
    "affine": lambda x, alpha, beta: add(mul(x, alpha), beta),
    "scaled_tanh": lambda x, alpha, beta: mul(prim("tanh", mul(x, beta)), alpha),
    "thresholded_relu": lambda x, alpha, _: where(compare("ge", x, alpha), x, 0.0, like=x),
}
"""The functions that gates may have."""


def activation(spec: Activation, clip: float) -> Body:
    """The body of a gate's function, its argument held within -clip..clip where clip is not 0."""
    name, alpha, beta = spec

    def body(x: Expr) -> Expr:
        x = minimum(maximum(x, -clip), clip) if clip else x
        return ACTIVATIONS[name](x, alpha, beta)

    return body


def functions_of(attrs: Attrs) -> list[Body]:
    """The activations of a node, clipped; the last one of an lstm, on the cell, is not."""
    specs, clip = attrs["activations"], float(attrs["clip"])
    return [activation(s, clip if i < 2 else 0.0) for i, s in enumerate(specs)]


def lstm_cell(
    attrs: Attrs, gates: Sequence[Expr], c: Expr, peepholes: Sequence[Expr] | None, bind: Callable[[Expr], Expr]
) -> tuple[Expr, Expr]:
    """(new hidden, new cell) of one element; gates in the order input, output, forget, cell. `bind` gives a part a name."""
    f, g, last = functions_of(attrs)
    i, o, r, n = gates
    if peepholes is not None:
        i, r = add(i, mul(c, peepholes[0])), add(r, mul(c, peepholes[2]))
    i = bind(f(i))
    r = sub(const(1.0, i), i) if attrs["input_forget"] else bind(f(r))
    cell = bind(add(mul(r, c), mul(i, bind(g(n)))))
    if peepholes is not None:
        o = add(o, mul(cell, peepholes[1]))
    return mul(f(o), last(cell)), cell


def step_of_levels(low: Expr, high: Expr) -> Expr:
    """The distance of 256 levels from `low` to `high`, 0 among them; 1 where the range is empty."""
    low, high = minimum(low, 0.0), maximum(high, 0.0)
    return where(compare("eq", low, high), 1.0, div(sub(high, low), 255.0), like=low)


def zero_level(low: Expr, step: Expr) -> Expr:
    """The number of the level that stands for 0."""
    return minimum(maximum(prim("round", div(prim("neg", minimum(low, 0.0)), step)), 0.0), 255.0)


def level(x: Expr, step: Expr, zero: Expr) -> Expr:
    """The number of the level nearest to x, counted from that of 0."""
    return sub(minimum(maximum(add(prim("round", div(x, step)), zero), 0.0), 255.0), zero)


def gru_state(z: Expr, n: Expr, h: Expr) -> Expr:
    """The new state from the update gate, the new content and the old state."""
    return add(mul(sub(const(1.0, z), z), n), mul(z, h))


def wide(dtype: DType) -> DType:
    """What the gates of a dtype are computed in."""
    return DType.F32 if dtype in SMALL_FLOATS else dtype


def _infer(name: str, cell: Cell) -> Infer:
    def infer(inputs: Sequence[Type | None], attrs: Attrs) -> tuple[Type, ...]:
        if not 2 <= len(inputs) <= 2 + len(cell.inputs) or inputs[0] is None or inputs[1] is None:
            raise ModelError(f"{name}: takes 2 to {2 + len(cell.inputs)} inputs, got {len(inputs)}", op=name)
        x, r = native(name, inputs[0]), native(name, inputs[1])
        accept(name, x, FLOATS)
        if len(x.dims) != 3 or len(r.dims) != 3:
            raise ModelError(f"{name}: the projected input and the weights have rank 3, got {x} and {r}", op=name)
        steps, batch, width = x.dims
        hidden = r.dims[-1]
        wanted: dict[str, tuple[Extent, ...]] = {
            "weights": (cell.gates, hidden, hidden),
            "h": (batch, hidden),
            "c": (batch, hidden),
            "peepholes": (3, hidden),
            "bias": (hidden,),
            "lengths": (batch,),
            "scales": (cell.gates, hidden),
        }
        parts, part = exact_quotient(width, cell.gates * hidden), attrs["part"]
        if parts is None or part < 0 or (isinstance(parts, int) and part >= parts):
            raise ModelError(
                f"{name}: {x} is not the input of {cell.gates} gates with weights {r}, part {part}", op=name
            )
        quantised = "scales" in cell.inputs and dict(zip(cell.inputs, inputs[2:])).get("scales") is not None
        for what, t in zip(("weights", *cell.inputs), inputs[1:]):
            if t is not None:
                _check(name, what, native(name, t), wanted[what], x.dtype, quantised)
        specs = attrs["activations"]
        if len(specs) != cell.activations or any(s[0] not in ACTIVATIONS for s in specs):
            raise ModelError(f"{name}: has {cell.activations} activations, got {specs}", op=name)
        state = TensorType(x.dtype, (batch, hidden))
        return (TensorType(x.dtype, (steps, batch, hidden)), *[state] * cell.states)

    return infer


def _check(name: str, what: str, t: TensorType, wanted: tuple[Extent, ...], dtype: DType, quantised: bool) -> None:
    if what == "lengths":
        accept(name, t, INTEGERS, what)
    elif what == "weights" and quantised:
        accept(name, t, ("short integers", lambda d: d in SHORT_INTEGERS), what)
    elif t.dtype is not dtype:
        raise ModelError(f"{name}: {what} must be {dtype}, got {t}", op=name)
    if len(t.dims) != len(wanted) or None in [unify(a, b) for a, b in zip(t.dims, wanted)]:
        raise ModelError(f"{name}: {what} must have the shape [{', '.join(map(str, wanted))}], got {t}", op=name)


def _evaluate(e: Expr, **values: Array) -> Array:
    return np.asarray(evaluate_expr(e, values))


def _reference(name: str, cell: Cell) -> Reference:
    """The layer step by step in numpy."""

    def compute(args: Sequence[Array | None], attrs: Attrs) -> tuple[Array, ...]:
        x, r = args[0], args[1]
        assert x is not None
        assert r is not None
        given = dict(zip(cell.inputs, args[2:]))
        kind = DType.of(x.dtype)
        held = wide(kind).numpy
        steps, batch, _ = x.shape
        hidden = r.shape[-1]
        x = x[:, :, attrs["part"] * cell.gates * hidden :][:, :, : cell.gates * hidden]
        state = {n: np.zeros((batch, hidden), x.dtype) for n in ("h", "c")}
        state |= {n: a for n in ("h", "c") if (a := given.get(n)) is not None}
        h, c = state["h"], state["c"]
        y = np.zeros((steps, batch, hidden), x.dtype)
        step = {"lstm": _lstm_step, "gru": _gru_step, "rnn": _rnn_step}[name]
        for t in reversed(range(steps)) if attrs["reverse"] else range(steps):
            gates = np.split(x[t].astype(held), cell.gates, axis=-1)
            new_h, new_c = step(attrs, gates, r.astype(held), h.astype(held), c.astype(held), given)
            new_h, new_c = new_h.astype(x.dtype), new_c.astype(x.dtype)
            y[t] = new_h
            if (lengths := given.get("lengths")) is not None:
                live = (t < lengths)[:, None]
                y[t] = np.where(live, new_h, 0)
                new_h, new_c = np.where(live, new_h, h), np.where(live, new_c, c)
            h, c = new_h, new_c
        return (y, h, c)[: 1 + cell.states]

    return compute


Given = dict[str, "Array | None"]


def _refs(arrays: dict[str, Array]) -> list[Expr]:
    return [Ref(n, DType.of(a.dtype)) for n, a in arrays.items()]


def _lstm_step(attrs: Attrs, gates: Sequence[Array], r: Array, h: Array, c: Array, given: Given) -> tuple[Array, Array]:
    scales = given.get("scales")
    state, factor = (h, np.float32(1)) if scales is None else _rounded(h)
    sums = [state @ r[q] if scales is None else (state @ r[q]) * (factor * scales[q]) for q in range(4)]
    values = {f"g{q}": g + s for q, (g, s) in enumerate(zip(gates, sums, strict=True))}
    parts: Sequence[Expr] | None = None
    exprs = _refs(values)
    if (p := given.get("peepholes")) is not None:
        held = {f"p{k}": row.astype(h.dtype) for k, row in enumerate(p)}
        values, parts = values | held, _refs(held)
    new_h, new_c = lstm_cell(attrs, exprs, Ref("c", DType.of(c.dtype)), parts, lambda e: e)
    with np.errstate(all="ignore"):
        return _evaluate(new_h, c=c, **values), _evaluate(new_c, c=c, **values)


def _rounded(x: Array) -> tuple[Array, Array]:
    """Levels of x, and the distance of two."""
    low, high, a, step, zero = (Ref(n, DType.of(x.dtype)) for n in ("low", "high", "a", "step", "zero"))
    ends = {"low": x.min(initial=0), "high": x.max(initial=0)}
    ends = {n: np.asarray(v, x.dtype) for n, v in ends.items()}
    size = _evaluate(step_of_levels(low, high), **ends)
    return _evaluate(
        level(a, step, zero), a=x, step=size, zero=_evaluate(zero_level(low, step), step=size, **ends)
    ), size


def _gru_step(attrs: Attrs, gates: Sequence[Array], r: Array, h: Array, c: Array, given: Given) -> tuple[Array, Array]:
    f, g = functions_of(attrs)
    a = Ref("a", DType.of(h.dtype))
    with np.errstate(all="ignore"):
        z, s = (_evaluate(f(a), a=gates[q] + h @ r[q]) for q in (0, 1))
        bias = given.get("bias")
        shift = 0 if bias is None else bias.astype(h.dtype)
        inner = s * (h @ r[2] + shift) if attrs["linear_before_reset"] else (s * h) @ r[2] + shift
        n = _evaluate(g(a), a=gates[2] + inner)
    return (1 - z) * n + z * h, c


def _rnn_step(attrs: Attrs, gates: Sequence[Array], r: Array, h: Array, c: Array, _: Given) -> tuple[Array, Array]:
    (f,) = functions_of(attrs)
    with np.errstate(all="ignore"):
        return _evaluate(f(Ref("a", DType.of(h.dtype))), a=gates[0] + h @ r[0]), c


def widened(x: Expr) -> Expr:
    """An element in the dtype that gates are computed in."""
    return cast(x, wide(x.dtype))


for _name, _cell in CELLS.items():
    register(Op(_name, Kind.RECURRENT, _infer(_name, _cell), _reference(_name, _cell), None, 50.0))
