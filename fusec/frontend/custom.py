"""Users' functions in a model: a native node where the function can be traced, else a host step with the right type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusec.frontend.builder import NotNative
from fusec.host.compiled import compile_function
from fusec.ir.types import Type
from fusec.ops import custom
from fusec.ops.custom import Elementwise

if TYPE_CHECKING:
    from fusec.frontend.call import Call, Row
    from fusec.frontend.opaque_types import TypeRule
    from fusec.ir.graph import Value


def custom_row(function: Elementwise) -> Row:
    """The row of the importer's table for a declared function."""

    def row(call: Call) -> Value:
        attrs = function.attributes(call.attrs)
        if len(call.inputs) != function.inputs or not all(call.has(i) for i in range(function.inputs)):
            raise call.error(f"{function.source} takes {function.inputs} inputs, all of them needed")
        types = [call.type(i) for i in range(function.inputs)]
        if not all(t.dtype.is_float for t in types):
            raise call.error(f"{function.source} is a function of floats")
        why = function.refusal(attrs)
        if why is not None:
            raise NotNative(f"{function.source} cannot be traced: {why}")
        return call.elementwise(function.op_name, *(call.x(i) for i in range(function.inputs)), **attrs)

    return row


def custom_type_rule(domain: str, op_type: str) -> TypeRule | None:
    """The type rule of the host step that runs a declared function, which is compiled now: errors come before a plan does."""
    function = custom.find(domain, op_type) if domain else None
    if function is None:
        return None

    def rule(call: Call) -> Sequence[Type]:
        if function.refusal(function.attributes(call.attrs)) is not None:
            compile_function(function)
        return function.op.infer([call.type(i) for i in range(len(call.inputs))], {})

    return rule


def source_of(domain: str, op_type: str) -> dict[str, str]:
    """What a plan says of a host step that needs a declared function: the attribute `function`, where it is declared."""
    function = custom.find(domain, op_type) if domain else None
    return {} if function is None else {"function": function.source}
