"""Rows of elementwise ops."""

from __future__ import annotations

from functools import partial

from fusec.frontend.attributes import dtype_of
from fusec.frontend.builder import NotNative
from fusec.frontend.call import ROWS, Call, Row, row
from fusec.ir.graph import Value
from fusec.ir.types import DType

UNARY = {
    "Neg": "neg", "Abs": "abs", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Sin": "sin", "Cos": "cos", "Tan": "tan",
    "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh",
    "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sign": "sign", "Reciprocal": "reciprocal", "Sigmoid": "sigmoid", "Relu": "relu", "Softplus": "softplus",
    "Softsign": "softsign", "Mish": "mish", "Not": "not", "BitwiseNot": "bitnot", "IsNaN": "isnan",
    "HardSwish": "hard_swish",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Less": "lt", "LessOrEqual": "le", "Greater": "gt",
    "GreaterOrEqual": "ge", "Equal": "eq", "And": "and", "Or": "or", "Xor": "xor", "BitwiseAnd": "bitand",
    "BitwiseOr": "bitor", "BitwiseXor": "bitxor",
}  # fmt: skip
SCALED: dict[str, tuple[str, dict[str, float]]] = {
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Celu": ("celu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
    "Swish": ("swish", {"alpha": 1.0}),
    "Shrink": ("shrink", {"lambd": 0.5, "bias": 0.0}),
}


def _unary(op: str, call: Call) -> Value:
    return call.emit(op, call.x())


def _binary(op: str, call: Call) -> Value:
    a, b = call.x(0), call.x(1)
    return call.elementwise(op, a, legacy_operand(call, a, b))


def _scaled(op: str, defaults: dict[str, float], call: Call) -> Value:
    return call.emit(op, call.x(), **{k: float(call.attr(k, v)) for k, v in defaults.items()})


def _fill() -> None:
    rows: dict[str, Row] = {k: partial(_unary, v) for k, v in UNARY.items()}
    rows |= {k: partial(_binary, v) for k, v in BINARY.items()}
    rows |= {k: partial(_scaled, op, defaults) for k, (op, defaults) in SCALED.items()}
    ROWS.update({("", k): v for k, v in rows.items()})


_fill()


def legacy_operand(call: Call, a: Value, b: Value) -> Value:
    """The second operand of opset 6, whose `axis` says where its dimensions stand in the first."""
    if call.version >= 7 or not call.attr("broadcast", 0) or "axis" not in call.attrs:
        return b
    axis = call.axis(call.attrs["axis"], len(a.shape))
    trailing = len(a.shape) - axis - len(b.shape)
    return call.reshape(b, (*b.shape, *(1,) * trailing)) if trailing > 0 else b


@row("Max", "Min", "Sum", "Mean")
def _n_ary(call: Call) -> Value:
    op = {"Max": "max", "Min": "min"}.get(call.op_type, "add")
    out = call.x(0)
    for i in range(1, len(call.inputs)):
        out = call.elementwise(op, out, call.x(i))
    if call.op_type == "Mean" and len(call.inputs) > 1:
        out = call.emit("div", out, call.scalar(len(call.inputs), out.dtype))
    return out


@row("Pow")
def _pow(call: Call) -> Value:
    x, y = call.x(0), legacy_operand(call, call.x(0), call.x(1))
    if x.dtype.is_float:
        return call.elementwise("pow", x, call.cast(y, x.dtype))
    if y.dtype.is_float:  # numpy's rule: compute in the float, give back the integer
        wide = DType.F64 if x.dtype.itemsize >= 4 else y.dtype
        return call.cast(call.elementwise("pow", call.cast(x, wide), call.cast(y, wide)), x.dtype)
    return call.elementwise("pow", x, call.cast(y, x.dtype))


@row("Mod")
def _mod(call: Call) -> Value:
    return call.elementwise("rem" if call.attr("fmod", 0) else "mod", call.x(0), call.x(1))


@row("BitShift")
def _shift(call: Call) -> Value:
    return call.elementwise("shl" if call.attr("direction") == "LEFT" else "shr", call.x(0), call.x(1))


