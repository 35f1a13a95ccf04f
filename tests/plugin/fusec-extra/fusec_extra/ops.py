"""softshift(x) = x / (1 + |x|) + shift."""

import numpy as np

from fusec.ir.expr import Const, prim
from fusec.ops.op import Kind, Op, register
from fusec.ops.rules import FLOATS, elementwise


def scalar(args, attrs):
    (x,) = args
    one, shift = Const(1.0, x.dtype), Const(float(attrs["shift"]), x.dtype)
    return prim("add", prim("div", x, prim("add", one, prim("abs", x))), shift)


def reference(args, attrs):
    (x,) = args
    return (np.asarray(x / (1 + np.abs(x)) + x.dtype.type(attrs["shift"])),)


register(Op("softshift", Kind.ELEMENTWISE, elementwise("softshift", 1, FLOATS), reference, scalar, 4.0))
