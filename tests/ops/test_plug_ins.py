"""Ops of installed packages: found by name, imported when asked for, and loud about clashes and failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OP = """
from fusec.ir.expr import Const, prim
from fusec.ops.op import Kind, Op, as_tuple, register

register(Op(
    "twice", Kind.ELEMENTWISE, lambda inputs, attrs: (inputs[0],),
    lambda args, attrs: as_tuple(args[0] + args[0]), lambda args, attrs: prim("add", args[0], args[0]),
))
"""


def package(folder: Path, name: str, entries: str, **modules: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fusec.ops]\n{entries}\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom fusec.ops.op import get, known\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_an_op_of_a_package_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    package(tmp_path, "extra", "twice = extra_ops", extra_ops=OP)
    code = "assert 'twice' in known() and 'extra_ops' not in sys.modules\nget('relu')\n"
    code += "assert 'extra_ops' not in sys.modules\nprint(get('twice').kind.value)"
    done = run(tmp_path, code)
    assert done.stdout == "elementwise\n", done.stderr


@pytest.mark.parametrize(
    ("entries", "text", "message"),
    [
        (
            "twice = extra_ops",
            "1 / 0",
            "package 'extra' offers op 'twice', but loading 'extra_ops' fails: ZeroDivisionError",
        ),
        (
            "twice = absent_ops",
            "",
            "package 'extra' offers op 'twice', but loading 'absent_ops' fails: ModuleNotFoundError",
        ),
        ("twice = extra_ops", "", "package 'extra' offers op 'twice', but 'extra_ops' declares none of that name"),
        ("relu = extra_ops", OP, "package 'extra' offers op 'relu', which fusec has itself"),
        ("twice = extra_ops", OP.replace('"twice"', '"relu"'), "op 'relu' is declared twice"),
    ],
)
def test_failures_name_the_package(tmp_path: Path, entries: str, text: str, message: str) -> None:
    package(tmp_path, "extra", entries, extra_ops=text)
    done = run(tmp_path, "get('twice')")
    assert message in done.stderr


def test_two_packages_with_one_name(tmp_path: Path) -> None:
    package(tmp_path, "extra", "twice = extra_ops", extra_ops=OP)
    package(tmp_path, "more", "twice = more_ops", more_ops=OP)
    done = run(tmp_path, "get('twice')")
    assert "two packages offer op 'twice': 'extra' and 'more'" in done.stderr
