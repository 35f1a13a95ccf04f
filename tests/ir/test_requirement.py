"""Requirements say the same in plain words as in those that they were made with, and none that matters gets lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.errors import InputError
from fusec.ir.dim import Extent, ceildiv, evaluate, floordiv, maximum, minimum, mod, quotient, symbol
from fusec.ir.requirement import Requirement, check_known, plain, strictest, summary

H, W = symbol("H"), symbol("W")
numbers = st.fixed_dictionaries({"H": st.integers(0, 70), "W": st.integers(0, 70)})


@st.composite
def sizes(draw: st.DrawFn, depth: int = 4) -> Extent:
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from([H, W, H - 1, 3]))
    x, k = draw(sizes(depth - 1)), draw(st.integers(1, 5))
    match draw(st.integers(0, 8)):
        case 0:
            return floordiv(x, k)
        case 1:
            return ceildiv(x, k)
        case 2:
            return quotient(x, k)
        case 3:
            return x * k
        case 4:
            return minimum(x, draw(sizes(depth - 1)))
        case 5:
            return maximum(x, k)
        case 6:
            return mod(x, k)
        case 7:
            return x - draw(sizes(depth - 1))
    return x + draw(st.integers(-4, 4))


requirements = st.builds(Requirement, sizes(), st.integers(-3, 9), st.booleans())


def all_hold(rs: tuple[Requirement, ...], env: dict[str, int]) -> bool:
    return all(r.holds(env) for r in rs)


@settings(deadline=None, max_examples=300)
@given(requirements, numbers)
def test_plain_words_say_the_same(r: Requirement, env: dict[str, int]) -> None:
    value = evaluate(r.size, env)
    assert r.holds(env) == (value == r.least if r.is_exact else value >= r.least)
    assert all_hold(plain(r), env) == r.holds(env)


@settings(deadline=None, max_examples=200)
@given(st.lists(requirements, max_size=5), numbers)
def test_what_is_left_implies_the_rest(rs: list[Requirement], env: dict[str, int]) -> None:
    assert all_hold(strictest(rs), env) == all_hold(tuple(rs), env) == all_hold(summary(rs), env)


def test_a_network_of_windows_asks_little() -> None:
    """Halving five times over: one bound of one symbol, that of the last window."""
    size: Extent = H
    asked = []
    for _ in range(5):
        asked.append(Requirement(size, 3))
        size = quotient(size - 3, 2) + 1
    assert [str(r) for r in summary(asked)] == ["H >= 63"]
    assert strictest(asked) == (asked[-1],)


def test_the_error_has_the_size_and_a_number_that_would_do() -> None:
    needed = (
        Requirement(floordiv(H, 2), 3, what="Conv 'c': reaches over 3, the input has", origin=("c",)),
        Requirement(mod(H, 4), 0, True, "Add 'a': the rest is"),
    )
    assert check_known(needed, {"W": 3}) == needed
    assert check_known(needed, {"H": 8}) == ()
    with pytest.raises(InputError, match=r"Conv 'c': .* has 2; with H=4; the next larger size that will do is 8") as e:
        check_known(needed, {"H": 4})
    assert e.value.node == "c"
    with pytest.raises(InputError, match=r"the rest is 1; with H=9; .* is 12"):
        check_known(needed, {"H": 9})


def test_what_cannot_be_computed_does_not_hold() -> None:
    r = Requirement(floordiv(6, H), 1, what="it is")
    assert r.holds({"H": 3})
    with pytest.raises(InputError, match=r"it is no size at all; with H=0; .* is 1"):
        check_known([r], {"H": 0})
