"""Concats of many pieces are copied, and not selected from in the loop of whoever reads them."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.api import compile_graph
from fusec.ir.text import parse_graph

READERS = {
    "view": 'y = pad[before=(1, 0), after=(1, 0), mode="constant"](c); return y',
    "row": "y = reduce_sum[axes=(1,), keepdims=false](c); return y",
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("pieces", "kernels"), [(4, 1), (5, 2)])
def test_pieces(reader: str, pieces: int, kernels: int) -> None:
    names = [f"x{n}" for n in range(pieces)]
    inputs = ", ".join(f"{n}: f32[6, 3]" for n in names)
    text = f"graph g({inputs}) {{ c = concat[axis=1]({', '.join(names)}); {READERS[reader]} }}"
    session = compile_graph(parse_graph(text), threads=1)
    assert sum(len(step.calls) for step in session.plan.steps) == kernels
    feeds = {n: np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32) for n in names}
    whole = np.concatenate(list(feeds.values()), axis=1)
    want = np.pad(whole, ((1, 1), (0, 0))) if reader == "view" else whole.sum(1)
    np.testing.assert_allclose(session.run_list(feeds, ["y"])[0], want, 1e-5, 1e-5)
