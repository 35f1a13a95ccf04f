"""Attention over rows that see nothing: NaN, or zeros where the node asks for them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lower_check import apply, check, value


@pytest.mark.parametrize("attrs", [{}, {"empty_rows": "zero"}])
def test_attention_with_empty_rows(attrs: dict[str, str]) -> None:
    shapes = {"q": (2, 5, 4), "k": (2, 7, 4), "v": (2, 7, 3), "m": (5, 7)}
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    feeds["m"][1] = -np.inf
    feeds["m"][3, 2:] = -np.inf
    feeds["q"][0, 4, 0] = np.nan
    ins = [value(n, *s) for n, s in shapes.items()]
    check([apply("attention", "y", *ins, scale=0.5, causal=False, **attrs)], feeds)
