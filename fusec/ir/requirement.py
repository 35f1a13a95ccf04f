"""What a graph needs of its sizes: conditions on symbols, checked when those get numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd

from fusec.errors import AssumptionError, InputError
from fusec.ir.dim import Atom, Dim, Extent, evaluate, exact_quotient, symbols_of

FARTHEST = 1 << 10
"""How much larger a size is looked for that a model can run with, where one cannot be used."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """`size` is at least `least` in every run, or just that where `is_exact`.

    `what` names operator, node and attribute and ends where the size belongs: "MaxPool 'pool': kernel_shape [2] reaches over
    2 elements, the padded input has". `origin` names the ONNX nodes that ask for it; both are for messages alone.
    One with `excuses` is assumed: a run that misses it is right where one of these sizes is 1, but needs another plan.
    """

    size: Extent
    least: int
    is_exact: bool = False
    what: str = field(default="", compare=False)
    origin: tuple[str, ...] = field(default=(), compare=False)
    excuses: tuple[Extent, ...] = field(default=(), compare=False)

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that must have numbers before it can be checked."""
        return symbols_of(self.size)

    def holds(self, numbers: Mapping[str, int]) -> bool:
        """Whether it does with these numbers for its symbols. False where they divide by zero."""
        try:
            size = evaluate(self.size, numbers)
        except ZeroDivisionError:
            return False
        return size == self.least if self.is_exact else size >= self.least

    def is_excused(self, numbers: Mapping[str, int]) -> bool:
        """Whether a run that misses it is right nevertheless, for a plan that assumes nothing."""
        known = [size for size in self.excuses if symbols_of(size) <= numbers.keys()]
        try:
            return 1 in [evaluate(size, numbers) for size in known]
        except ZeroDivisionError:
            return False

    def __str__(self) -> str:
        return f"{self.size} {'==' if self.is_exact else '>='} {self.least}"


def check_known(requirements: Sequence[Requirement], numbers: Mapping[str, int]) -> tuple[Requirement, ...]:
    """The requirements that wait for further symbols.

    InputError where one of the others does not hold, AssumptionError where a plan without assumptions is for these numbers.
    """
    due = [r for r in requirements if r.symbols <= numbers.keys()]
    missed = [r for r in due if not r.holds(numbers)]
    excused = next((r for r in missed if r.is_excused(numbers)), None)
    if excused is not None:
        error = _error(excused, due, numbers)
        hint = f"{error.hint}; the plan assumes that it is so: compile one with --no-assume (assume=False)"
        raise AssumptionError(error.message, hint=hint, node=error.node)
    if missed:
        raise _error(missed[0], requirements, numbers)
    return tuple(r for r in requirements if r not in due)


def _error(missed: Requirement, all_: Sequence[Requirement], numbers: Mapping[str, int]) -> InputError:
    """The error for a requirement that these numbers miss, with the next larger number that would do, if one symbol decides."""
    try:
        size = str(evaluate(missed.size, numbers))
    except ZeroDivisionError:
        size = "no size at all"
    hint = "with " + ", ".join(f"{s}={numbers[s]}" for s in sorted(missed.symbols))
    if len(missed.symbols) == 1:
        (name,) = missed.symbols
        alike = [r for r in all_ if r.symbols == missed.symbols]
        larger = range(numbers[name] + 1, numbers[name] + 1 + FARTHEST)
        found = next((n for n in larger if all(r.holds({name: n}) for r in alike)), None)
        hint += "" if found is None else f"; the next larger size that will do is {found}"
    node = missed.origin[0] if missed.origin else None
    return InputError(f"{missed.what} {size}", hint=hint, node=node)


def plain(r: Requirement) -> tuple[Requirement, ...]:
    """The same in the plainest words, as requirements that hold together: bounds of symbols where that is what it comes to.

    >>> from fusec.ir.dim import floordiv, symbol
    >>> h = symbol("H")
    >>> [str(p) for p in plain(Requirement(floordiv(h - 1, 2) + 1, 16))]
    ['H >= 31']
    >>> [str(p) for p in plain(Requirement(8 * h - 4 * floordiv(h, 3) + 4, 0, is_exact=True))]
    ['2*H - floordiv(H, 3) == -1']
    """
    return _exactly(r) if r.is_exact else tuple(Requirement(*p) for p in _at_least(r.size, r.least))


def _exactly(r: Requirement) -> tuple[Requirement, ...]:
    variable, constant = _split(r.size)
    if not isinstance(variable, Dim):
        return () if constant == r.least else (r,)
    common = gcd(*(coef for _, coef in variable.terms), constant - r.least)
    common *= -1 if variable.terms[0][1] < 0 else 1
    size = exact_quotient(variable, common)
    return (r if size is None else Requirement(size, (r.least - constant) // common, is_exact=True),)


def _at_least(size: Extent, least: int) -> tuple[tuple[Extent, int], ...]:
    variable, constant = _split(size)
    if not isinstance(variable, Dim):
        return () if constant >= least else ((size, least),)
    least -= constant
    (mono, coef), *others = variable.terms
    if others or coef < 0 or len(mono) != 1:
        return ((variable, least),)
    one, least, atom = Dim(((mono, 1),)), -(-least // coef), mono[0]
    return ((one, least),) if isinstance(atom, str) else _atom_at_least(atom, one, least)


def _atom_at_least(atom: Atom, whole: Extent, least: int) -> tuple[tuple[Extent, int], ...]:
    a, b = atom.a, atom.b
    if atom.fn == "min":
        return _at_least(a, least) + _at_least(b, least)
    if atom.fn == "max" and isinstance(a, int) != isinstance(b, int):
        known, open_ = (a, b) if isinstance(a, int) else (b, a)
        return () if isinstance(known, int) and known >= least else _at_least(open_, least)
    if isinstance(b, int) and b > 0 and atom.fn == "floordiv":
        return _at_least(a, b * least)
    if isinstance(b, int) and b > 0 and atom.fn == "ceildiv":
        return _at_least(a, b * (least - 1) + 1)
    return ((whole, least),)


def _split(size: Extent) -> tuple[Extent, int]:
    """What depends on symbols, and the constant that is added to it."""
    if isinstance(size, int):
        return 0, size
    constant = sum(coef for mono, coef in size.terms if not mono)
    return size - constant, constant


def strictest(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Without those that others imply, in their order: a network asks the same of its sizes again and again."""
    found: dict[tuple[Extent, int | None], tuple[int, int]] = {}
    listed = tuple(requirements)
    for i, r in enumerate(listed):
        for p in plain(r):
            key = p.size, p.least if p.is_exact else None
            if key not in found or found[key][0] < p.least:
                found[key] = p.least, i
            elif r.excuses and not listed[found[key][1]].excuses and found[key][0] == p.least:
                found[key] = p.least, i  # there is a plan for who misses it
    kept = {i for _, i in found.values()}
    return tuple(r for i, r in enumerate(listed) if i in kept)


def summary(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """All of them in the plainest words, each once."""
    return strictest(p for r in requirements for p in plain(r))
