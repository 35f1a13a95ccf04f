"""Where CUDA's libraries may be: Python's packages, CUDA_PATH, the places that the system's loader knows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PARTS = ("cu13/lib", "cuda_nvrtc/lib", "nvjitlink/lib", "cu13/bin/x86_64", "cuda_nvrtc/bin", "nvjitlink/bin")
"""Folders of the packages for CUDA 13, then of those for CUDA 12."""


def candidates(stem: str) -> Iterator[str]:
    """Paths of a library such as `nvrtc`, the newest first, then the names by which the system may know it."""
    pattern = f"{stem}*_*.dll" if sys.platform == "win32" else f"lib{stem}.so*"
    folders = [Path(p) / "nvidia" / part for p in sys.path for part in PARTS]
    if root := os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME"):
        folders += [Path(root) / "lib64", Path(root) / "lib", Path(root) / "bin"]
    for folder in folders:
        yield from (str(p) for p in sorted(folder.glob(pattern), reverse=True) if ".alt" not in p.name)
    yield from (f"lib{stem}.so.13", f"lib{stem}.so.12", f"lib{stem}.so")


def first(stem: str, load: Callable[[str], T]) -> tuple[T | None, str]:
    """The first that `load` takes, or why there is none; it raises OSError or AttributeError for one that cannot be used."""
    why = f"no lib{stem} among the installed packages, in CUDA_PATH or where the system looks"
    for path in candidates(stem):
        try:
            return load(path), ""
        except (OSError, AttributeError) as e:
            if os.path.sep in path:
                why = f"{path} cannot be used: {e}"
    return None, why
