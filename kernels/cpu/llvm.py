"""LLVM as a library: target machines per instruction level, and the road from IR text to a checked object file.

This module imports llvmlite and nothing heavy, because build workers start with it. Everything that LLVM refuses
comes out as a CompileError; what would abort the process (an intrinsic that the level lacks) cannot be caught here,
which is one reason why large builds go to other processes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import llvmlite.binding as llvm

from fusec.errors import CompileError
from fusec.target import ISAS, Isa

T = TypeVar("T")

LIBRARY_SYMBOLS = ("memcpy", "memmove", "memset")
"""What objects may call: LLVM turns loops into these three. Anything else would be libm or a forgotten intrinsic."""


if hasattr(os, "register_at_fork"):
    # A child forked while another thread is inside LLVM would wait for llvmlite's lock for ever. This must be in place
    # before the first compilation, hence at import.
    _llvmlite_lock = llvm.ffi.lib._lock._lock
    os.register_at_fork(
        before=_llvmlite_lock.acquire, after_in_parent=_llvmlite_lock.release, after_in_child=_llvmlite_lock.release
    )


@cache
def initialise() -> None:
    """Set LLVM up, once per process. Without the assembly parser, inline assembly would abort the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def new_target_machine(isa: Isa) -> llvm.TargetMachine:
    """A machine for an instruction level: position-independent, small code model, full optimisation."""
    initialise()
    try:
        target = llvm.Target.from_default_triple()
    except RuntimeError as e:
        raise CompileError(f"LLVM has no code generator for this machine: {e}") from e
    machine: llvm.TargetMachine = target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=3, reloc="pic", codemodel="small"
    )
    return machine


@cache
def target_machine(level: str) -> llvm.TargetMachine:
    """The process' shared machine for an instruction level. It only emits; no execution engine may own it."""
    return new_target_machine(ISAS[level])


def fingerprint() -> str:
    """The compiler's identity, for cache keys: equal text and equal fingerprint give equal objects."""
    from llvmlite import __version__

    return f"llvm {'.'.join(map(str, llvm.llvm_version_info))} llvmlite {__version__}"


def compile_text(text: str, level: str) -> bytes:
    """Parse, verify and optimise IR text and emit an object. CompileError where LLVM refuses it or it calls a library."""
    code = bytes(_emit(text, level, target_machine(level).emit_object))
    foreign = [s for s in undefined_symbols(code) if s not in LIBRARY_SYMBOLS]
    if foreign:
        raise CompileError(f"the code calls functions outside itself: {', '.join(foreign)}")
    return code


def assembly(text: str, level: str) -> str:
    """The machine code of IR text as assembly, to be read. CompileError where LLVM refuses it."""
    return str(_emit(text, level, target_machine(level).emit_assembly))


def _emit(text: str, level: str, emit: Callable[[llvm.ModuleRef], T]) -> T:
    machine = target_machine(level)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        with module:
            module.verify()
            module.triple = machine.triple
            _simplify(module, machine)
            return emit(module)
    except (RuntimeError, ValueError) as e:
        raise CompileError(f"LLVM refuses the code: {str(e).strip()}") from e


def _simplify(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """The two passes that emitted code still gains from.

    The emitter vectorises, unrolls, shares and hoists by itself. Measured on AVX2, the whole -O3 pipeline makes GEMM,
    softmax, layer norm and GELU no faster than noise (a few percent) and takes 12 to 30 times as long as these two, more
    than code generation. Only kernels that call one of our functions (pow: a third) lose, because nothing is inlined.
    """
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes = llvm.create_new_function_pass_manager()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)


def undefined_symbols(code: bytes) -> list[str]:
    """The symbols that a 64-bit little-endian ELF object expects from elsewhere, sorted; none for other formats."""
    if code[:6] != b"\x7fELF\x02\x01":
        return []
    (table,) = struct.unpack_from("<Q", code, 0x28)
    size, count = struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, table + i * size) for i in range(count)]
    found = set[str]()
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[link][4]
        for at in range(offset + entry, offset + length, entry):
            name, _, _, section = struct.unpack_from("<IBBH", code, at)
            if section == 0:  # SHN_UNDEF
                found.add(code[names + name : code.index(b"\0", names + name)].decode())
    return sorted(found - {"", "_GLOBAL_OFFSET_TABLE_"})
