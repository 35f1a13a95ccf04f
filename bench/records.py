"""Tables of the single-kernel benchmarks: their result files hold a record per row, whose numbers and ratios are told here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusec.measure.rounds import geometric_mean

TITLES = {
    "gemm": "Matrix products",
    "gemm_tasks": "Tasks of large matrix products",
    "conv": "Convolutions",
    "conv_models": "Convolutions as models of their own",
    "chains": "Chains of matrix products",
    "attention": "Attention",
    "gemm_int8": "Products of bytes",
    "loops": "Loops",
    "nests": "Loop nests",
    "nodes": "Single nodes",
    "speed": "What fusion buys",
    "vector_math": "Vector functions",
}
NOTES = {
    "gemm": (
        "`peak` is the time that the measured multiply-add peak would take over the time taken; for one row, the time that "
        "reading the weights would take. What the rivals reach of it in the same rounds stands behind. Operands of "
        "`x @ w.T` both come with the run."
    ),
    "gemm_tasks": (
        "Shares of the multiply-add peak: every task of about 0.1 ms timed by itself, a low quantile of each summed, so that "
        "5 % is what the kernel does where nobody disturbs it; and whole products. The register tile alone reaches 99.8 % with "
        "its operands in the first level cache and 99 % with them in the second. What whole products lack is time in which "
        "caches that others emptied are filled again: packing A, shorter blocks of the sum, fewer or more rows and sizes that "
        "are no powers of two gained nothing."
    ),
    "conv": "`peak` is the time that the measured multiply-add peak would take over the time taken.",
    "conv_models": "Images come and go channels-first: each runtime pays for the layout that it prefers.",
    "gemm_int8": (
        "`wrong` is the share of onnxruntime's results that differ from int64: on AVX2 its instruction for bytes saturates "
        "sums of two products at 16 bits. fusec multiplies pairs of 16 bits, exactly. Register tiles alone, with operands in "
        "the first level cache, do 136 Gop/s so and 180 with the other instruction (2.8 GHz): exactness costs 0.75x here. "
        "Levels with VNNI have an exact one."
    ),
    "loops": "`interpreted` is the reference implementation, node by node, which would run the bodies otherwise.",
    "nests": "`copy` is a copy of the same bytes with numpy.",
}
NOT_RIVALS = ("peak", "copy", "again")
Cells = list[list[str]]


def ratio_text(ratio: dict[str, float]) -> str:
    """A ratio with its interval."""
    return f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def table_of(records: Sequence[dict[str, Any]]) -> tuple[list[str], Cells, list[str]]:
    """Columns, rows of text, and a line with the geometric mean of each ratio."""
    flat = [_flatten(r) for r in records]
    columns = list(dict.fromkeys(c for r in flat for c in r))
    rows = [[_cell(c, r[c]) if c in r else "-" for c in columns] for r in flat]
    means = []
    for c in columns:
        middles = [m for r in flat if c in r and (m := _middle(r[c])) is not None]
        if middles:
            means.append(f"{c} {geometric_mean(middles):.2f}x over {len(middles)}")
    return columns, rows, means


def _flatten(record: dict[str, Any]) -> dict[str, Any]:
    """One level: ratios by rival become columns."""
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and "median" not in value:
            unit = " us" if key.endswith("_us") else ""
            out |= {f"{name}{unit}": x for name, x in value.items()}
        else:
            out[key.removeprefix("vs_")] = value
    return out


def _middle(value: Any) -> float | None:
    """The median of a ratio; None for what is none."""
    if isinstance(value, dict):
        return float(value["median"])
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[1], float):
        return float(value[1])
    return None


def _cell(column: str, value: Any) -> str:
    if isinstance(value, dict):
        value = [value["low"], value["median"], value["high"]]
    if _middle(value) is not None:
        low, middle, high = value[:3]
        told = ratio_text({"low": low, "median": middle, "high": high})
        return f"{told} **slower**" if high < 1 and not column.endswith(NOT_RIVALS) else told
    if isinstance(value, list):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
