"""Two ways to call the command line: as a process, as users do, and in this one, which takes a tenth of the time."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

from fusec.cli.main import main

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]


def environment(**changed: str) -> dict[str, str]:
    """The variables of a process that shall find this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changed}


def run_process(folder: Path, *arguments: str, **changed: str) -> Done:
    """`fusec ...` in a folder, with some variables changed."""
    return subprocess.run(
        [sys.executable, "-m", "fusec", *arguments],
        cwd=folder,
        env=environment(**changed),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_here(folder: Path, *arguments: str, **changed: str) -> Done:
    """The same in this process: for what says nothing about processes, signals, pipes and imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, changed),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        code: object = "main returned"
        try:
            main(list(arguments))
        except SystemExit as e:
            code = e.code
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(["fusec", *arguments], code, out.getvalue(), err.getvalue())
