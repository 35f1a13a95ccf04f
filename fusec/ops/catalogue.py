"""The catalogue: imports every family of ops, and finds the ops of installed packages (entry points `fusec.ops`).

An entry point names an op and says where it is declared: `softsign = "fusec_extra.ops"`, a module that registers its ops
when it is imported, or `"fusec_extra.ops:softsign"`, an Op. Names are listed without importing anything; a package is
imported when one of its names is asked for. A name that two packages, or a package and fusec itself, declare is an error.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from fusec.errors import UsageError
from fusec.ops import activations, contract, elementwise, gather, normalize, opaque, reduce, view
from fusec.ops.op import Op, declared, register

FAMILIES = (elementwise, activations, view, reduce, normalize, contract, gather, opaque)
GROUP = "fusec.ops"
_BUILT_IN = frozenset(declared())


def plug_ins() -> dict[str, EntryPoint]:
    """Op name -> entry point, for every op that an installed package brings; nothing is imported."""
    if _PLUG_INS is None:
        _list_plug_ins()
    return dict(_PLUG_INS or {})


def load_plug_in(name: str) -> None:
    """Import the package that declares an op, so that the op is registered. UsageError naming the package if it fails."""
    entry = plug_ins()[name]
    before = set(declared())
    try:
        found = entry.load()
        if isinstance(found, Op) and found.name not in declared():
            register(found)
    except Exception as e:  # whatever a foreign package raises, the user must learn whose it is
        raise UsageError(
            f"op {name!r} of package {_package(entry)} cannot be loaded: {type(e).__name__}: {e}",
            hint="repair or uninstall the package",
            op=name,
        ) from e
    if name not in declared():
        news = ", ".join(sorted(set(declared()) - before)) or "none"
        raise UsageError(f"package {_package(entry)} promises an op {name!r} and declares {news}", op=name)


_PLUG_INS: dict[str, EntryPoint] | None = None


def _list_plug_ins() -> None:
    global _PLUG_INS  # noqa: PLW0603  # listing installed packages takes milliseconds, so it is done once
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        if entry.name in _BUILT_IN:
            raise UsageError(f"package {_package(entry)} declares op {entry.name!r}, which fusec has itself")
        if entry.name in found and found[entry.name].value != entry.value:
            both = f"{_package(found[entry.name])} and {_package(entry)}"
            raise UsageError(f"op {entry.name!r} is declared by two packages: {both}", hint="uninstall one")
        found[entry.name] = entry
    _PLUG_INS = found


def _package(entry: EntryPoint) -> str:
    return repr(entry.dist.name) if entry.dist is not None else f"of {entry.value!r}"
