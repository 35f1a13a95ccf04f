"""What bench/nodes.py measures: models of one ordinary ONNX node each, of sizes that networks have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference


@dataclass(frozen=True)
class Node:
    """One node: example inputs, fixed inputs that come after them, how many outputs, and attributes. `least` is the
    greatest difference to onnxruntime that is no error, relative to the largest element."""

    name: str
    op: str
    inputs: tuple[Any, ...]
    constants: tuple[Any, ...] = ()
    attributes: tuple[tuple[str, Any], ...] = ()
    outputs: int = 1
    least: float = 1e-5

    def model(self) -> tuple[bytes, dict[str, Any]]:
        """The ONNX model and its feeds."""
        feeds = {f"x{i}": x for i, x in enumerate(self.inputs)}
        fixed = {f"c{i}": c for i, c in enumerate(self.constants) if c is not None}
        names = [*feeds, *(f"c{i}" if c is not None else "" for i, c in enumerate(self.constants))]
        made = [f"y{i}" for i in range(self.outputs)]
        graph = helper.make_graph(
            [helper.make_node(self.op, names, made, **dict(self.attributes))],
            "node",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                for n, x in feeds.items()
            ],
            [helper.make_empty_tensor_value_info(n) for n in made],
            [numpy_helper.from_array(np.asarray(c), n) for n, c in fixed.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        model = shape_inference.infer_shapes(model)
        for v in model.graph.output:
            if not v.type.tensor_type.HasField("shape"):  # norms that are functions of their own are not inferred
                v.CopyFrom(helper.make_tensor_value_info(v.name, TensorProto.FLOAT, self.inputs[0].shape))
        return model.SerializeToString(), feeds


class Arrays:
    """Seeded random arrays."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, *shape: int, low: float | None = None, high: float = 1.0) -> Any:
        """Normally distributed float32, or evenly between `low` and `high`."""
        if low is None:
            return self.rng.standard_normal(shape, dtype=np.float32)
        return (low + (high - low) * self.rng.random(shape)).astype(np.float32)

    def ints(self, high: int, *shape: int) -> Any:
        """int64 from 0 up to `high`, exclusive."""
        return self.rng.integers(0, high, shape)


def int64(*values: int) -> Any:
    """An int64 vector."""
    return np.array(values, np.int64)


def text(shape: tuple[int, ...]) -> str:
    """A shape as 3x4."""
    return "x".join(map(str, shape))


def node(op: str, *inputs: Any, note: str = "", constants: tuple[Any, ...] = (), outputs: int = 1, least: float = 1e-5,
         **attributes: Any) -> Node:  # fmt: skip
    """A node named after its op, the shape of its first input and a note."""
    name = f"{op} {text(inputs[0].shape)}" + (f" {note}" if note else "")
    return Node(name, op, inputs, constants, tuple(attributes.items()), outputs, least)


MAPS = (
    "Abs Neg Relu LeakyRelu Elu Selu Celu Softplus Softsign HardSigmoid HardSwish Mish Gelu Sigmoid Tanh Erf Exp Sqrt "
    "Reciprocal Floor Ceil Round Sign Sin Cos Tan Atan Sinh Cosh Asinh IsNaN IsInf ThresholdedRelu"
).split()


def maps() -> Iterator[Node]:
    """Elementwise operators of one input."""
    a = Arrays()
    x = a(1 << 16)
    positive = np.abs(x) + np.float32(0.01)
    for op in MAPS:
        yield node(op, positive if op in ("Sqrt", "Reciprocal") else x)
    yield node("Log", positive)
    inside = a(1 << 16, low=-0.99, high=0.99)
    for op in ("Asin", "Acos", "Atanh"):
        yield node(op, inside)
    yield node("Acosh", positive + 1)
    yield node("Gelu", x, note="tanh", approximate="tanh")
    yield node("Clip", x, constants=(np.float32(-1.0), np.float32(1.0)))
    yield node("Not", x > 0)
    for to, name in ((7, "int64"), (6, "int32"), (10, "float16"), (9, "bool"), (11, "float64")):
        yield node("Cast", x, note=f"to {name}", to=to)
    yield node("Cast", a.ints(256, 1 << 16).astype(np.uint8), note="from uint8", to=1)
    yield node("Cast", a.ints(256, 1 << 16), note="from int64", to=1)


def pairs() -> Iterator[Node]:
    """Elementwise operators of several inputs, and their broadcasts."""
    a = Arrays()
    x, y = a(1 << 16), a(1 << 16)
    for op in "Add Mul Sub Div Max Min Equal Less GreaterOrEqual".split():
        yield node(op, x, y)
    yield node("Pow", np.abs(x), y)
    yield node("Pow", x, constants=(np.float32(2.0),), note="squared")
    yield node("Mod", x, y, fmod=1)
    yield node("Where", x > 0, x, y)
    yield node("And", x > 0, y > 0)
    yield node("PRelu", a(1, 64, 32, 32), constants=(a(64, 1, 1),))
    yield node("Sum", x, y, x + y)
    yield node("Mean", x, y, x + y)
    matrix = a(256, 512)
    yield node("Add", matrix, constants=(a(512),), note="a row")
    yield node("Add", matrix, constants=(a(256, 1),), note="a column")
    yield node("Mul", matrix, constants=(np.float32(1.5),), note="a scalar")
    yield node("Mul", a(1, 64, 1, 1), a(1, 64, 56, 56), note="channels")
    yield node("Add", a(1, 12, 128, 128), a(1, 1, 1, 128), note="a mask")


