"""Branches of traced functions: a function that asks for the truth of a value runs once for each answer.

A run follows a list of answers and answers "yes" beyond its end; what it asked there is answered "no" by further runs. The
results of both are then chosen between by the value itself, so that `if`, `and`, `or`, conditional expressions, early returns
and loops that may end early become one expression in which both sides are computed. This is symbolic execution (King,
"Symbolic Execution and Program Testing", CACM 1976) of functions that have no side effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

MOST_PATHS = 32
"""Results that an expression chooses between; all are computed for every element."""
MOST_QUESTIONS = 32
"""Questions of one run; only a loop asks more."""

T = TypeVar("T")


class TooManyBranches(Exception):  # a decision, not an error: the function is compiled instead
    """Why the branches of a function cannot be followed."""


class _Run:
    """One run: the answers it was given, and what it asked."""

    def __init__(self, answers: Sequence[bool]) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def ask(self, question: Any, same: Callable[[Any, Any], bool]) -> bool:
        known = next((i for i, q in enumerate(self.asked) if same(q, question)), None)
        if known is None:
            known = len(self.asked)
            self.asked.append(question)
            if known >= MOST_QUESTIONS:
                raise TooManyBranches(f"it branches on values more than {MOST_QUESTIONS} times: a loop may never end")
        return self.answers[known] if known < len(self.answers) else True


_run: ContextVar[_Run | None] = ContextVar("_run", default=None)


def answer(question: T, same: Callable[[T, T], bool]) -> bool:
    """The truth of a value in the run that is under way. TooManyBranches outside of `every_path`."""
    run = _run.get()
    if run is None:
        raise TooManyBranches("it branches on a value (`if`, `and`, `or`, `while`)")
    return run.ask(question, same)


def every_path(function: Callable[[], T], choose: Callable[[T, T, T], T]) -> T:
    """What `function` gives on all its paths, merged: `choose(question, yes, no)`. TooManyBranches past MOST_PATHS."""
    paths = 0

    def follow(answers: list[bool]) -> T:
        nonlocal paths
        paths += 1
        if paths > MOST_PATHS:
            raise TooManyBranches(f"it branches on values in more than {MOST_PATHS} ways")
        run = _Run(answers)
        token = _run.set(run)
        try:
            made = function()
        finally:
            _run.reset(token)
        if len(run.asked) < len(answers):
            raise TooManyBranches("it does not branch the same way each time")
        for i in reversed(range(len(answers), len(run.asked))):
            made = choose(run.asked[i], made, follow([*answers, *[True] * (i - len(answers)), False]))
        return made

    return follow([])
