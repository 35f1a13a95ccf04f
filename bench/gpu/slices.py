"""What slices of long folds are estimated to bring, on any machine: a model's kernels one after the other, whole and sliced.

    python -m bench.gpu.slices [--levels sm_80,sm_90] [--precision tf32] [NAME ...]

These are estimates of fusec/tiling/device/cost.py, no measurements. `with work` is the share of multiprocessors that have a
tile, on average over the time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.gpu.models import Decoder, decoder, gemm
from bench.models.standard import STANDARD
from fusec import api
from fusec.frontend.read import read_model
from fusec.ir.graph import Graph
from fusec.kernels.cuda.levels import LEVELS
from fusec.kernels.kernel import Call
from fusec.knobs import Limits
from fusec.lower.lower import Lowered, lower
from fusec.passes.default import fuse_default, optimise
from fusec.rewrite.graph_pass import PassContext
from fusec.target import Target
from fusec.tiling.choose import choose, menu
from fusec.tiling.device.cost import alone_microseconds
from fusec.tiling.device.split import HAND_OVER, split_calls

BILLION = Decoder(layers=1, width=2048, heads=16, past=512, vocabulary=50304)
"""A layer of a billion parameters' and the product behind the last one."""
SYMBOLS = {"past": 128}
"""Values of the sizes that models leave open."""
MODELS: dict[str, Callable[[], Any]] = {
    **{n: lambda n=n: STANDARD[n]().model() for n in ("gpt2_decode", "resnet50", "bert_base")},  # type: ignore[misc]
    "billion f32": lambda: decoder(BILLION, "f32").model,
    "billion bf16": lambda: decoder(BILLION, "bf16").model,
    "256 x 256 x 8192": lambda: gemm(256, 256, 8192, "f32").model,
    "1 x 64 x 16384": lambda: gemm(1, 64, 16384, "f32").model,
    "1 x 512 x 2048": lambda: gemm(1, 512, 2048, "f32").model,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Microseconds of all kernels and of waits for slices, the share of multiprocessors with work, and how many kernels."""

    microseconds: float
    share: float
    kernels: int

    def __str__(self) -> str:
        return f"{self.microseconds:.1f} us, {self.share:.2f} with work, {self.kernels} kernels"


def compared(model: Any, level: str, precision: str, dims: Mapping[str, int]) -> tuple[Estimate, Estimate]:
    """A model whole and with slices."""
    target = Target("cuda", level)
    context = PassContext(target=target, limits=Limits(), trace=api.new_trace())
    graph = model if isinstance(model, Graph) else read_model(model, dims=dims)
    whole = lower(fuse_default(optimise(graph, context), context))
    return estimate(whole, target, precision), estimate(split_calls(whole, target, precision), target, precision)


def estimate(lowered: Lowered, target: Target, precision: str) -> Estimate:
    """The kernels one after the other, each with the device to itself."""
    blocks = LEVELS[target.level].multiprocessors
    total = busy = 0.0
    for call in lowered.calls:
        params = dict(call.params)
        kernel = choose(menu(call.program, target, _alike(lowered, call), precision), params).bind(params)
        time = alone_microseconds(kernel, target, blocks)
        waves = -(-kernel.tiles // blocks)
        total += time + (HAND_OVER if "_slices" in call.program.name else 0.0)
        busy += time * kernel.tiles / max(1, waves * blocks)
    return Estimate(total, busy / total, len(lowered.calls))


def _alike(lowered: Lowered, call: Call) -> list[dict[str, Any]]:
    return [dict(c.params) for c in lowered.calls if c.program is call.program]


def main() -> int:
    """Print a line for each model and level, whole and sliced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="sm_80,sm_90")
    parser.add_argument("--precision", default="f32", choices=("f32", "tf32"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default {', '.join(MODELS)}")
    options = parser.parse_args()
    for name in options.names or MODELS:
        made = MODELS[name]()
        for level in options.levels.split(","):
            dims = SYMBOLS if name == "gpt2_decode" else {}
            whole, sliced = compared(made, level, options.precision, dims)
            print(f"{name} {level} {options.precision}: whole {whole}; sliced {sliced}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
