"""Where passes are found by name: those of this package, and those that installed packages offer as entry points.

A plug-in names its passes in its pyproject.toml; they are listed without importing it and loaded at their first use:

    [project.entry-points."fusec.passes"]
    my-pass = "my_package.my_pass"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from fusec.errors import UsageError, nearest

GROUP = "fusec.passes"


class Named(Protocol):
    """All that the registry knows of a pass."""

    @property
    def name(self) -> str:
        """In kebab-case."""

    @property
    def doc(self) -> str:
        """One line of help."""


P = TypeVar("P", bound=Named)

_PASSES: dict[str, tuple[Named, str]] = {}


def register(found: P, module: str) -> P:
    """Add a pass made in `module`. UsageError where another module took its name; a reload of the same one replaces it."""
    if found.name in _PASSES and _PASSES[found.name][1] != module:
        raise _clash(found.name, _PASSES[found.name][1], module)
    _PASSES[found.name] = found, module
    return found


def get(name: str) -> Named:
    """The pass of that name, loaded at first use. UsageError where there is none or its plug-in is broken."""
    point = _offered().get(name)
    if name in _PASSES:
        if point is not None and not _made_by(_PASSES[name][1], point):
            raise _clash(name, _PASSES[name][1], _package(point))
        return _PASSES[name][0]
    if point is None:
        raise UsageError(f"unknown pass {name!r}", hint=nearest(name, known()))
    _load(point)
    if name not in _PASSES:
        raise UsageError(
            f"package {_package(point)!r} offers pass {name!r}, but {point.value!r} declares none of that name",
            hint=f"declare it with @graph_pass({name!r}) or @fusion_pass({name!r}) in that module",
        )
    return _PASSES[name][0]


def known() -> tuple[str, ...]:
    """Names of all passes, sorted: those declared so far and those on offer. Imports no plug-in."""
    return tuple(sorted(_PASSES.keys() | _offered().keys()))


def provider(name: str) -> str:
    """The package that a pass comes from, without loading it. UsageError where there is none of that name."""
    if name in _PASSES:
        return _PASSES[name][1].partition(".")[0]
    if (point := _offered().get(name)) is not None:
        return _package(point)
    raise UsageError(f"unknown pass {name!r}", hint=nearest(name, known()))


@cache
def _offered() -> dict[str, EntryPoint]:
    out: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, _package(p))):
        other = out.get(point.name)
        if other is not None and _package(other) != _package(point):
            raise _clash(point.name, _package(other), _package(point))
        out[point.name] = point
    return out


def _load(point: EntryPoint) -> None:
    try:
        point.load()
    except UsageError as e:
        raise UsageError(f"package {_package(point)!r} cannot be used: {e.message}", hint=e.hint) from e
    except Exception as e:  # whatever a stranger's module raises at import
        raise UsageError(
            f"package {_package(point)!r} offers pass {point.name!r}, but loading {point.value!r} fails: "
            f"{type(e).__name__}: {e}",
            hint="fix or uninstall the package",
        ) from e


def _made_by(module: str, point: EntryPoint) -> bool:
    return module.partition(".")[0] == point.module.partition(".")[0]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]


def _clash(name: str, one: str, other: str) -> UsageError:
    return UsageError(
        f"two packages offer pass {name!r}: {one!r} and {other!r}", hint="uninstall one or rename its pass"
    )
