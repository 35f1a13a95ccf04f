"""Everything that only a GPU can tell, in one command: is it right, what can the device do, and who is how fast.

    python -m bench.gpu [--only checks,roofs,fusion,gemm,bandwidth,chains,sanitizer] [--rounds 30] [--save FILE.json]

On a machine without a GPU it says so and does nothing; `--emulated` runs everything small on the processor, to see that the
command works. Results are written after every part, so what was measured before an interruption is not lost.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu import checks, tables
from bench.gpu.environment import environment
from bench.gpu.lab import Lab, here, open_lab
from bench.gpu.roofs import Sizes, roofs
from bench.gpu.sanitizer import sanitize
from bench.gpu.shapes import shaped
from bench.gpu.show import show_checks, show_roofs, show_rows
from bench.store import FOLDER, commit, today, write

PARTS = ("checks", "roofs", *tables.TABLES, "sanitizer")
FILE = FOLDER / "gpu.json"


class Run:
    """The parts, and the document that grows by each."""

    def __init__(self, lab: Lab, options: argparse.Namespace) -> None:
        self.lab, self.options = lab, options
        self.file: Path | None = (
            None if options.no_save or (lab.emulated and options.save is None) else options.save or FILE
        )
        command = " ".join(["python -m bench.gpu", *sys.argv[1:]])
        self.document: dict[str, Any] = {
            "title": "On a GPU", "command": command, "machine": environment(lab), "date": today(), "commit": commit(),
        }  # fmt: skip
        self.failed = False

    def part(self, name: str) -> None:
        """One of PARTS; what goes wrong in it is told and does not end the others."""
        start = time.perf_counter()
        try:
            self._do(name)
        except Exception as e:
            self.failed = True
            self.document[name] = {"failed": f"{type(e).__name__}: {e}"}
            print(f"{name} failed: {type(e).__name__}: {e}", file=sys.stderr)
        self.document.setdefault("took_s", {})[name] = round(time.perf_counter() - start, 1)
        if self.file is not None:
            write(self.file, self.document)

    def _do(self, name: str) -> None:
        if name == "checks":
            self._check()
        elif name == "roofs":
            self.document[name] = roofs(self.lab, Sizes.small() if self.lab.emulated else Sizes())
            show_roofs(self.document[name])
        elif name == "sanitizer":
            self.document[name] = {} if self.lab.emulated else sanitize(self.lab.level, self.options.cases or "")
            print(f"compute-sanitizer: {self.document[name] or 'not for the emulator'}")
        else:
            self._table(name)

    def _check(self) -> None:
        target, wanted = self.lab.target, self.options.cases
        todo: dict[str, Callable[[], checks.Check]] = {
            name: lambda n=name, m=make: checks.check(n, m(), target)  # type: ignore[misc]
            for name, make in checks.cases().items()
        }
        todo |= {x.name: lambda x=x: checks.check_shape(x, target) for x in shaped(self.lab.level)}  # type: ignore[misc]
        found = self.document["checks"] = list[dict[str, Any]]()
        for name, run in todo.items():
            if wanted in name:
                result = run()
                found.append(vars(result))
                self.failed |= not result.passed
        show_checks(found)

    def _table(self, name: str) -> None:
        copy = self.document.get("roofs", {}).get("copy", {}).get("value")
        rows = self.document[name] = list[dict[str, Any]]()
        for case in tables.small_cases() if self.lab.emulated else tables.cases():
            if case.table != name:
                continue
            try:
                rows.append(tables.row(self.lab, case, self.options.rounds, copy))
            except Exception as e:
                self.failed = True
                rows.append({"table": name, "case": case.name, "failed": f"{type(e).__name__}: {str(e)[:300]}"})
            if self.file is not None:
                write(self.file, self.document)
        show_rows(tables.TABLES[name], rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for; 0 where everything is right or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,..")
    parser.add_argument("--cases", default="", metavar="TEXT", help="checks whose name contains it")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--level", default=None, metavar="sm_90", help="the level of the device")
    parser.add_argument("--emulated", action="store_true", help="run everything small on the processor")
    parser.add_argument(
        "--save", type=Path, default=None, metavar="FILE.json", help=f"default {FILE.name} in bench/results"
    )
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := [p for p in parts if p not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}")
    place = (options.level or "sm_80", True) if options.emulated else here()
    if place is None:
        from fusec.kernels.cuda.machine import missing_for

        print(f"there is no GPU to measure: {missing_for('sm_90')}")
        print("`fusec doctor` says what is missing; --emulated runs this command small on the processor")
        return 0
    run = Run(open_lab(options.level or place[0], place[1]), options)
    for name in parts:
        run.part(name)
    if run.file is not None:
        print(f"wrote {run.file}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
