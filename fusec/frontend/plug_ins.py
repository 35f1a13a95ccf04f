"""Rows of the importer's table that are not fusec's: users' functions, and entry points `fusec.onnx` named domain and op.

    [project.entry-points."fusec.onnx"]
    "com.example.Softshift" = "my_package.rows"

A package is imported when a model uses one of its ops; importing the module runs its `@row("Softshift", domain="com.example")`
or its `@fusec.elementwise(name="Softshift", domain="com.example")`.
"""

from __future__ import annotations

from fusec.errors import UsageError
from fusec.frontend.call import ROWS, Row
from fusec.frontend.custom import custom_row
from fusec.ops import custom


def find_row(domain: str, op_type: str) -> Row | None:
    """The row of an op, from the table, a declared function, or a plug-in that is loaded now.

    UsageError naming a plug-in that is broken, or a function for an op that has a row.
    """
    if (domain, op_type) in ROWS:
        if (function := custom.declared_as(domain, op_type)) is not None:
            raise UsageError(
                f"{function.source} is declared as {domain}::{op_type}, which fusec or another package computes already",
                hint="choose another name= or domain=",
            )
        return ROWS[domain, op_type]
    function = custom.find(domain, op_type)
    if function is not None:
        return custom_row(function)
    name = f"{domain}.{op_type}"
    if (domain, op_type) not in ROWS and custom.PLUG_INS.find(name) is not None:
        custom.PLUG_INS.load(name)
        if (domain, op_type) not in ROWS:
            raise custom.PLUG_INS.broken_promise(
                name, f"declare it with @row({op_type!r}, domain={domain!r}) or @fusec.elementwise"
            )
    return ROWS.get((domain, op_type))
