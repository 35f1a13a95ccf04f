"""How ONNX spells it."""

from fusec.frontend.call import Call, row
from fusec.ir.graph import Value


@row("Softshift", domain="com.example")
def softshift(call: Call) -> Value:
    return call.emit("softshift", call.x(), shift=float(call.attr("shift", 0.0)))