REDUCTIONS = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp".split()
)


def reductions() -> Iterator[Node]:
    """Reductions and positions of extremes, along every kind of axis."""
    a = Arrays()
    x = a(512, 512)
    for op in REDUCTIONS:
        for axis in (1, 0):
            yield node(op, x * 0.1 + 1 if op == "ReduceProd" else x, constants=(int64(axis),), note=f"axis {axis}")
    others: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((16384, 16), (0,)), ((16384, 16), (1,)), ((65536, 3), (0,)), ((65536, 3), (1,)), ((64, 16384), (0,)),
        ((2048, 768), (0,)), ((1 << 18,), (0,)), ((8, 256, 128), (1,)), ((128, 8, 256), (1,)), ((32, 64, 14, 14), (2, 3)),
        ((32, 64, 14, 14), (0, 2, 3)), ((32, 64, 14, 14), (1,)), ((32, 64, 100), (0, 2)), ((1 << 18, 1), (0,)),
        ((4, 65536), (1,)), ((4, 65536), (0,)), ((128, 12, 128), (0, 1)),
    )  # fmt: skip
    for shape, axes in others:
        for op in ("ReduceSum", "ReduceMax"):
            yield node(op, a(*shape), constants=(int64(*axes),), note=f"axes {axes}", least=1e-4)
    yield node("ReduceMean", a(2048, 64), constants=(int64(0),), note="axis 0")
    for op in ("ArgMax", "ArgMin"):
        for shape, axis in (((64, 1000), 1), ((1, 50257), 1), ((512, 512), 0), ((1, 21, 128, 128), 1), ((4096, 10), 1),
                            ((16, 256, 64), 1)):  # fmt: skip
            yield node(op, a(*shape), note=f"axis {axis}", axis=axis, keepdims=0)
    yield node("ArgMax", a(64, 1000), note="last of equals", axis=1, keepdims=0, select_last_index=1)


def orders() -> Iterator[Node]:
    """Operators along an order of elements."""
    a = Arrays()
    for shape, axis in (((256, 512), 1), ((512, 256), 0), ((1 << 17,), 0), ((4096, 32), 1), ((16, 128, 64), 1)):
        yield node("CumSum", a(*shape), constants=(np.int64(axis),), note=f"axis {axis}")
    for shape, k, axis in (
        ((64, 1000), 5, 1), ((1, 1000), 5, 1), ((1, 50257), 50, 1), ((16, 300), 300, 1), ((1, 8400), 300, 1), ((512, 64), 2, 1),
        ((1, 84, 1024), 1, 1), ((32, 4096), 40, 1), ((1, 100000), 1000, 1), ((1000, 64), 4, 0),
    ):  # fmt: skip
        yield node("TopK", a(*shape), constants=(int64(k),), note=f"k {k} axis {axis}", outputs=2, axis=axis)
    yield node("TopK", a(64, 1000), constants=(int64(5),), note="smallest", outputs=2, axis=1, largest=0)
    yield node("NonZero", (a(1 << 16) > 1).astype(np.float32))
    yield node("OneHot", a.ints(100, 1024), constants=(int64(100), np.array([0, 1], np.float32)))
    yield node("Hardmax", a(256, 512))
    yield node("Trilu", a(8, 256, 256), upper=0)
    lengths = a.ints(100, 32) + 1
    yield node("ReverseSequence", a(100, 32, 64), lengths)
    yield node("Compress", a(1024, 128), a(1024) > 0, axis=0)
    yield node("EyeLike", a(512, 512))


def rows() -> Iterator[Node]:
    """Softmax and norms."""
    a = Arrays()
    for op in ("Softmax", "LogSoftmax"):
        for shape, axis in (
            ((128, 1000), -1),
            ((12, 128, 128), -1),
            ((1, 21, 64, 64), 1),
            ((4096, 10), -1),
            ((512, 512), 0),
        ):
            yield node(op, a(*shape), note=f"axis {axis}", axis=axis)
    for m, n in ((128, 768), (1024, 64), (16, 4096)):
        yield node("LayerNormalization", a(m, n), constants=(a(n), a(n)))
    image = a(1, 64, 56, 56)
    yield node("InstanceNormalization", image, constants=(a(64), a(64)), least=1e-4)
    yield node("GroupNormalization", image, constants=(a(64), a(64)), num_groups=8, least=1e-4)
    yield node("BatchNormalization", image, constants=(a(64), a(64), a(64), a(64, low=0.5)))
    yield node("LpNormalization", a(256, 512), axis=-1)
    yield node("LRN", image, size=5)