@row("PRelu")
def _prelu(call: Call) -> Value:
    x, slope = call.x(0), call.x(1)
    if call.version < 7 and len(slope.shape) == 1 and len(x.shape) > 1 and slope.shape[0] != 1:
        slope = call.reshape(slope, (*slope.shape, *(1,) * (len(x.shape) - 2)))
    if len(slope.shape) > len(x.shape):
        raise NotNative("the slope has more dimensions than x")
    return call.elementwise("prelu", x, slope)


@row("Where")
def _where(call: Call) -> Value:
    return call.elementwise("where", call.x(0), call.x(1), call.x(2))


@row("Clip")
def _clip(call: Call) -> Value:
    x = call.x(0)
    if call.version < 11:
        low, high = (call.scalar(call.attrs[k], x.dtype) if k in call.attrs else None for k in ("min", "max"))
    else:
        low, high = call.maybe(1), call.maybe(2)
    if low is None and high is None:
        return x
    bounds = [v if v is None or not v.shape else call.reshape(v, ()) for v in (low, high)]
    return call.emit("clip", x, *bounds) if bounds[1] is not None else call.emit("clip", x, bounds[0])


@row("Cast")
def _cast(call: Call) -> Value:
    to = dtype_of(int(call.attrs["to"]) if not isinstance(call.attrs["to"], str) else 0, call.origin[0])
    if not to.is_native:
        raise NotNative(f"kernels cannot make {to}")
    return call.cast(call.x(), to)


@row("CastLike")
def _cast_like(call: Call) -> Value:
    to = call.type(1).dtype
    if not to.is_native:
        raise NotNative(f"kernels cannot make {to}")
    return call.cast(call.x(), to)


@row("IsInf")
def _isinf(call: Call) -> Value:
    signs = {k: bool(call.attr(k, 1)) for k in ("detect_negative", "detect_positive")}
    return call.emit("isinf", call.x(), **signs)


@row("Gelu")
def _gelu(call: Call) -> Value:
    return call.emit("gelu", call.x(), approximate=call.attr("approximate", "none"))


@row("Identity")
def _identity(call: Call) -> Value:
    bound = call.inputs[0]
    if bound is None:
        raise call.error("input 0 is missing")
    return call.builder.data(bound, call.origin)


@row("Dropout")
def _dropout(call: Call) -> tuple[Value, Value | None]:
    x = call.x()
    if call.version >= 12 and call.has(2):
        known = call.known(2)
        if known is None or known.values != (0,):
            ratio = call.static(1)
            if ratio is None or float(ratio) != 0.0:
                raise NotNative("dropout in training mode draws random numbers")
    elif call.version < 7 and not call.attr("is_test", 0):
        raise NotNative("dropout in training mode draws random numbers")
    mask = call.expand(call.scalar(1, DType.BOOL), x.shape) if call.wants(1) else None
    return x, mask if mask is None or call.version >= 10 else call.cast(mask, x.dtype)


@row("LogSoftmax", "Softmax")
def _softmax(call: Call) -> Value:
    x, op = call.x(), "softmax" if call.op_type == "Softmax" else "log_softmax"
    rank = len(x.shape)
    if rank == 0:
        raise NotNative("softmax of a scalar")
    if call.version >= 13:
        return call.emit(op, x, axis=call.axis(call.attr("axis", -1), rank))
    axis = call.axis(call.attr("axis", 1), rank) if call.attr("axis", 1) != rank else rank
    if axis == rank - 1:
        return call.emit(op, x, axis=axis)
    from fusec.frontend.table.view import flatten_at  # the old rule flattens to a matrix first

    flat = call.emit(op, call.reshape(x, flatten_at(x.shape, axis)), axis=1)
    return call.reshape(flat, x.shape)


@row("BiasGelu", "FastGelu", domain="com.microsoft")
def _bias_gelu(call: Call) -> Value:
    x = call.elementwise("add", call.x(0), call.x(1)) if call.has(1) else call.x(0)
    return call.emit("gelu", x, approximate="tanh" if call.op_type == "FastGelu" else "none")


@row("Gelu", domain="com.microsoft")
def _contrib_gelu(call: Call) -> Value:
    return call.emit("gelu", call.x(), approximate="none")


@row("QuickGelu", domain="com.microsoft")
def _quick_gelu(call: Call) -> Value:
    return call.emit("swish", call.x(), alpha=float(call.attr("alpha", 1.702)))
