"""The convolution op: its type rule with symbols, what it refuses, and its reference against plain loops."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fusec.errors import ModelError
from fusec.ir.types import TensorType, parse_type
from fusec.ops.op import get

CONV = get("conv")


def attrs(n: int = 2, **changed: Any) -> dict[str, Any]:
    plain = {"strides": (1,) * n, "dilations": (1,) * n, "before": (0,) * n, "after": (0,) * n, "groups": 1}
    return plain | changed


@pytest.mark.parametrize(
    ("x", "w", "changed", "out"),
    [
        ("f32[2, 8, 9, 3]", "f32[3, 3, 3, 5]", {}, "f32[2, 6, 7, 5]"),
        ("f32[N, 8, 9, 3]", "f32[3, 3, 3, 5]", {"before": (1, 1), "after": (1, 0)}, "f32[N, 8, 8, 5]"),
        ("f32[N, 8, 9, 4]", "f32[3, 3, 2, 6]", {"strides": (2, 3), "groups": 2}, "f32[N, 3, 3, 6]"),
        ("f32[N, H, W, 3]", "f32[3, 1, 3, 5]", {"strides": (2, 1)}, "f32[N, floordiv(H + 1, 2) - 1, W, 5]"),
        ("f32[N, 9, 9, 3]", "f32[3, 3, 3, 5]", {"dilations": (2, 4)}, "f32[N, 5, 1, 5]"),
        ("f32[0, 9, 9, 3]", "f32[3, 3, 3, 5]", {}, "f32[0, 7, 7, 5]"),
        ("f32[N, 9, 9, C]", "f32[3, 3, 3, 5]", {}, "f32[N, 7, 7, 5]"),
    ],
)
def test_type(x: str, w: str, changed: dict[str, Any], out: str) -> None:
    (got,) = CONV.infer([parse_type(x), parse_type(w)], attrs(**changed))
    assert str(got) == out


@pytest.mark.parametrize(
    ("x", "w", "changed", "words"),
    [
        ("f32[2, 8, 9, 3]", "f32[3, 3, 4, 5]", {}, "1 groups of 4 channels"),
        ("f32[2, 8, 9, 4]", "f32[3, 3, 2, 5]", {"groups": 2}, "5 filters do not split into 2 groups"),
        ("f32[2, 8, 9, 3]", "f32[9, 3, 3, 5]", {}, "a kernel of 9"),
        ("f32[2, 8, 9, 3]", "f32[3, 3, 3, 5]", {"dilations": (1, 5)}, "dilation 5"),
        ("f32[2, 8, 9, 3]", "f32[3, 3, 5]", {}, "one rank"),
        ("f32[2, 3]", "f32[3, 5]", {}, "rank of 3"),
        ("f32[2, 8, 9, 3]", "f32[3, 3, 3, 5]", {"strides": (1, 0)}, r"strides \[1, 0\]"),
        ("f32[2, 8, 9, 3]", "f32[3, 3, 3, 5]", {"before": (1,)}, r"before \[1\]"),
        ("f32[2, 8, 9, 3]", "f32[3, 3, 3, 5]", {"groups": 0}, "groups 0"),
        ("f32[2, 8, 9, 3]", "f64[3, 3, 3, 5]", {}, "different dtypes"),
        ("bool[2, 8, 9, 3]", "bool[3, 3, 3, 5]", {}, "numbers"),
    ],
)
def test_refused(x: str, w: str, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        CONV.infer([parse_type(x), parse_type(w)], attrs(**changed))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("before", "after"), [((1, 2), (0, 3)), ((-1, 0), (1, -2))])
def test_reference(groups: int, before: tuple[int, int], after: tuple[int, int]) -> None:
    r = np.random.default_rng(0)
    x, w = r.standard_normal((2, 7, 8, 4)), r.standard_normal((3, 2, 4 // groups, 8))
    a = attrs(strides=(2, 1), dilations=(1, 2), before=before, after=after, groups=groups)
    (got,) = CONV.reference([x, w], a)
    (t,) = CONV.infer([parse_type("f64[2, 7, 8, 4]"), parse_type(f"f64[3, 2, {4 // groups}, 8]")], a)
    assert isinstance(t, TensorType)
    assert got.shape == t.dims
    want = np.zeros(got.shape)
    for n, p, q, o in product(*map(range, got.shape)):
        group = o // (8 // groups)
        for i, j, c in product(range(3), range(2), range(4 // groups)):
            h, v = p * 2 + i - before[0], q + j * 2 - before[1]
            if 0 <= h < 7 and 0 <= v < 8:
                want[n, p, q, o] += x[n, h, v, group * (4 // groups) + c] * w[i, j, c, o]
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
