"""Output types of host steps whose sizes ONNX's inference loses as soon as they are symbolic: windows, states, scatters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fusec.frontend.table.view import resolve_shape
from fusec.ir.dim import Extent, ceildiv, floordiv, product
from fusec.ir.types import DType, TensorType, Type

if TYPE_CHECKING:
    from fusec.frontend.call import Call

TypeRule = Callable[["Call"], Sequence[Type]]
TYPE_RULES: dict[tuple[str, str], TypeRule] = {}


def type_rule(*op_types: str, domain: str = "") -> Callable[[TypeRule], TypeRule]:
    """Register the type rule of host steps."""

    def add(rule: TypeRule) -> TypeRule:
        for op_type in op_types:
            TYPE_RULES[domain, op_type] = rule
        return rule

    return add


def window(call: Call, sizes: Sequence[Extent], kernel: Sequence[int], ceil: bool = False) -> tuple[Extent, ...]:
    """Output sizes of a sliding window with the node's strides, pads, dilations and auto_pad."""
    n = len(sizes)
    strides, dilations = call.attr("strides", (1,) * n), call.attr("dilations", (1,) * n)
    pads, auto = call.attr("pads", (0,) * 2 * n), call.attr("auto_pad", "NOTSET")
    out: list[Extent] = []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations)):
        reach = (k - 1) * d + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out.append(ceildiv(size, s))
            continue
        free = size - reach + (0 if auto == "VALID" else pads[i] + pads[n + i])
        steps = ceildiv(free, s) if ceil else floordiv(free, s)
        if ceil and isinstance(steps, int) and isinstance(size, int) and steps * s >= size + pads[i]:
            steps -= 1  # the last window would begin in the padding after the end
        elif ceil and not isinstance(steps, int):
            raise NotImplementedError
        out.append(steps + 1)
    return tuple(out)


@type_rule("Conv", "ConvInteger")
def _conv(call: Call) -> Sequence[Type]:
    x, w = call.type(0), call.type(1)
    kernel = tuple(call.attr("kernel_shape", ())) or w.dims[2:]
    if not all(isinstance(k, int) for k in kernel):
        raise NotImplementedError
    dtype = DType.I32 if call.op_type == "ConvInteger" else x.dtype
    sizes = window(call, x.dims[2:], [int(k) for k in kernel if isinstance(k, int)])
    return [TensorType(dtype, (x.dims[0], w.dims[0], *sizes))]


@type_rule("QLinearConv")
def _qlinear_conv(call: Call) -> Sequence[Type]:
    x, w = call.type(0), call.type(3)
    kernel = [k for k in w.dims[2:] if isinstance(k, int)]
    return [TensorType(call.type(7).dtype, (x.dims[0], w.dims[0], *window(call, x.dims[2:], kernel)))]


@type_rule("ConvTranspose")
def _conv_transpose(call: Call) -> Sequence[Type]:
    x, w = call.type(0), call.type(1)
    n = len(x.dims) - 2
    if call.attr("output_shape") or call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotImplementedError
    strides, dilations = call.attr("strides", (1,) * n), call.attr("dilations", (1,) * n)
    pads, extra = call.attr("pads", (0,) * 2 * n), call.attr("output_padding", (0,) * n)
    sizes = [
        (x.dims[2 + i] - 1) * strides[i] + extra[i] + (w.dims[2 + i] - 1) * dilations[i] + 1 - pads[i] - pads[n + i]
        for i in range(n)
    ]
    return [TensorType(x.dtype, (x.dims[0], w.dims[1] * call.attr("group", 1), *sizes))]


@type_rule("MaxPool", "AveragePool", "LpPool")
def _pool(call: Call) -> Sequence[Type]:
    x = call.type(0)
    sizes = window(call, x.dims[2:], call.attr("kernel_shape"), bool(call.attr("ceil_mode", 0)))
    shape = (*x.dims[:2], *sizes)
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


@type_rule(
    "BatchNormalization", "CumSum", "CumProd", "LRN", "Hardmax", "InstanceNormalization", "Identity", "Trilu",
    "ScatterElements", "ScatterND", "Scatter", "TensorScatter", "ReverseSequence", "LpNormalization", "Bernoulli",
)  # fmt: skip
def _like_first(call: Call) -> Sequence[Type]:
    if len([o for o in call.proto.output if o]) > 1 or (call.op_type == "Bernoulli" and call.attr("dtype")):
        raise NotImplementedError
    return [call.type(0)]