def moves() -> Iterator[Node]:
    """Movements of data."""
    a = Arrays()
    x = a(1, 64, 56, 56)
    for shape, perm in (((512, 512), (1, 0)), ((1, 128, 12, 64), (0, 2, 1, 3)), ((1, 64, 56, 56), (0, 2, 3, 1)),
                        ((1, 56, 56, 64), (0, 3, 1, 2)), ((1, 3, 224, 224), (0, 2, 3, 1)), ((1, 224, 224, 3), (0, 3, 1, 2)),
                        ((64, 8, 8, 64), (3, 1, 2, 0)), ((16384, 6), (1, 0))):  # fmt: skip
        yield node("Transpose", a(*shape), note=f"to {perm}", perm=perm)
    yield node("Concat", a(256, 256), a(256, 256), note="axis 0", axis=0)
    yield node("Concat", a(256, 256), a(256, 128), note="axis 1", axis=1)
    yield node("Concat", a(4096, 3), a(4096, 5), note="axis 1", axis=1)
    yield node("Split", a(256, 768), outputs=3, axis=1, num_outputs=3)
    yield node("Split", x, outputs=2, axis=1, num_outputs=2)
    long = a(512, 512)
    yield node("Slice", long, note="columns", constants=(int64(100), int64(400), int64(1)))
    yield node("Slice", long, note="every second", constants=(int64(0), int64(512), int64(1), int64(2)))
    yield node("Slice", long, note="reversed", constants=(int64(-1), int64(-600), int64(1), int64(-1)))
    table = a(30522, 128)
    yield node("Gather", table, constants=(a.ints(30522, 512),), note="rows")
    yield node("Gather", long, constants=(a.ints(512, 256),), note="columns", axis=1)
    yield node("GatherElements", long, a.ints(512, 512, 256), axis=1)
    yield node("GatherND", long, a.ints(512, 4096, 2))
    yield node("ScatterND", long, constants=(a.ints(512, 128, 1), a(128, 512)))
    yield node("ScatterElements", long, constants=(a.ints(512, 512, 64), a(512, 64)), axis=1)
    yield node("Pad", x, constants=(int64(0, 0, 1, 1, 0, 0, 1, 1),))
    yield node("Pad", x, note="reflect", constants=(int64(0, 0, 1, 1, 0, 0, 1, 1),), mode="reflect")
    yield node("Pad", x, note="edge", constants=(int64(0, 0, 1, 1, 0, 0, 1, 1),), mode="edge")
    yield node("Tile", a(64, 256), constants=(int64(4, 2),))
    yield node("Expand", a(256, 1), constants=(int64(256, 512),), note="columns")
    yield node("Expand", a(1, 512), constants=(int64(256, 512),), note="rows")
    yield node("DepthToSpace", a(1, 64, 64, 64), blocksize=2)
    yield node("SpaceToDepth", a(1, 16, 128, 128), blocksize=2)
    scales = np.array([1, 1, 2, 2], np.float32)
    yield node("Resize", x, constants=(None, scales), note="nearest", mode="nearest",
               coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    yield node("Resize", x, constants=(None, scales), note="linear", mode="linear")
    yield node("Resize", a(1, 3, 128, 128), constants=(None, scales), note="cubic", mode="cubic", least=1e-4)
    grid = a(1, 64, 64, 2, low=-1.0)
    yield node("GridSample", a(1, 16, 64, 64), grid, least=1e-3)


def windows() -> Iterator[Node]:
    """Pooling as a whole model, with channels first."""
    a = Arrays()
    x = a(1, 64, 56, 56)
    yield node("MaxPool", x, note="3x3", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    yield node("MaxPool", x, note="2x2", kernel_shape=[2, 2], strides=[2, 2])
    yield node("AveragePool", x, note="3x3", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    yield node("AveragePool", x, note="2x2", kernel_shape=[2, 2], strides=[2, 2])
    yield node("GlobalAveragePool", a(8, 512, 7, 7))
    yield node("GlobalMaxPool", a(8, 512, 7, 7))
    yield node("MaxPool", a(8, 64, 512), note="1d", kernel_shape=[3], strides=[2])


def quantised() -> Iterator[Node]:
    """Conversions to 8 bits and back."""
    a = Arrays()
    x = a(256, 512)
    yield node("QuantizeLinear", x, constants=(np.float32(0.05), np.uint8(128)))
    yield node("QuantizeLinear", x, constants=(a(512, low=0.01), np.zeros(512, np.int8)), note="by column", axis=1)
    codes = a.ints(256, 256, 512).astype(np.uint8)
    yield node("DequantizeLinear", codes, constants=(np.float32(0.05), np.uint8(128)))
    yield node("DynamicQuantizeLinear", x, outputs=3)


FAMILIES: dict[str, Callable[[], Iterator[Node]]] = {
    f.__name__: f for f in (maps, pairs, reductions, orders, rows, moves, windows, quantised)
}
