"""What random models are made from: a graph that grows, with the shape, dtype and a source of every value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import helper, numpy_helper

SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 17)
F, I64, I32, B, U8, I8 = "float32", "int64", "int32", "bool", "uint8", "int8"


@dataclass(frozen=True)
class Val:
    """A value of the model with the shape that it has for the inputs that are fed."""

    name: str
    dtype: str
    shape: tuple


def onnx_type(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Maker:
    """Nodes, values to read, inputs with what they are fed, and constants; `r` decides everything."""

    def __init__(self, seed):
        self.r = np.random.default_rng(seed)
        self.nodes, self.vals, self.inputs, self.inits, self.feeds = [], [], [], [], {}

    def chance(self, p):
        return self.r.random() < p

    def pick(self, xs):
        return xs[int(self.r.integers(len(xs)))]

    def size(self):
        n = self.pick(SIZES)
        return n if n or self.chance(0.3) else 2

    def shape(self, low=0, high=4):
        return tuple(self.size() for _ in range(int(self.r.integers(low, high + 1))))

    def data(self, dtype, shape):
        if dtype == B:
            return self.r.random(shape) < 0.5
        if dtype == F:
            return np.asarray(self.r.standard_normal(shape) * 2, dtype)
        if dtype == U8:
            return self.r.integers(0, 256, shape).astype(dtype)
        if dtype == I8:
            return self.r.integers(-128, 128, shape).astype(dtype)
        return self.r.integers(-6, 9, shape).astype(dtype)

    def source(self, dtype, shape):
        """A fresh input or initializer."""
        if self.chance(0.6):
            v = Val(f"x{len(self.inputs)}", dtype, tuple(shape))
            self.inputs.append(v)
            self.feeds[v.name] = self.data(dtype, shape)
            self.vals.append(v)
            return v
        return self.const(self.data(dtype, shape))

    def const(self, array):
        array = np.asarray(array)
        v = Val(f"c{len(self.inits)}", str(array.dtype), array.shape)
        self.inits.append(numpy_helper.from_array(array, v.name))
        return v

    def any(self, *dtypes, low=0, high=5):
        """A value of some dtype and rank, mostly one that was made lately."""
        have = [v for v in self.vals if (not dtypes or v.dtype in dtypes) and low <= len(v.shape) <= high]
        if have and self.chance(0.85):
            k = len(have)
            return have[max(0, k - 1 - int(self.r.integers(min(k, 6))))] if self.chance(0.7) else self.pick(have)
        return self.source(self.pick(dtypes) if dtypes else F, self.shape(low, min(high, 4)))

    def mate(self, v):
        """A value that broadcasts with v."""
        fits = [u for u in self.vals if u.dtype == v.dtype and joint(u.shape, v.shape) is not None]
        if fits and self.chance(0.6):
            return self.pick(fits)
        s = list(v.shape)
        if s and self.chance(0.4):
            s = s[int(self.r.integers(len(s))) :]
        s = [1 if self.chance(0.25) else (self.size() if d == 1 and self.chance(0.4) else d) for d in s]
        if self.chance(0.2):
            s = []
        return self.source(v.dtype, s)

    def node(self, op, ins, dtype, shape, **attrs):
        v = Val(f"v{len(self.nodes)}", dtype, tuple(int(d) for d in shape))
        self.nodes.append(
            helper.make_node(op, [i.name if i else "" for i in ins], [v.name], name=f"n{len(self.nodes)}", **attrs)
        )
        self.vals.append(v)
        return v


def joint(*shapes):
    """The shape that shapes broadcast to, None where they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None
