"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusec.cli.text import format_seconds, print_table


def show_checks(found: Sequence[dict[str, Any]]) -> None:
    """A line per check, and which templates were among them."""
    rows = [
        [c["name"], "ok" if not c["problem"] and c["required"] <= c["tolerance"] else "WRONG", f"{c['required']:.2g}",
         f"{c['tolerance']:g}", " ".join(c["templates"]), c["problem"]]
        for c in found
    ]  # fmt: skip
    print_table("against float64", ["model", "", "needs", "allowed", "templates", "problem"], rows, "23")
    print("templates: " + ", ".join(sorted({t for c in found for t in c["templates"]})))


def show_roofs(found: dict[str, Any]) -> None:
    """A line per roof."""
    rows = [[name, f"{r['value']:.4g} {r['unit']}", f"{r['median']:.4g}", r["rounds"]] for name, r in found.items()]
    print_table("what the device can do", ["roof", "best round", "median", "rounds"], rows, "123")


def show_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of cases: times, ratios, losses too."""
    names = list(dict.fromkeys(n for r in rows for n in r.get("ratios", ())))
    columns = ["case", "fusec", "noise", *names, "TFLOP/s", "GB/s", "of copy"]
    print_table(title, columns, [_cells(r, names) for r in rows], "123456789"[: len(columns) - 1])
    for r in rows:
        for note in r.get("notes", ()):
            print(f"  {r['case']}: {note}")


def _cells(r: dict[str, Any], names: Sequence[str]) -> list[str]:
    if "failed" in r:
        return [r["case"], f"FAILED {r['failed']}", *[""] * (len(names) + 4)]
    noise = f"{r['noise']['low']:.2f} to {r['noise']['high']:.2f}"
    ratios = [_ratio(r["ratios"].get(n)) for n in names]
    bandwidth = f"{r['gbs']:.0f}" if "gbs" in r else "-"
    share = f"{100 * r['of_copy']:.0f} %" if "of_copy" in r else "-"
    return [r["case"], format_seconds(r["seconds"]["fusec"]), noise, *ratios, f"{r['tflops']:.3g}", bandwidth, share]


def _ratio(ratio: dict[str, float] | None) -> str:
    return "-" if ratio is None else f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
