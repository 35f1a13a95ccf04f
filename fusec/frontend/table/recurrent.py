"""Rows of LSTM, GRU and RNN: the input's projection is a matrix product over all steps, the rest one node per direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.frontend.call import Call, row
from fusec.frontend.messages import clean
from fusec.ir.dim import Extent
from fusec.ir.graph import Attr, Value
from fusec.ops.recurrent import CELLS, Activation

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction of a layer starts at the end."""
DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
FUNCTIONS: dict[str, tuple[str, float | None, float | None]] = {
    "sigmoid": ("sigmoid", None, None),
    "tanh": ("tanh", None, None),
    "relu": ("relu", None, None),
    "affine": ("affine", 1.0, 0.0),
    "leakyrelu": ("leaky_relu", 0.01, None),
    "thresholdedrelu": ("thresholded_relu", 1.0, None),
    "scaledtanh": ("scaled_tanh", 1.0, 1.0),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
    "elu": ("elu", 1.0, None),
    "softsign": ("softsign", None, None),
    "softplus": ("softplus", None, None),
}
"""ONNX's name in lower case -> ours, with the default alpha and beta of functions that have one."""
INITIAL_H, INITIAL_C, PEEPHOLES = 5, 6, 7


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a layer."""

    steps: Extent
    batch: Extent
    inner: Extent
    hidden: int
    gates: int
    directions: int


@row("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> tuple[Value | None, ...]:
    reverse = directions_of(call)
    functions = functions_of(call, len(reverse))
    layout = int(call.attr("layout", 0))
    if layout not in (0, 1):
        raise call.error(f"attribute layout is {layout}, not 0 or 1")
    sizes = _sizes(call, len(reverse), layout)
    x = call.transpose(call.x(0), (1, 0, 2)) if layout else call.x(0)
    projected, hidden_bias = _projected(call, sizes, x)
    made = [
        _direction(call, sizes, d, projected, hidden_bias, r, f) for d, (r, f) in enumerate(zip(reverse, functions))
    ]
    states = [states_of(call, [m[s] for m in made], layout) for s in range(1, len(made[0]))]
    return (whole(call, [m[0] for m in made], layout) if call.wants(0) else None, *states)


def directions_of(call: Call) -> tuple[bool, ...]:
    """Whether each direction starts at the end."""
    name = _text(call.attr("direction", "forward"))
    if name.lower() not in DIRECTIONS:
        raise call.error(f"attribute direction is {clean(name)!r}, not one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[name.lower()]


def functions_of(call: Call, directions: int) -> list[tuple[Activation, ...]]:
    """The activations of each direction; alphas and betas go to the functions that have one, in order."""
    defaults = DEFAULTS[call.op_type.removeprefix("DynamicQuantize")]
    names = [_text(n) for n in call.attr("activations") or ()] or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        wanted = f"{len(defaults)} in each of {directions} directions" if directions > 1 else str(len(defaults))
        raise call.error(f"attribute activations has {len(names)} functions, wanted {wanted}")
    values = {n: [float(v) for v in call.attr(f"activation_{n}") or ()] for n in ("alpha", "beta")}
    for n, given in values.items():
        if len(given) > len(names):
            raise call.error(f"attribute activation_{n} has {len(given)} values for {len(names)} functions")
    out: list[Activation] = []
    for name in names:
        if name.lower() not in FUNCTIONS:
            raise call.error(f"attribute activations names {clean(name)!r}, which is no activation of ONNX")
        ours, alpha, beta = FUNCTIONS[name.lower()]
        alpha, beta = (
            0.0 if default is None else values[n].pop(0) if values[n] else default
            for n, default in (("alpha", alpha), ("beta", beta))
        )
        out.append((ours, alpha, beta))
    return [tuple(out[d * len(defaults) : (d + 1) * len(defaults)]) for d in range(directions)]


def _text(x: object) -> str:
    return x.decode(errors="replace") if isinstance(x, bytes) else str(x)


def _sizes(call: Call, directions: int, layout: int) -> Sizes:
    """The dimensions, after all inputs and attributes are found to agree on them."""
    x, r = call.x(0), call.x(2)
    gates = CELLS[call.op_type.lower()].gates
    if len(x.shape) != 3 or len(r.shape) != 3:
        raise call.error(f"X and R must have rank 3, got {x.type} and {r.type}")
    hidden = r.shape[2]
    if not isinstance(hidden, int):
        raise call.error(f"the hidden size is not known: R is {r.type}")
    asked = call.attr("hidden_size")
    if asked is not None and int(asked) != hidden:
        raise call.error(f"attribute hidden_size is {asked}, but R is {r.type}")
    clip = float(call.attr("clip", 0.0))
    if not clip >= 0.0:
        raise call.error(f"attribute clip is {clip}, not a number above 0")
    batch, steps = x.shape[:2] if layout else (x.shape[1], x.shape[0])
    inner = x.shape[2]
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    wanted: dict[int, tuple[str, tuple[Extent, ...]]] = {
        1: ("W", (directions, gates * hidden, inner)),
        2: ("R", (directions, gates * hidden, hidden)),
        3: ("B", (directions, 2 * gates * hidden)),
        4: ("sequence_lens", (batch,)),
        INITIAL_H: ("initial_h", state),
    }
    if call.op_type == "LSTM":
        wanted |= {INITIAL_C: ("initial_c", state), PEEPHOLES: ("P", (directions, 3 * hidden))}
    for i, (name, shape) in wanted.items():
        v = call.maybe(i)
        if v is None:
            continue
        wrong = len(v.shape) != len(shape) or any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(v.shape, shape)
        )
        if wrong:
            text = ", ".join(map(str, shape))
            raise call.error(f"input {name} is {v.type}, wanted [{text}] (direction and hidden_size say so)")
        for given, asked_for in zip(v.shape, shape):
            call.require_equal(given, asked_for)
    return Sizes(steps, batch, inner, hidden, gates, directions)


def _projected(call: Call, s: Sizes, x: Value) -> tuple[Value, Value | None]:
    """x @ W + b for all directions side by side, [steps, batch, directions * gates * hidden]; and the bias of states.

    That one, [directions, hidden], is what a gru adds to the product of its last gate before it resets it.
    """
    width, wide = s.gates * s.hidden, s.directions * s.gates * s.hidden
    rows = call.reshape(x, (s.steps * s.batch, s.inner))
    out = call.matmul(rows, call.transpose(call.reshape(call.x(1), (wide, s.inner)), (1, 0)))
    b, hidden_bias = call.maybe(3), None
    if b is not None:
        bias, more = _columns(call, b, 0, width), _columns(call, b, width, width)
        if call.op_type == "GRU" and call.attr("linear_before_reset", 0):
            hidden_bias = _columns(call, b, width + 2 * s.hidden, s.hidden)
            more = call.emit(
                "pad", _columns(call, b, width, 2 * s.hidden), before=(0, 0), after=(0, s.hidden), mode="constant"
            )
        out = call.elementwise("add", out, call.reshape(call.emit("add", bias, more), (wide,)))
    return call.reshape(out, (s.steps, s.batch, wide)), hidden_bias


def _columns(call: Call, x: Value, start: int, size: int) -> Value:
    return call.emit("slice", x, starts=(0, start), sizes=(x.shape[0], size), steps=(1, 1))


def _direction(
    call: Call,
    s: Sizes,
    d: int,
    x: Value,
    hidden_bias: Value | None,
    reverse: bool,
    functions: tuple[Activation, ...],
) -> tuple[Value, ...]:
    """The outputs of one direction: all states, and the last ones."""
    name = call.op_type.lower()
    r = call.transpose(part_of(call, call.x(2), d, (s.gates, s.hidden, s.hidden)), (0, 2, 1))
    given: list[Value | None] = [x, r, initial(call, d, INITIAL_H)]
    attrs: dict[str, Attr] = {"part": d, "reverse": reverse, "activations": functions}
    match name:
        case "lstm":
            peepholes = call.maybe(PEEPHOLES)
            given.append(initial(call, d, INITIAL_C))
            given.append(None if peepholes is None else part_of(call, peepholes, d, (3, s.hidden)))
            attrs["input_forget"] = bool(call.attr("input_forget", 0))
        case "gru":
            given.append(None if hidden_bias is None else part_of(call, hidden_bias, d, (s.hidden,)))
            attrs["linear_before_reset"] = bool(call.attr("linear_before_reset", 0))
    given.append(call.maybe(4))
    attrs["clip"] = float(call.attr("clip", 0.0))
    return call.builder.emit_all(name, given, call.origin, **attrs)


def part_of(call: Call, x: Value, d: int, shape: tuple[Extent, ...]) -> Value:
    """What belongs to direction `d`, in a shape."""
    if x.shape[0] != 1:
        rest = x.shape[1:]
        starts, sizes = (d, *[0] * len(rest)), (1, *rest)
        x = call.emit("slice", x, starts=starts, sizes=sizes, steps=(1,) * len(x.shape))
    return call.reshape(x, shape)


def initial(call: Call, d: int, which: int) -> Value | None:
    """The initial state of a direction, [batch, hidden], where there is one."""
    v = call.maybe(which)
    if v is None:
        return None
    v = call.transpose(v, (1, 0, 2)) if call.attr("layout", 0) else v
    return part_of(call, v, d, v.shape[1:])


def whole(call: Call, parts: Sequence[Value], layout: int) -> Value:
    """All states of all directions: [steps, directions, batch, hidden], or [batch, steps, directions, hidden]."""
    out = []
    for y in parts:
        y = call.transpose(y, (1, 0, 2)) if layout else y
        first, second, hidden = y.shape
        out.append(call.reshape(y, (first, second, 1, hidden) if layout else (first, 1, second, hidden)))
    return call.concat(out, 2 if layout else 1)


def states_of(call: Call, parts: Sequence[Value], layout: int) -> Value:
    """Last states: [directions, batch, hidden], or [batch, directions, hidden]."""
    out = [call.reshape(v, (v.shape[0], 1, v.shape[1]) if layout else (1, *v.shape)) for v in parts]
    return call.concat(out, 1 if layout else 0)
