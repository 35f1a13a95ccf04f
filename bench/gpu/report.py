"""The section of docs/performance.md that a result file of bench.gpu makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

TABLES = {
    "fusion": "One launch for a whole model: batch-1 MLP, LSTM stack, transformer decode",
    "gemm": "Matrix products beside cuBLAS",
    "bandwidth": "Decode of a billion parameters beside the copy bandwidth",
    "chains": "Chains of two matrix products",
}
"""The tables, in order."""
NOTE = """All runtimes of a row live in one process and take turns, in random order, once per round. Inputs lie on the device
beforehand and outputs stay there; a call ends when the device is done. Float32 means float32: TF32 is off everywhere. A ratio
is the median over rounds of the other's time divided by fusec's (above 1 fusec is faster), with its 95 % bootstrap interval;
*noise* is fusec against itself."""


def gpu_section(document: dict[str, Any]) -> Iterable[str]:
    """Device and driver, then what was checked, what the device can do, and the tables."""
    m = document["machine"]
    driver = f", driver {m['driver']}" if m.get("driver") else ""
    yield f"{m['gpu']} (`{m['target']}`, {m['multiprocessors']} multiprocessors{driver}, NVRTC {m['nvrtc']})."
    yield ""
    yield from _checks(document.get("checks"))
    yield from _roofs(document.get("roofs"))
    if any(name in document for name in TABLES):
        yield NOTE
        yield ""
    for name, title in TABLES.items():
        if name in document:
            yield f"### {title}"
            yield ""
            yield from _rows(document[name])
    yield from _sanitizer(document.get("sanitizer"))


def _checks(found: Any) -> Iterable[str]:
    if isinstance(found, list) and found:
        wrong = [c for c in found if c["problem"] or c["required"] > c["tolerance"]]
        templates = ", ".join(sorted({t for c in found for t in c["templates"]}))
        yield f"Checked against float64: {len(found) - len(wrong)} of {len(found)} models right; templates {templates}."
        yield ""
        yield from (f"- **{c['name']}** is wrong: {c['problem'] or format(c['required'], '.2g')}" for c in wrong)
        if wrong:
            yield ""


def _roofs(found: Any) -> Iterable[str]:
    if isinstance(found, dict) and found and "failed" not in found:
        yield "### What the device can do"
        yield ""
        rows = [[name, f"{r['value']:.4g} {r['unit']}", f"{r['median']:.4g}"] for name, r in found.items()]
        yield from _table(["roof", "best round", "median"], rows)


def _rows(found: Any) -> Iterable[str]:
    if isinstance(found, dict):
        yield f"Failed: {_text(str(found.get('failed')))}"
        yield ""
        return
    good = [r for r in found if "failed" not in r]
    names = list(dict.fromkeys(n for r in good for n in r["ratios"]))
    extra = ["TFLOP/s"] + (["GB/s"] if any("gbs" in r for r in good) else [])
    extra += ["of copy"] if any("of_copy" in r for r in good) else []
    rows = []
    for r in good:
        noise = f"[{r['noise']['low']:.2f}, {r['noise']['high']:.2f}]"
        tail = {
            "TFLOP/s": f"{r['tflops']:.3g}",
            "GB/s": f"{r.get('gbs', 0):.0f}",
            "of copy": f"{100 * r.get('of_copy', 0):.0f} %",
        }
        ratios = [_ratio(r["ratios"].get(n), r["noise"]) for n in names]
        rows.append([r["case"], f"{r['seconds']['fusec'] * 1e6:.4g}", noise, *ratios, *(tail[e] for e in extra)])
    if rows:
        yield from _table(["case", "fusec us", "noise", *names, *extra], rows)
    told = [f"- {r['case']}: {note}" for r in good for note in r["notes"] if "kernels in" not in note]
    told += [f"- {r['case']}: failed: {_text(r['failed'])}" for r in found if "failed" in r]
    yield from told
    if told:
        yield ""


def _ratio(r: dict[str, float] | None, noise: dict[str, float]) -> str:
    if r is None:
        return "-"
    text = f"{r['median']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]"
    return f"{text} **slower**" if r["high"] < min(1.0, noise["low"]) else text


def _sanitizer(found: Any) -> Iterable[str]:
    if isinstance(found, dict) and found and "failed" not in found:
        told = [f"{tool}: {r}" if not isinstance(r, dict) else f"{tool}: {_errors(r)}" for tool, r in found.items()]
        yield f"compute-sanitizer over the checks: {'; '.join(told)}."
        yield ""


def _errors(r: dict[str, Any]) -> str:
    if "problem" in r:
        return str(r["problem"])
    return f"{r['errors']} errors" + (f", the first: {_text(r['first'])}" if "first" in r else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(map(_text, columns)) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    yield from ("| " + " | ".join(map(_text, row)) + " |" for row in rows)
    yield ""


def _text(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
