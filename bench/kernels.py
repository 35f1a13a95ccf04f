"""What the benchmarks of single kernels share: their options, and ratios over rounds."""

from __future__ import annotations

import argparse
from typing import Any

from fusec.target import Target


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of all of them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="", help="avx2 for example; by default this machine's")
    parser.add_argument("--save", default=None, metavar="FILE.json")
    return parser


def case_arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of those with a list of cases."""
    parser = arguments(description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with it in their name")
    return parser


def target_of(options: argparse.Namespace) -> Target:
    """The target that the options ask for."""
    return Target.parse(f"cpu:{options.level}" if options.level else "cpu")


def quantiles(other: Any, own: Any) -> list[float]:
    """Of the ratio in each round the 10th, 50th and 90th percentile, then the ratio of the fastest rounds."""
    import numpy as np

    return [*(float(q) for q in np.quantile(other / own, [0.1, 0.5, 0.9])), float(other.min() / own.min())]


def spread(ratio: list[float] | None) -> str:
    """Such a ratio as text."""
    return "-" if ratio is None else f"{ratio[1]:.2f} ({ratio[0]:.2f}-{ratio[2]:.2f}) {ratio[3]:.2f}"
