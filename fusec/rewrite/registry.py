"""Where passes are found by name: those of this package, and those that installed packages offer as entry points.

A plug-in names its passes in its pyproject.toml; they are listed without importing it and loaded at their first use:

    [project.entry-points."fusec.passes"]
    my-pass = "my_package.my_pass"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Protocol, TypeVar

from fusec.errors import UsageError, nearest
from fusec.plug_ins import PlugIns, package_of

PLUG_INS = PlugIns("fusec.passes", "pass")


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
        raise PLUG_INS.clash(found.name, _PASSES[found.name][1], module)
    _PASSES[found.name] = found, module
    return found


def get(name: str) -> Named:
    """The pass of that name, loaded at first use. UsageError where there is none or its plug-in is broken."""
    point = PLUG_INS.find(name)
    if name in _PASSES:
        if point is not None and not _made_by(_PASSES[name][1], point):
            raise PLUG_INS.clash(name, _PASSES[name][1], package_of(point))
        return _PASSES[name][0]
    if point is None:
        raise UsageError(f"unknown pass {name!r}", hint=nearest(name, known()))
    PLUG_INS.load(name)
    if name not in _PASSES:
        raise PLUG_INS.broken_promise(
            name, f"declare it with @graph_pass({name!r}) or @fusion_pass({name!r}) in that module"
        )
    return _PASSES[name][0]


def known() -> tuple[str, ...]:
    """Names of all passes, sorted: those declared so far and those on offer. Imports no plug-in."""
    return tuple(sorted(_PASSES.keys() | PLUG_INS.points().keys()))


def provider(name: str) -> str:
    """The package that a pass comes from, without loading it. UsageError where there is none of that name."""
    if name in _PASSES:
        return _PASSES[name][1].partition(".")[0]
    if (point := PLUG_INS.find(name)) is not None:
        return package_of(point)
    raise UsageError(f"unknown pass {name!r}", hint=nearest(name, known()))


def _made_by(module: str, point: EntryPoint) -> bool:
    return module.partition(".")[0] == point.module.partition(".")[0]
