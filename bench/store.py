"""Result files: what a benchmark measured, where and when, one JSON document per table in bench/results/.

A table is either `cases` (a dictionary that grows case by case, so that an interrupted run goes on where it stopped) or
`rows`, a record each, of a benchmark of single kernels (`bench.records` makes text of them).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine
from fusec.measure.rivals import versions

FOLDER = Path(__file__).resolve().parent / "results"


class Table:
    """A result file that is written after every case."""

    def __init__(self, path: Path, title: str, command: str, fresh: bool = False) -> None:
        self.path = path
        self.document: dict[str, Any] = {}
        if path.is_file() and not fresh:
            self.document = json.loads(path.read_text(encoding="utf-8"))
        self.document |= {"title": title, "command": command, "machine": where()}
        self.document.setdefault("cases", {})

    @property
    def cases(self) -> dict[str, Any]:
        """Case -> what was measured."""
        cases: dict[str, Any] = self.document["cases"]
        return cases

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep a case, with its date and the state of the code, and write the file."""
        self.cases[name] = _rounded(result) | {"date": today(), "commit": commit()}
        write(self.path, self.document)


def save_records(path: str | Path, records: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Write what a benchmark of single kernels measured, a record per row, with the command as it was given and its state."""
    name = Path(sys.argv[0]).stem
    document = {"command": " ".join(["python -m", f"bench.{name}", *sys.argv[1:]]), "machine": where()}
    write(Path(path), document | {"date": today(), "commit": commit(), **facts, "rows": _rounded(list(records))})


def _rounded(x: Any) -> Any:
    """Numbers with as many digits as mean something."""
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_rounded(v) for v in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a document, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def where() -> dict[str, Any]:
    """The machine and all versions, rivals included."""
    found = machine()
    return found | {"versions": found["versions"] | versions()}


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def commit() -> str:
    """The state of the code: the short hash of the last commit, with a + where the code differs from it."""
    try:
        changed = _git("status", "--porcelain", "--", "fusec", "kernels", "passes")
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
