"""Rows of the importer's table that installed packages bring: entry points `fusec.onnx`, named domain and op.

    [project.entry-points."fusec.onnx"]
    "com.example.Softshift" = "my_package.rows"

A package is imported when a model uses one of its ops; importing the module runs its `@row("Softshift", domain="com.example")`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from fusec.errors import UsageError
from fusec.frontend.call import ROWS, Row

GROUP = "fusec.onnx"


def find_row(domain: str, op_type: str) -> Row | None:
    """The row of an op, from the table or from a plug-in that is loaded now. UsageError naming a plug-in that is broken."""
    if (domain, op_type) not in ROWS:
        point = _offered().get(f"{domain}.{op_type}")
        if point is not None:
            _load(point, domain, op_type)
    return ROWS.get((domain, op_type))


@cache
def _offered() -> dict[str, EntryPoint]:
    out: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        if point.name in out and out[point.name].value != point.value:
            raise UsageError(
                f"two packages map the ONNX op {point.name!r}: {_package(out[point.name])!r} and {_package(point)!r}",
                hint="uninstall one",
            )
        out[point.name] = point
    return out


def _load(point: EntryPoint, domain: str, op_type: str) -> None:
    try:
        point.load()
    except Exception as e:  # whatever a stranger's module raises at import
        raise UsageError(
            f"package {_package(point)!r} maps the ONNX op {point.name!r}, but loading {point.value!r} fails: "
            f"{type(e).__name__}: {e}",
            hint="fix or uninstall the package",
            op=op_type,
        ) from e
    if (domain, op_type) not in ROWS:
        raise UsageError(
            f"package {_package(point)!r} promises a row for {point.name!r}, and {point.value!r} declares none",
            hint=f"declare it with @row({op_type!r}, domain={domain!r})",
            op=op_type,
        )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]
