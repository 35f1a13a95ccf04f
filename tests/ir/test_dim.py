"""Dimensions are canonical, and every operation on them means what it means on integers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.errors import BugError
from fusec.ir import dim
from fusec.ir.dim import Dim, Extent, evaluate, exact_quotient, linear, parse_dim, product, substitute, symbol

NAMES = ["N", "M", "K"]
BINARY: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "floordiv": dim.floordiv,
    "ceildiv": dim.ceildiv,
    "quotient": lambda a, b: dim.quotient(a, b) if isinstance(b, int) else a // b,
    "mod": dim.mod,
    "max": dim.maximum,
    "min": dim.minimum,
}
DIVIDES = {"//", "%", "floordiv", "ceildiv", "quotient", "mod"}
envs = st.fixed_dictionaries({n: st.integers(1, 50) for n in NAMES})
Pair = tuple[Extent, Any]


@st.composite
def extents(draw: st.DrawFn, depth: int = 4) -> Pair:
    """An extent and a function that computes it with plain integers."""
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            n = draw(st.integers(-6, 9))
            return n, lambda env: n
        name = draw(st.sampled_from(NAMES))
        return symbol(name), lambda env: env[name]
    op = draw(st.sampled_from(sorted(BINARY)))
    a, fa = draw(extents(depth - 1))
    if op in DIVIDES:  # divisors are positive sizes
        n = draw(st.integers(1, 7))
        name = draw(st.sampled_from([None, *NAMES]))
        b: Extent = n if name is None else symbol(name) * n
        fb = lambda env: n if name is None else env[name] * n  # noqa: E731
    else:
        b, fb = draw(extents(depth - 1))
    return BINARY[op](a, b), lambda env: BINARY[op](fa(env), fb(env))


@settings(deadline=None)
@given(extents(), envs)
def test_evaluation_is_a_homomorphism(pair: Pair, env: dict[str, int]) -> None:
    x, plain = pair
    assert evaluate(x, env) == plain(env)


@settings(deadline=None)
@given(extents())
def test_text_round_trip(pair: Pair) -> None:
    x, _ = pair
    assert parse_dim(str(x)) == x


@settings(deadline=None)
@given(extents(), extents(), extents())
def test_equal_polynomials_are_equal_objects(p: Pair, q: Pair, r: Pair) -> None:
    a, b, c = p[0], q[0], r[0]
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a + b) * c == a * c + b * c
    assert a - a == 0
    assert hash(a + b) == hash(b + a)
    assert dim.maximum(a, b) == dim.maximum(b, a)


@settings(deadline=None)
@given(extents(), envs)
def test_substitution_of_everything_is_evaluation(pair: Pair, env: dict[str, int]) -> None:
    assert substitute(pair[0], env) == evaluate(pair[0], env)


@settings(deadline=None)
@given(extents(), extents(), envs)
def test_extremes_absorb_what_they_are_made_of(p: Pair, q: Pair, env: dict[str, int]) -> None:
    a, b = p[0], q[0]
    for outer, inner in ((dim.maximum, dim.minimum), (dim.minimum, dim.maximum)):
        assert outer(a, outer(a, b)) == outer(a, b)
        assert outer(a, inner(a, b)) == a
        assert evaluate(outer(a, b), env) == (max if outer is dim.maximum else min)(evaluate(a, env), evaluate(b, env))


@settings(deadline=None)
@given(extents())
def test_signed_parts(pair: Pair) -> None:
    plus, minus = dim.signed_parts(pair[0])
    assert plus - minus == pair[0]
    for part in (plus, minus):
        assert part >= 0 if isinstance(part, int) else all(c > 0 for _, c in part.terms)


@settings(deadline=None)
@given(extents(2), st.sampled_from([2, 3, symbol("N"), symbol("N") * 4, symbol("N") * symbol("M")]))
def test_exact_quotients(pair: Pair, b: Extent) -> None:
    assert exact_quotient(pair[0] * b, b) == pair[0]


def test_linear_splits_coefficients() -> None:
    i, j, n = symbol("i"), symbol("j"), symbol("N")
    assert linear(i * n + j * 2 + n - 1, ["i", "j"]) == (n - 1, {"i": n, "j": 2})
    assert linear(i * j, ["i", "j"]) is None
    assert linear((i + n) // 2, ["i"]) is None
    assert linear(7, ["i"]) == (7, {})


def test_what_people_write() -> None:
    n = symbol("N")
    assert str(n * 2 + 1) == "2*N + 1"
    assert str(1 - n) == "-N + 1"
    assert product([n, 2, n]) == n * n * 2
    assert isinstance(n - n, int)
    assert (n * 6) // 3 == n * 2
    with pytest.raises(BugError, match="truth"):
        bool(n)


@pytest.mark.parametrize("text", ["", "N +", "f(N)", "N.x", "1.5", "True", "N if N else M", "max(N)", "'N'"])
def test_what_is_no_dimension(text: str) -> None:
    with pytest.raises(ValueError, match="not a dimension"):
        parse_dim(text)


def test_dimensions_are_frozen() -> None:
    assert isinstance(symbol("N"), Dim)
    with pytest.raises(AttributeError):
        symbol("N").terms = ()  # type: ignore[misc]
