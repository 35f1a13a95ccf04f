"""Activation functions, as bodies that neither overflow nor lose a NaN, whatever the element.

Where a formula from the textbook would overflow on the way to a finite result (sigmoid, softplus, mish), the body uses
exp(-|x|), which stays within 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.ir.evaluate import apply_primitive
from fusec.ir.expr import Expr, prim
from fusec.ops.body import add, compare, const, div, exp, maximum, minimum, mul, reference, scalar, sub, where
from fusec.ops.op import Attrs, Kind, Op, register
from fusec.ops.rules import FLOATS, NUMBERS, DTypeSet, elementwise

Array = npt.NDArray[Any]
SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def _activation(
    name: str,
    body: Callable[..., Expr],
    numpy: Callable[..., Any],
    allowed: tuple[str, DTypeSet] = FLOATS,
    flops: float = 4.0,
    **defaults: Any,
) -> None:
    """Declare an activation of one input; `defaults` are its attributes."""
    _declare(name, body, numpy, allowed=allowed, flops=flops, defaults=defaults)


def _declare(
    name: str,
    body: Callable[..., Expr],
    numpy: Callable[..., Any],
    *,
    allowed: tuple[str, DTypeSet],
    flops: float,
    defaults: Attrs,
    count: int = 1,
) -> None:
    register(
        Op(
            name,
            Kind.ELEMENTWISE,
            elementwise(name, count, allowed),
            reference(numpy, *defaults, defaults=defaults),
            scalar(body, *defaults, defaults=defaults),
            flops,
        )
    )


def _abs(x: Expr) -> Expr:
    return prim("abs", x)


def _small_exp(x: Expr) -> Expr:
    """exp(-|x|), within 0..1."""
    return exp(prim("neg", _abs(x)))


def _log1p(e: Expr) -> Expr:
    """log(1 + e) for 0 <= e <= 1 to the last digits, also where 1 + e rounds to 1 (Kahan's correction)."""
    u = add(e, 1.0)
    return where(compare("eq", u, 1.0), e, div(mul(prim("log", u), e), sub(u, 1.0)), like=e)


def _sigmoid(x: Expr) -> Expr:
    e = _small_exp(x)
    return div(where(compare("lt", x, 0.0), e, 1.0, like=x), add(e, 1.0))


def _sigmoid_numpy(x: Array) -> Array:
    return np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-x)))


def _softplus_numpy(x: Array) -> Array:
    return np.asarray(np.logaddexp(x, np.zeros((), x.dtype)))


def _mish(x: Expr) -> Expr:
    """x * tanh(softplus(x)), rationalised: with e = exp(-|x|) no term is ever subtracted from one of its size."""
    e = _small_exp(x)
    square = mul(e, e)
    positive = div(add(mul(e, 2.0), 1.0), add(add(mul(square, 2.0), mul(e, 2.0)), 1.0))
    negative = div(add(square, mul(e, 2.0)), add(add(square, mul(e, 2.0)), 2.0))
    return mul(x, where(compare("lt", x, 0.0), negative, positive, like=x))


def _gelu(x: Expr, approximate: str) -> Expr:
    if approximate == "tanh":
        cubic = add(x, mul(mul(mul(x, x), x), 0.044715))
        return mul(mul(x, 0.5), add(prim("tanh", mul(cubic, SQRT_2_OVER_PI)), 1.0))
    return mul(mul(x, 0.5), add(prim("erf", mul(x, SQRT_HALF)), 1.0))


def _gelu_numpy(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * (x + 0.044715 * (x * x * x)))))
    return np.asarray(0.5 * x * (1 + apply_primitive("erf", (x * np.asarray(SQRT_HALF, x.dtype),))))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return maximum(minimum(add(mul(x, alpha), beta), 1.0), 0.0)


def _hard_sigmoid_numpy(x: Array, alpha: float, beta: float) -> Array:
    return np.maximum(0, np.minimum(1, alpha * x + beta))


def _elu(x: Expr, alpha: float) -> Expr:
    return where(compare("lt", x, 0.0), mul(sub(exp(minimum(x, 0.0)), 1.0), alpha), x, like=x)


def _celu(x: Expr, alpha: float) -> Expr:
    low = mul(sub(exp(div(x, alpha)), 1.0), alpha)
    return add(maximum(x, 0.0), minimum(low, 0.0))


def _selu(x: Expr, alpha: float, gamma: float) -> Expr:
    low = mul(sub(exp(minimum(x, 0.0)), 1.0), alpha * gamma)
    return where(compare("gt", x, 0.0), mul(x, gamma), low, like=x)


def _shrink(x: Expr, lambd: float, bias: float) -> Expr:
    high = where(compare("gt", x, lambd), sub(x, bias), 0.0, like=x)
    return where(compare("lt", x, -lambd), add(x, bias), high, like=x)


def _swish(x: Expr, alpha: float) -> Expr:
    return mul(x, _sigmoid(x if alpha == 1.0 else mul(x, alpha)))


_activation("reciprocal", lambda x: div(const(1.0, x), x), lambda x: 1 / x, flops=1.0)
_activation("relu", lambda x: maximum(x, 0), lambda x: np.maximum(x, np.zeros((), x.dtype)), NUMBERS, flops=1.0)
_activation("sigmoid", _sigmoid, _sigmoid_numpy, flops=24.0)
_activation("softplus", lambda x: add(maximum(x, 0.0), _log1p(_small_exp(x))), _softplus_numpy, flops=45.0)
_activation("softsign", lambda x: div(x, add(_abs(x), 1.0)), lambda x: x / (1 + np.abs(x)), flops=3.0)
_activation("mish", _mish, lambda x: x * np.tanh(_softplus_numpy(x)), flops=34.0)
_activation("gelu", _gelu, _gelu_numpy, flops=25.0, approximate="none")
_activation("swish", _swish, lambda x, alpha: x * _sigmoid_numpy(alpha * x), flops=25.0, alpha=1.0)
_activation("hard_sigmoid", _hard_sigmoid, _hard_sigmoid_numpy, alpha=0.2, beta=0.5)
_activation(
    "hard_swish",
    lambda x: mul(x, _hard_sigmoid(x, 1.0 / 6.0, 0.5)),
    lambda x: x * _hard_sigmoid_numpy(x, 1.0 / 6.0, 0.5),
)
_activation(
    "leaky_relu",
    lambda x, alpha: where(compare("lt", x, 0.0), mul(x, alpha), x, like=x),
    lambda x, alpha: np.where(x < 0, alpha * x, x),
    flops=2.0,
    alpha=0.01,
)
_activation("elu", _elu, lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x), flops=24.0, alpha=1.0)
_activation(
    "celu",
    _celu,
    lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)),
    flops=26.0,
    alpha=1.0,
)
_activation(
    "selu",
    _selu,
    lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(x)),
    flops=25.0,
    alpha=1.67326319217681884765625,
    gamma=1.05070102214813232421875,
)
_activation(
    "thresholded_relu",
    lambda x, alpha: where(compare("gt", x, alpha), x, 0.0, like=x),
    lambda x, alpha: np.where(x > alpha, x, np.zeros((), x.dtype)),
    flops=1.0,
    alpha=1.0,
)
_activation(
    "shrink",
    _shrink,
    lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, np.zeros((), x.dtype))),
    lambd=0.5,
    bias=0.0,
)
_declare(
    "prelu",
    lambda x, slope: where(compare("lt", x, 0), mul(x, slope), x, like=x),
    lambda x, slope: np.where(x < 0, x * slope, x),
    allowed=NUMBERS,
    flops=2.0,
    defaults={},
    count=2,
)
