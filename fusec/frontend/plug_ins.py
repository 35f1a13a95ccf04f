"""Rows of the importer's table that installed packages bring: entry points `fusec.onnx`, named domain and op.

    [project.entry-points."fusec.onnx"]
    "com.example.Softshift" = "my_package.rows"

A package is imported when a model uses one of its ops; importing the module runs its `@row("Softshift", domain="com.example")`.
"""

from __future__ import annotations

from fusec.frontend.call import ROWS, Row
from fusec.plug_ins import PlugIns

PLUG_INS = PlugIns("fusec.onnx", "ONNX op")


def find_row(domain: str, op_type: str) -> Row | None:
    """The row of an op, from the table or from a plug-in that is loaded now. UsageError naming a plug-in that is broken."""
    name = f"{domain}.{op_type}"
    if (domain, op_type) not in ROWS and PLUG_INS.find(name) is not None:
        PLUG_INS.load(name)
        if (domain, op_type) not in ROWS:
            raise PLUG_INS.broken_promise(name, f"declare it with @row({op_type!r}, domain={domain!r})")
    return ROWS.get((domain, op_type))
