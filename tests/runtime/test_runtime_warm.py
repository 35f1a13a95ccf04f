"""A plan whose machine code is in the cache runs without frontend, passes and emitters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fusec
from bench.models.architectures import mlp
from fusec.plan.file import save

CODE = """
import sys
import numpy as np
import fusec
session = fusec.load({plan!r}, threads=1)
session.run({{"x": np.ones((2, 8), np.float32)}})
heavy = ("fusec.frontend", "fusec.passes", "fusec.rewrite", "fusec.lower", "fusec.kernels.cpu.emit", "fusec.kernels.cpu.nest")
print(sorted(m for m in sys.modules if m.startswith(heavy) or m.split(".")[0] in ("onnx", "numba")))
"""


def test_a_warm_plan_imports_no_emitter(tmp_path: Path) -> None:
    plan = tmp_path / "mlp.fplan"
    save(fusec.compile(mlp([8, 16, 4], batch=2).model(), threads=1).plan, plan)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "FUSEC_CACHE_DIR": str(tmp_path / "cache")}
    cold, warm = (
        subprocess.run(
            [sys.executable, "-c", CODE.format(plan=str(plan))],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=120,
        )
        for _ in range(2)
    )
    assert "fusec.kernels.cpu.emit" in cold.stdout, cold.stderr
    assert warm.stdout == "[]\n", warm.stderr
