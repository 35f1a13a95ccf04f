"""Entry points: what installed packages offer by name, listed without importing them and loaded at first use.

Every group of fusec (`fusec.ops`, `fusec.onnx`, `fusec.passes`, `fusec.backends`) goes through here, so that all of them
treat two packages with one name, and a package that is broken, in the same way: a UsageError that names the package.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

from fusec.errors import UsageError


class PlugIns:
    """The entry points of one group. `noun` is what messages call one of them; `own` names fusec keeps for itself."""

    def __init__(self, group: str, noun: str, own: Collection[str] = ()) -> None:
        self.group = group
        self.noun = noun
        self._own = own
        self._points: dict[str, EntryPoint] | None = None

    def points(self) -> dict[str, EntryPoint]:
        """Name -> entry point. UsageError where a name is offered twice, or is one of fusec's own."""
        if self._points is None:  # listing installed packages takes milliseconds, so it is done once
            self._points = self._listed()
        return self._points

    def find(self, name: str) -> EntryPoint | None:
        """The entry point of a name; nothing is imported."""
        return self.points().get(name)

    def load(self, name: str) -> object:
        """Import what an entry point names and return it. UsageError naming the package where that fails."""
        point = self.points()[name]
        try:
            return point.load()
        except UsageError as e:
            raise UsageError(f"package {package_of(point)!r} cannot be used: {e.message}", hint=e.hint) from e
        except Exception as e:  # whatever a stranger's module raises at import
            raise UsageError(
                f"package {package_of(point)!r} offers {self.noun} {name!r}, but loading {point.value!r} fails: "
                f"{type(e).__name__}: {e}",
                hint="fix or uninstall the package",
            ) from e

    def broken_promise(self, name: str, hint: str) -> UsageError:
        """The error for a module that was imported and did not bring what its entry point names."""
        point = self.points()[name]
        return UsageError(
            f"package {package_of(point)!r} offers {self.noun} {name!r}, but {point.value!r} declares none of that name",
            hint=hint,
        )

    def clash(self, name: str, one: str, other: str) -> UsageError:
        """The error for one name with two meanings."""
        return UsageError(
            f"two packages offer {self.noun} {name!r}: {one!r} and {other!r}",
            hint=f"uninstall one or rename its {self.noun}",
        )

    def _listed(self) -> dict[str, EntryPoint]:
        out: dict[str, EntryPoint] = {}
        for point in sorted(entry_points(group=self.group), key=lambda p: (p.name, package_of(p), p.value)):
            if point.name in self._own:
                raise UsageError(
                    f"package {package_of(point)!r} offers {self.noun} {point.name!r}, which fusec has itself",
                    hint="uninstall the package, or rename it there",
                )
            other = out.get(point.name)
            if other is not None and other.value != point.value:
                raise self.clash(point.name, package_of(other), package_of(point))
            out[point.name] = point
        return out


def package_of(point: EntryPoint) -> str:
    """The name of the package that an entry point belongs to."""
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]
