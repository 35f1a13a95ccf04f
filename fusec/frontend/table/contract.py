"""Rows of matrix products."""

from __future__ import annotations

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call, row
from fusec.frontend.table.activation import activated
from fusec.frontend.table.einsum import einsum
from fusec.frontend.table.levels import product_of_levels
from fusec.ir.graph import Value


def matmul(call: Call, a: Value, b: Value, integers: bool = False) -> Value:
    """numpy's matmul, vectors included; of short `integers` in i32."""
    if not a.shape or not b.shape:
        raise call.error(f"needs at least vectors, got {a.type} and {b.type}")
    left = call.reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    right = call.reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    out = call.integer_matmul(left, right) if integers else call.matmul(left, right)
    shape = list(out.shape)
    if len(b.shape) == 1:
        del shape[-1]
    if len(a.shape) == 1:
        del shape[-1 if len(b.shape) == 1 else -2]
    return call.reshape(out, shape)


@row("MatMul")
def _matmul(call: Call) -> Value:
    a, b = call.x(0), call.x(1)
    return matmul(call, a, b) if (out := product_of_levels(call, a, b)) is None else out


@row("Gemm")
def _gemm(call: Call) -> Value:
    return _scaled_product(call)


def _scaled_product(call: Call) -> Value:
    """What Gemm computes."""
    a, b, c = call.x(0), call.x(1), call.maybe(2)
    if call.version < 7 and len(a.shape) > 2:
        raise NotNative("Gemm of more than matrices")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise call.error(f"needs matrices, got {a.type} and {b.type}")
    turn_a, turn_b = bool(call.attr("transA", 0)), bool(call.attr("transB", 0))
    out = product_of_levels(call, a, b, turn_a, turn_b)
    if out is None:
        a = call.transpose(a, (1, 0)) if turn_a else a
        b = call.transpose(b, (1, 0)) if turn_b else b
        out = call.matmul(a, b)
    out = scaled(call, out, float(call.attr("alpha", 1.0)))
    beta = float(call.attr("beta", 1.0))
    if c is None or beta == 0.0:
        return out
    return call.elementwise("add", out, scaled(call, c, beta))


def scaled(call: Call, x: Value, factor: float) -> Value:
    """`x` times a number, nothing where it is 1."""
    if factor == 1.0:
        return x
    if not x.dtype.is_float and factor != int(factor):
        raise NotNative(f"an integer tensor times {factor}")
    return call.emit("mul", x, call.scalar(factor, x.dtype))


@row("FusedGemm", domain="com.microsoft")
def _fused_gemm(call: Call) -> Value:
    """A Gemm and an activation, which has as many parameters as are not absent."""
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return activated(call, _scaled_product(call), [float(call.attrs[n]) for n in names if n in call.attrs])


@row("FusedMatMul", domain="com.microsoft")
def _fused_matmul(call: Call) -> Value:
    a, b = call.x(0), call.x(1)
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise NotNative("transposed batches")
    a = swap_last(call, a) if call.attr("transA", 0) else a
    b = swap_last(call, b) if call.attr("transB", 0) else b
    return scaled(call, matmul(call, a, b), float(call.attr("alpha", 1.0)))


def swap_last(call: Call, x: Value) -> Value:
    """The last two axes exchanged; vectors stay."""
    n = len(x.shape)
    return x if n < 2 else call.transpose(x, (*range(n - 2), n - 1, n - 2))


@row("Einsum")
def _einsum(call: Call) -> Value:
    return einsum(call, str(call.attrs["equation"]), [call.x(i) for i in range(len(call.inputs))])
