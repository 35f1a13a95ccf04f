"""Float remainders (placeholder until they are spelled out)."""
from fusec.kernels.cpu.builder import Builder, Value
def float_remainder(b: Builder, x: Value, y: Value, python: bool) -> Value:
    return b.op("frem", x, y)
