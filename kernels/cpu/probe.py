"""Probes: machine code that does one thing as fast as a core can. They measure the roofs that kernels are compared with.

They have the shape of kernels: `count` is how often to repeat. Slots hold what each probe's text says.
"""

from __future__ import annotations

from fusec.kernels.kernel import Source
from fusec.target import Isa

GROUP = 8
"""Vectors that one step of a bandwidth probe moves."""

_HEAD = """define void @{name}(ptr %slots, i64 %first, i64 %count, ptr %scratch) {{
entry:
"""
_LOOP = """  br label %again
again:
  %r = phi i64 [0, %entry], [%r1, %next]
  br label %body
body:
  %i = phi i64 [0, %again], [%i1, %body]
{work}  %i1 = add i64 %i, {step}
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %next
next:
  %r1 = add i64 %r, 1
  %once = icmp slt i64 %r1, %count
  br i1 %once, label %again, label %end
"""


def empty() -> Source:
    """A kernel that does nothing: what is left is the driver."""
    return Source(_HEAD.format(name="probe_empty") + "  ret void\n}\n", "probe_empty", (), 0)


def fma_chains(isa: Isa) -> int:
    """Independent accumulators: enough to hide the latency of two units, with two registers left for the operands."""
    return 24 if isa.registers > 16 else 12


def multiply_add(isa: Isa) -> Source:
    """`count` times x = x * a + b on each accumulator. Scratch: a, b, the accumulators; these are written back."""
    v, n = f"<{isa.lanes} x float>", fma_chains(isa)
    declare = f"declare {v} @llvm.fmuladd.v{isa.lanes}f32({v}, {v}, {v})\n"
    call, every = f"call {v} @llvm.fmuladd.v{isa.lanes}f32", range(2, n + 2)
    loads = (
        f"  %p{k} = getelementptr {v}, ptr %scratch, i64 {k}\n  %x{k} = load {v}, ptr %p{k}\n" for k in range(n + 2)
    )
    text = declare + _HEAD.format(name="probe_fma") + "".join(loads) + "  br label %loop\nloop:\n"
    text += "  %i = phi i64 [0, %entry], [%i1, %loop]\n"
    text += "".join(f"  %v{k} = phi {v} [%x{k}, %entry], [%w{k}, %loop]\n" for k in every)
    text += "".join(f"  %w{k} = {call}({v} %v{k}, {v} %x0, {v} %x1)\n" for k in every)
    text += "  %i1 = add i64 %i, 1\n  %more = icmp slt i64 %i1, %count\n  br i1 %more, label %loop, label %end\nend:\n"
    text += "".join(f"  store {v} %w{k}, ptr %p{k}\n" for k in every)
    return Source(text + "  ret void\n}\n", "probe_fma", (), 0)


def read(isa: Isa) -> Source:
    """`count` times the sum of an array. Slots: its address, its number of vectors (a multiple of GROUP)."""
    v = f"<{isa.lanes} x float>"
    head = _HEAD.format(name="probe_read") + "  %x = load ptr, ptr %slots\n" + _COUNT
    work = ""
    for k in range(GROUP):
        work += f"  %s{k} = phi {v} [zeroinitializer, %again], [%t{k}, %body]\n"
    for k in range(GROUP):
        work += f"  %j{k} = add i64 %i, {k}\n  %p{k} = getelementptr {v}, ptr %x, i64 %j{k}\n"
        work += f"  %v{k} = load {v}, ptr %p{k}\n  %t{k} = fadd {v} %s{k}, %v{k}\n"
    text = head + _LOOP.format(work=work, step=GROUP)
    # what was summed must be used, or the loop would be no loop
    use = "".join(
        f"  %q{k} = getelementptr {v}, ptr %scratch, i64 {k}\n  store {v} %t{k}, ptr %q{k}\n" for k in range(GROUP)
    )
    text = text.replace("next:\n", "next:\n" + use)
    return Source(text + "end:\n  ret void\n}\n", "probe_read", (), 0)


def copy(isa: Isa) -> Source:
    """`count` times a copy. Slots: address to read, number of vectors, address to write."""
    v = f"<{isa.lanes} x float>"
    to = "  %yp = getelementptr i64, ptr %slots, i64 2\n  %y = load ptr, ptr %yp\n"
    head = _HEAD.format(name="probe_copy") + "  %x = load ptr, ptr %slots\n" + _COUNT + to
    work = ""
    for k in range(GROUP):
        work += f"  %j{k} = add i64 %i, {k}\n  %p{k} = getelementptr {v}, ptr %x, i64 %j{k}\n"
        work += f"  %v{k} = load {v}, ptr %p{k}\n"
    for k in range(GROUP):
        work += f"  %q{k} = getelementptr {v}, ptr %y, i64 %j{k}\n  store {v} %v{k}, ptr %q{k}\n"
    return Source(head + _LOOP.format(work=work, step=GROUP) + "end:\n  ret void\n}\n", "probe_copy", (), 0)


_COUNT = "  %np = getelementptr i64, ptr %slots, i64 1\n  %n = load i64, ptr %np\n"
