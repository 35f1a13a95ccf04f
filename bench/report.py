"""Makes docs/performance.md of the result files in bench/results. Nobody edits that page by hand; a test compares it.

python -m bench.report [--check]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.report import gpu_section
from bench.records import NOTES, TITLES, table_of
from bench.store import FOLDER
from fusec.measure.rounds import geometric_mean

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
RIVALS = ("onnxruntime", "openvino")
GOALS = {"onnxruntime": 1.3, "openvino": 1.2}
FLOOR = 0.95
HEAD = """# Performance

This page is made by `python -m bench.report` from the result files in `bench/results/`; it is never edited by hand.

All runtimes compute in float32 on the same number of threads, each at its best settings: onnxruntime with all
optimisations, its threads not spinning between runs; OpenVINO with `INFERENCE_PRECISION_HINT=f32`, one stream, the latency
hint; both with the faster of two ways to pass arrays. All are told the shapes of the inputs. Outputs are compared before
anything is timed. All runtimes of a row live in one process and take turns, in random order, once per round; a ratio is the
median over rounds of the other's time divided by fusec's in the same round (above 1 fusec is faster), with its 95 %
bootstrap interval. *Noise* is fusec against itself in the same rounds: what lies within it means nothing.
"""


def render(folder: Path = FOLDER) -> str:
    """The page."""
    parts = [HEAD]
    known: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
        "models.json": _models,
        "scaling.json": _scaling,
        "compile.json": _compile,
        "gpu.json": gpu_section,
    }
    files = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}
    for name in [*(n for n in known if n in files), *(n for n in files if n not in known)]:
        document = files[name]
        if name not in known:
            document = _document(name.removesuffix(".json"), document)
        body = known[name](document) if name in known else _plain(document)
        parts.append("\n".join([f"## {document['title']}", "", _where(document), "", *body]).rstrip() + "\n")
    return "\n".join(parts)


def _document(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A table of text of the records that a benchmark of single kernels saved."""
    columns, rows, means = table_of(found["rows"])
    command = f"python -m bench.{name} --save bench/results/{name}.json"
    document = {"title": TITLES.get(name, name), "command": command} | found
    document |= {"columns": columns, "rows": rows, "note": NOTES.get(name, "")}
    if means:
        document["after"] = "Geometric means: " + "; ".join(means) + "."
    return document


def _where(document: dict[str, Any]) -> str:
    """The command, the machine, the versions, the date and the state of the code."""
    m, cases = document["machine"], document.get("cases", {}).values()
    versions = ", ".join(f"{n} {v}" for n, v in sorted(m["versions"].items()))
    dates = sorted({c["date"] for c in cases} | ({document["date"]} if "date" in document else set()))
    commits = list(dict.fromkeys([c["commit"] for c in cases] + ([document["commit"]] if "commit" in document else [])))
    when = f"; {dates[0]}" if len(dates) == 1 else f"; {dates[0]} to {dates[-1]}" if dates else ""
    told = f", at {commits[0]}" if len(commits) == 1 else ""
    told = f", at {len(commits)} states from {commits[0]} to {commits[-1]}" if len(commits) > 1 else told
    place = f"{m['cpu']}, {m['cores']} cores, `{document.get('target', m['target'])}`, load {m['load']} at the start"
    return f"`{document['command']}`; {place}; {versions}{when}{told}."


def _models(document: dict[str, Any]) -> Iterable[str]:
    kinds = ("standard", "lstm", "public")
    cases = dict(sorted(document["cases"].items(), key=lambda c: (kinds.index(c[1]["kind"]), c[0])))
    good = {n: c for n, c in cases.items() if "failed" not in c}
    counts = sorted({t for c in good.values() for t in c["threads"]}, key=int)
    plain = {n: c for n, c in good.items() if c["float32"]}
    yield from _summary(plain, counts)
    for threads in counts:
        yield f"### {threads} thread{'s' if threads != '1' else ''}"
        yield ""
        yield from _model_table(plain, threads)
    other = {n: c for n, c in good.items() if not c["float32"]}
    if other:
        yield "### Models that are not float32 throughout"
        yield ""
        yield "Weights or activations of 8 bits; they count in no mean above."
        yield ""
        for threads in counts:
            yield f"{threads} thread{'s' if threads != '1' else ''}:"
            yield ""
            yield from _model_table(other, threads)
    failed = {n: c["failed"] for n, c in cases.items() if "failed" in c}
    if failed:
        yield "### Failed"
        yield ""
        yield from (f"- {n}: {_text(why)}" for n, why in failed.items())
        yield ""


