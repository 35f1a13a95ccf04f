"""What is installed: every text that a compiler gets at run time, and extras that name what the doctor asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_headers_and_emulator_sources_are_installed(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("fusec", "kernels", "passes"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "setup.py", "-q", "build_py", "-d", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    sources = ROOT / "kernels" / "cuda"
    wanted = {p.relative_to(sources) for p in sources.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    installed = tmp_path / "built" / "fusec" / "kernels" / "cuda"
    found = {p.relative_to(installed) for p in installed.rglob("*") if p.is_file()}
    assert found == wanted
    assert any(p.suffix == ".cuh" for p in found)
