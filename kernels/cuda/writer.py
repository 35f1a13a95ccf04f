"""Writer: C++ statements in nested blocks. What does not change inside a loop is written in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Key = tuple[object, ...]


@dataclass(slots=True)
class Scope:
    """An open block. `before` are statements in front of it that only it needs; `made` and `made_before` name their results.

    Nothing moves out of a `pinned` block. What one needs that is not `wrapped` stands beside it, for others to see. `late`
    are the blocks within it that come after all of its other lines.
    """

    pinned: bool = False
    wrapped: bool = True
    lines: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    made: dict[Key, str] = field(default_factory=dict)
    made_before: dict[Key, str] = field(default_factory=dict)


class Writer:
    """The text of one function, block by block. Depth 0 is the function itself."""

    def __init__(self) -> None:
        self._scopes = [Scope(pinned=True)]
        self._names = 0

    @property
    def depth(self) -> int:
        """The number of open blocks."""
        return len(self._scopes) - 1

    def name(self, stem: str = "v") -> str:
        """A name that nothing else has."""
        self._names += 1
        return f"{stem}{self._names}"

    def line(self, text: str) -> None:
        """Add a statement to the innermost block."""
        self._scopes[-1].lines.append(text)

    @contextmanager
    def block(
        self, header: str, *, guard: str = "", pinned: bool = False, wrapped: bool = True, late: bool = False
    ) -> Iterator[None]:
        """A block behind `header`: a loop, a condition (`pinned`), or nothing.

        `guard` says when a loop runs at all: what is written in front of it is evaluated only then. A `late` block comes after
        what else is written into the block around it, so that this has the loads of several such blocks in front of them.
        """
        self._scopes.append(Scope(pinned, wrapped and not late))
        yield
        inner = self._scopes.pop()
        text = [f"{header} {{".lstrip(), *_indented([*inner.lines, *inner.late]), "}"]
        if inner.before:
            text = [f"if ({guard}) {{" if guard else "{", *_indented([*inner.before, *text]), "}"]
        (self._scopes[-1].late if late else self._scopes[-1].lines).extend(text)

    @contextmanager
    def function(self, header: str) -> Iterator[None]:
        """The body of a lambda; what it needs and does not change is computed where it is written."""
        self._scopes.append(Scope(wrapped=False))
        yield
        inner = self._scopes.pop()
        self._scopes[-1].lines.extend([f"{header} {{", *_indented(inner.lines), "};"])

    def home(self, level: int) -> int:
        """The depth where something that depends on the block of `level` is computed: nothing leaves a pinned block."""
        pinned = max(i for i, s in enumerate(self._scopes) if s.pinned)
        return min(max(level, pinned), self.depth)

    def find(self, level: int, key: Key) -> str | None:
        """The name that was made for a key where `make` would make it."""
        found = self._scopes[level].made.get(key)
        if found is None and level < self.depth:
            found = self._scopes[level + 1].made_before.get(key)
        return found

    def make(self, level: int, key: Key, name: str, text: str) -> None:
        """Write the statement that gives `name` its value into the block of `level`, ahead of the one that is open in it."""
        if level >= self.depth:
            lines, made = self._scopes[-1].lines, self._scopes[-1].made
        elif self._scopes[level + 1].wrapped:
            lines, made = self._scopes[level + 1].before, self._scopes[level + 1].made_before
        else:
            lines, made = self._scopes[level].lines, self._scopes[level].made
        lines.append(text)
        made[key] = name

    def forget(self) -> None:
        """Compute anew what was computed in the innermost block."""
        self._scopes[-1].made.clear()

    def text(self) -> list[str]:
        """The lines of the whole function."""
        return list(self._scopes[0].lines)


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]
