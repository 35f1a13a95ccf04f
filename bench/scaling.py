"""What do two workers gain over one? Both sessions in one process, interleaved.

    python -m bench.scaling [--workers 2] [--seconds 12] [--fresh] [NAME ...]

Two idle cores are needed for an answer that means something: a probe of pure arithmetic runs on one and on all workers in
the same rounds, and what it gains is printed beside, as the most that could be had at that time.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bench.cases import CASES, arguments, to_measure
from bench.store import FOLDER, Table

FILE = FOLDER / "scaling.json"
DEFAULT = ("resnet50", "bert_base", "mobilenet_v2", "vit_b16", "unet", "gpt2_prompt", "gpt2_decode", "mlp_wide_b128")


def scale(name: str, workers: int, seconds: float) -> dict[str, Any]:
    """The ratio of one worker's time to that of several, and the same ratio of a probe that only computes."""
    import fusec
    from fusec.measure.rounds import measure

    model, feeds = CASES[name].make()
    one, many = (fusec.compile(model, threads=n) for n in (1, workers))
    names = [v.name for v in one.outputs]
    first, second = one.run_list(feeds, names), many.run_list(feeds, names)
    same = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    start = time.perf_counter()
    one.run_list(feeds, names)
    once = max(2 * (time.perf_counter() - start), 0.02)
    samples = measure(
        {
            "one": lambda: one.run_list(feeds, names),
            "many": lambda: many.run_list(feeds, names),
            "probe": _Probe(1),
            "probes": _Probe(workers),
        },
        rounds=max(9, min(60, int(seconds / once))),
    )
    gain = samples.ratio("probe", "probes")
    return {
        "workers": workers,
        "same_bits": same,
        "rounds": samples.seconds.shape[1],
        "seconds": samples.percentile("one", 50),
        "gain": vars(samples.ratio("one", "many")),
        "possible": {k: v * workers for k, v in vars(gain).items()},
    }


class _Probe:
    """Multiply-adds in registers, so many times on each of some threads at once."""

    def __init__(self, threads: int) -> None:
        from fusec.kernels.cpu import probe
        from fusec.kernels.cpu.build import build
        from fusec.kernels.cpu.load import load
        from fusec.runtime.memory import Block
        from fusec.target import host

        self._code = load(build(probe.multiply_add(host().isa), host()))
        self._scratch = [Block(64 * 32) for _ in range(threads)]

    def __call__(self) -> None:
        """Run."""
        from fusec.kernels.cpu.load import call

        def work(i: int) -> None:
            call(self._code, 0, 0, 4_000_000, self._scratch[i].address)

        helpers = [threading.Thread(target=work, args=(i,)) for i in range(1, len(self._scratch))]
        for t in helpers:
            t.start()
        work(0)
        for t in helpers:
            t.join()


def main() -> None:
    """Measure what is missing and print a line for each model."""
    parser = arguments(__doc__, FILE, f"by default {', '.join(DEFAULT)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    table = Table(options.save, "Two workers against one", "python -m bench.scaling", options.fresh)
    for name in to_measure(options.names, DEFAULT, table.cases):
        told = scale(name, options.workers, options.seconds)
        table.add(name, told)
        gain, most = told["gain"]["median"], told["possible"]["median"]
        print(f"{name}: {gain:.2f}x with {options.workers} workers; arithmetic alone gained {most:.2f}x", flush=True)


if __name__ == "__main__":
    main()