@type_rule("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> Sequence[Type]:
    x, w, r = call.type(0), call.type(1), call.type(2)
    directions, hidden = w.dims[0], r.dims[2]
    batch_first = bool(call.attr("layout", 0))
    batch, steps = (x.dims[0], x.dims[1]) if batch_first else (x.dims[1], x.dims[0])
    whole = (batch, steps, directions, hidden) if batch_first else (steps, directions, batch, hidden)
    state = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    return [TensorType(x.dtype, whole), TensorType(x.dtype, state), TensorType(x.dtype, state)]


@type_rule("DynamicQuantizeLSTM", domain="com.microsoft")
def _quantised_lstm(call: Call) -> Sequence[Type]:
    x, w, r = call.type(0), call.type(1), call.type(2)
    directions, hidden = w.dims[0], r.dims[1]  # the weights come transposed: [directions, input, 4 * hidden]
    state = TensorType(x.dtype, (directions, x.dims[1], hidden))
    return [TensorType(x.dtype, (x.dims[0], directions, x.dims[1], hidden)), state, state]


@type_rule("MatMulNBits", domain="com.microsoft")
def _matmul_nbits(call: Call) -> Sequence[Type]:
    x = call.type(0)
    return [TensorType(x.dtype, (*x.dims[:-1], call.attrs["N"]))]


@type_rule("Resize")
def _resize(call: Call) -> Sequence[Type]:
    x = call.type(0)
    if call.attr("axes") or call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError
    sizes = call.known(3)
    if sizes is not None and len(sizes.values) == len(x.dims):
        return [TensorType(x.dtype, sizes.values)]
    scales = call.static(1 if call.version <= 10 else 2)
    if scales is None or scales.size != len(x.dims):
        raise NotImplementedError
    return [TensorType(x.dtype, tuple(_scaled(d, float(s)) for d, s in zip(x.dims, scales)))]


@type_rule("Upsample")
def _upsample(call: Call) -> Sequence[Type]:
    x = call.type(0)
    scales = call.static(1) if call.has(1) else call.attr("scales")
    if scales is None or len(scales) != len(x.dims):
        raise NotImplementedError
    return [TensorType(x.dtype, tuple(_scaled(d, float(s)) for d, s in zip(x.dims, scales)))]


def _scaled(size: Extent, scale: float) -> Extent:
    if isinstance(size, int):
        return int(size * scale)
    if scale == int(scale):
        return size * int(scale)
    if 1 / scale == int(1 / scale):
        return floordiv(size, int(1 / scale))
    raise NotImplementedError


@type_rule("TopK")
def _top_k(call: Call) -> Sequence[Type]:
    x = call.type(0)
    k = call.extents(1)[0] if call.has(1) else call.attrs["k"]
    axis = call.axis(call.attr("axis", -1), len(x.dims))
    shape = (*x.dims[:axis], k, *x.dims[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType(DType.I64, shape)]


@type_rule("NonZero")
def _nonzero(call: Call) -> Sequence[Type]:
    return [TensorType(DType.I64, (max(len(call.type(0).dims), 1), call.builder.symbols.fresh()))]


@type_rule("Reshape")
def _reshape(call: Call) -> Sequence[Type]:
    """The shape asked for: that it fits the data is what the host finds out."""
    x = call.type(0)
    wanted = call.extents(1) if call.version >= 5 else tuple(call.attrs["shape"])
    known = resolve_shape(call, x.dims, tuple(1 if d == -1 else d for d in wanted))
    return [TensorType(x.dtype, tuple(call.builder.symbols.fresh() if d == -1 else k for d, k in zip(wanted, known)))]


@type_rule("Expand", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu")
def _broadcast(call: Call) -> Sequence[Type]:
    """Sizes that only a run can compare are the larger one, known only then."""
    x = call.type(0)
    shapes = [call.type(i).dims for i in range(len(call.inputs))]
    if call.op_type == "Expand":
        shapes[1] = call.extents(1)
    rank = max(map(len, shapes))
    columns = [[s[i - rank + len(s)] for s in shapes if i >= rank - len(s)] for i in range(rank)]
    return [TensorType(x.dtype, tuple(_joint(call, c) for c in columns))]


def _joint(call: Call, sizes: Sequence[Extent]) -> Extent:
    distinct = [d for d in dict.fromkeys(sizes) if d != 1]
    numbers = [d for d in distinct if isinstance(d, int)]
    if len(distinct) <= 1:
        return distinct[0] if distinct else 1
    return numbers[0] if numbers else call.builder.symbols.fresh()


@type_rule("Flatten")
def _flatten(call: Call) -> Sequence[Type]:
    x = call.type(0)
    axis = call.attr("axis", 1) % (len(x.dims) + 1)
    return [TensorType(x.dtype, (product(x.dims[:axis]), product(x.dims[axis:])))]