def _summary(cases: dict[str, Any], counts: Sequence[str]) -> Iterable[str]:
    """Geometric means over everything that both could run, and how many models are slower."""
    rows = []
    for threads in counts:
        for rival in RIVALS:
            ratios = {
                n: c["threads"][threads]["rivals"].get(rival, {}).get("ratio", {}).get("median")
                for n, c in cases.items()
                if threads in c["threads"]
            }
            known = {n: r for n, r in ratios.items() if r is not None}
            slower = sorted((n for n, r in known.items() if r < FLOOR), key=lambda n: known[n])
            mean = f"**{geometric_mean(list(known.values())):.2f}x**" if known else "-"
            rows.append(
                [
                    threads,
                    rival,
                    mean,
                    f"{GOALS[rival]}x",
                    f"{len(known)} of {len(ratios)}",
                    f"{len(slower)}" + (": " + ", ".join(f"{n} {known[n]:.2f}x" for n in slower) if slower else ""),
                ]
            )
    columns = ["threads", "rival", "geometric mean", "goal", "models", f"slower than {FLOOR}x"]
    yield from _table(columns, rows, "rlrrrl")


def _model_table(cases: dict[str, Any], threads: str) -> Iterable[str]:
    rows = []
    for name, case in cases.items():
        if threads not in case["threads"]:
            continue
        told = case["threads"][threads]
        noise = told["noise"]
        cells = [name, _milliseconds(told["seconds"])]
        cells += [_rival(told["rivals"].get(r, {}), noise) for r in RIVALS]
        differences = [v["difference"] for v in told["rivals"].values() if "difference" in v]
        cells += [
            f"{noise['low']:.2f} to {noise['high']:.2f}",
            f"{max(differences):.0e}" if differences else "-",
            str(case["host_steps"] or "-"),
            str(told["rounds"]),
        ]
        rows.append(cells)
    columns = ["model", "fusec ms", *RIVALS, "noise", "difference", "host steps", "rounds"]
    yield from _table(columns, rows, "lrrrrrrr")


def _rival(told: dict[str, Any], noise: dict[str, float]) -> str:
    """A ratio with its interval; losses say so, and so does what cannot be told from noise."""
    if "refused" in told:
        return "refuses the model"
    if "ratio" not in told:
        return "differs" if "difference" in told else "-"
    r = told["ratio"]
    text = f"{r['median']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]"
    if r["high"] < min(1.0, noise["low"]):
        return f"{text} **slower**"
    return text


def _scaling(document: dict[str, Any]) -> Iterable[str]:
    yield "*Possible* is what pure arithmetic in registers gained in the same rounds: less than the number of workers where"
    yield "the cores are not free. *Bits* says whether both give the same."
    yield ""
    rows = [
        [
            name,
            c["workers"],
            _milliseconds(c["seconds"]),
            _interval(c["gain"]),
            _interval(c["possible"]),
            f"{100 * c['gain']['median'] / c['possible']['median']:.0f} %",
            "same" if c["same_bits"] else "**different**",
        ]
        for name, c in document["cases"].items()
    ]
    yield from _table(["model", "workers", "one worker ms", "gain", "possible", "of that", "bits"], rows, "lrrrrrl")


def _compile(document: dict[str, Any]) -> Iterable[str]:
    yield "Seconds in fresh processes, from after `import fusec` to the first answer; medians, in brackets the range. *Cold*"
    yield "has an empty cache of machine code, *warm* a full one, *plan* loads a saved plan."
    yield ""
    rows = []
    for name, c in document["cases"].items():
        ready = statistics.median(c["cold"]["ready"])
        limit = "-" if c["limit"] is None else f"{c['limit']:.0f}" + ("" if ready < c["limit"] else " **missed**")
        rows.append([name, f"{ready:.2f}", limit, *(_range(c[kind]["first"]) for kind in ("cold", "warm", "plan"))])
    columns = ["model", "cold compile", "limit", "cold", "warm", "plan"]
    yield from _table(columns, rows, "lrrrrr")


def _plain(document: dict[str, Any]) -> Iterable[str]:
    if document.get("note"):
        yield document["note"]
        yield ""
    align = "l" + "r" * (len(document["columns"]) - 1)
    yield from _table(document["columns"], document["rows"], align)
    if document.get("after"):
        yield document["after"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> Iterable[str]:
    yield "| " + " | ".join(_text(c) for c in columns) + " |"
    yield "|" + "|".join("---:" if a == "r" else "---" for a in align) + "|"
    for row in rows:
        yield "| " + " | ".join(_text(str(c)) for c in row) + " |"
    yield ""


def _text(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _interval(r: dict[str, float]) -> str:
    return f"{r['median']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]"


def _range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    """Write the page, or check that it is the one that the result files make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    if parser.parse_args().check:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render() else f"{PAGE} is out of date")
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
