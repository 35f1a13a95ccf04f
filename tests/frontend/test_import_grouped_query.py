"""onnxruntime's GroupQueryAttention against onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_models import info, init, model, node
from onnx_rival import onnxruntime_outputs

import fusec
from fusec.plan.plan import HostStep

pytest.importorskip("onnxruntime")

F32, I32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
R = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


KEYS, CACHE = ("B", "S", 4 * 16), ("B", 4, "P", 16)
SHAPES: dict[str, Any] = {"k": KEYS, "v": KEYS, "pk": CACHE, "pv": CACHE, "l": ("B",)}


@pytest.mark.parametrize("symbolic", [True, False])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lasts", [(6, 6), (6, 4)])
@pytest.mark.parametrize(("length", "past"), [(7, 0), (7, 9), (1, 6), (1, 10), (3, 4)])
def test_grouped_queries_append_to_caches(
    length: int, past: int, lasts: tuple[int, ...], packed: bool, symbolic: bool
) -> None:
    """Prompts and steps, caches that are full or longer than what they hold, and batches that are not equally far."""
    lasts = lasts if length in (1, 7) else lasts[:1]  # onnxruntime continues only one sequence by several positions
    feeds: dict[str, Any] = {
        "q": floats(len(lasts), length, (16 if packed else 8) * 16),
        "l": np.array(lasts, np.int32),
    }
    feeds |= {} if packed else {n: floats(len(lasts), length, 4 * 16) for n in "kv"}
    feeds |= {n: floats(len(lasts), 4, past, 16) for n in ("pk", "pv")} if past else {}
    attrs = {"num_heads": 8, "kv_num_heads": 4, "do_rotary": 1, "rotary_interleaved": int(packed)}
    names = ("q - - " if packed else "q k v ") + ("pk pv" if past else "- -") + " l t c s"
    n = node(
        "GroupQueryAttention", names, "y a b", domain="com.microsoft", local_window_size=4 if packed else -1, **attrs
    )
    shapes = SHAPES | {"q": ("B", "S", feeds["q"].shape[2])}
    ins = [info(k, shapes[k] if symbolic else v.shape, I32 if k == "l" else F32) for k, v in feeds.items()]
    inits = [init("t", np.int32(7)), init("c", floats(16, 8)), init("s", floats(16, 8))]
    m = model([n], ins, [onnx.ValueInfoProto(name=o) for o in "yab"], inits, domains=[("com.microsoft", 1)])
    session = fusec.compile(m, threads=1)
    assert not any(isinstance(s, HostStep) for s in session.plan.steps)
    got, want = session.run_list(feeds), onnxruntime_outputs(m, feeds)
    for b, last in enumerate(lasts):
        rows = min(length, last + 1)  # what follows in a prompt is padding
        np.testing.assert_allclose(got[0][b, :rows], want[0][b, :rows], rtol=1e-4, atol=1e-5)
        for g, w in zip(got[1:], want[1:], strict=True):
            assert g.shape == w.shape
            np.testing.assert_allclose(g[b, :, : last + 1], w[b, :, : last + 1], rtol=1e-4, atol=1e-5)
