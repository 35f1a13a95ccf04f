"""What NVRTC makes of whole models, on any machine: how long it takes, and what registers, stack and spills the code has.

    python -m bench.gpu.modules [--levels sm_80,sm_90] [--types f32,bf16,f16] [NAME ...]

A region's module is compiled cold, in processes of its own, whose CPU seconds are counted: they say more than the clock where
other work is going on. `saved` are bytes of registers that a body saves for the task loop at each call. Exit code 1 where code
spills or has other problems that kernels/cuda/lint.py looks for.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.models.narrow import NAMES as NARROW
from bench.models.narrow import narrowed
from bench.models.standard import STANDARD, bert_base
from bench.models.vision import resnet50
from fusec import api
from fusec.kernels.cuda import lint, nvrtc
from fusec.kernels.cuda.abi import ENTRY
from fusec.kernels.cuda.emit import emit
from fusec.kernels.cuda.kernel_class import class_key
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Kernel
from fusec.plan.plan import Plan, RegionStep
from fusec.schedule.region import bind_calls

MODELS = ("bert_base", "resnet50", "gpt2_decode", "minilm", "detector", "unet")
LARGE = {"bert_base_b8": bert_base(8), "resnet50_b16": lambda: resnet50(batch=16)}
"""Enough rows for wgmma, by name."""
SYMBOLS = {"past": 128}
"""Values of the sizes that models leave open."""


@dataclass(frozen=True, slots=True)
class Built:
    """A region's module: its bodies, CPU seconds of the compiler, bytes of code, resources, and what is wrong with it."""

    bodies: int
    seconds: float
    size: int
    registers: int
    saved: int
    problems: tuple[str, ...]


def modules(model: Any, level: str, symbols: Mapping[str, int] | None = None) -> list[Built]:
    """The modules of a model's regions, compiled for a level with `symbols` for the sizes that it leaves open."""
    plan = api.compile_plan(model, api.Options(f"cuda:{level}"), api.new_trace())
    return [built(kernels, plan, level) for kernels in chosen(plan, symbols or {})]


def chosen(plan: Plan, symbols: Mapping[str, int]) -> list[list[Kernel]]:
    """The kernels of each region for some sizes, one of a class."""
    out = []
    for step in plan.steps:
        if isinstance(step, RegionStep):
            calls = bind_calls(step, plan.kernels, symbols, plan.values, plan.root).calls
            out.append(list({class_key(c.kernel.kernel, plan.target): c.kernel.kernel for c in calls}.values()))
    return out


def built(kernels: list[Kernel], plan: Plan, level: str) -> Built:
    """One module. CompileError where NVRTC is missing or refuses it."""
    text = module_text([emit(k, plan.target) for k in kernels])
    before = _seconds()
    cubin = nvrtc.build(text, level)
    seconds = _seconds() - before
    registers = lint.usage(cubin.log)[ENTRY].registers
    saved = max(lint.saved(cubin.log).values(), default=0)
    return Built(len(kernels), seconds, len(cubin.code), registers, saved, lint.problems(cubin))


def _seconds() -> float:
    """CPU seconds of all processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Print a line for each region, and below it what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="sm_80,sm_90")
    parser.add_argument("--types", default="f32", help="f32, bf16 and f16, separated by commas")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"by default {', '.join(MODELS)}; also {', '.join(LARGE)}"
    )
    options = parser.parse_args()
    worst = 0
    for name in options.names or MODELS:
        wide = (LARGE | STANDARD)[name]().model()
        for dtype, level in product(options.types.split(","), options.levels.split(",")):
            for b in modules(narrowed(wide, dtype) if dtype in NARROW else wide, level, SYMBOLS):
                print(
                    f"{name} {dtype} {level}: {b.bodies} bodies, {b.seconds:.1f} CPU s, {b.size >> 10} KiB, "
                    f"{b.registers} registers, {b.saved} bytes saved, {len(b.problems)} problems",
                    *b.problems, sep="\n    ", flush=True,
                )  # fmt: skip
                worst |= bool(b.problems)
    return worst


if __name__ == "__main__":
    sys.exit(main())
