"""Every block of the README runs as it stands: commands, Python and make targets; every variable and verb is a real one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import environment, run_here

from bench.models.architectures import mlp
from fusec.cli.main import VERBS
from fusec.knobs import all_knobs

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
COMMANDS = [line.partition("#")[0].strip() for line in LINES if line.startswith("fusec ")]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    onnx.save(mlp([8, 16, 4], dynamic=True).model(), folder / "model.onnx")
    np.save(folder / "x.npy", np.ones((3, 8), np.float32))
    return folder


def test_the_commands(folder: Path) -> None:
    """One after the other, for a later one may read what an earlier one wrote."""
    assert len(COMMANDS) >= len(VERBS)
    assert {shlex.split(c)[1] for c in COMMANDS} == set(VERBS)
    for command in COMMANDS:
        result = run_here(folder, *shlex.split(command)[1:])
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        assert result.stdout.strip(), command


def test_the_python(folder: Path) -> None:
    """All blocks as one program, after the arrays and modules that they take for granted."""
    start = "import math\nimport numpy as np\nx = np.load('x.npy')\n"
    program = start + "\n".join(PYTHON) + "\nassert np.array_equal(y, *outputs.values())\n"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_make_targets() -> None:
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (TOP / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(re.search(rf"^{t}:", makefile, re.MULTILINE) for t in targets)


def test_the_variables_are_the_ones_that_are_read() -> None:
    assert set(re.findall(r"FUSEC_[A-Z_]+", README)) == {k.variable for k in all_knobs({})}


def test_the_files_that_it_names_exist() -> None:
    pages = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *(TOP / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
