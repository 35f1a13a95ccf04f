"""The standard architectures in small: right against onnxruntime, and of sane scale, so that comparisons mean something."""

from __future__ import annotations

import numpy as np
import pytest

import fusec
from bench.models.architectures import Build, encoder, gpt2_decode, vit
from bench.models.sequences import audio_encoder, audio_separator, gpt2_prompt, lstm_stack, recommender
from bench.models.standard import STANDARD
from bench.models.vision import crnn, detector, mobilenet_v2, resnet50, unet
from fusec.measure.accuracy import compare

pytest.importorskip("onnxruntime")

SMALL: dict[str, Build] = {
    "resnet50": lambda: resnet50(2, 64, (1, 1, 2, 1), 16),
    "mobilenet_v2": lambda: mobilenet_v2(1, 64, ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2))),
    "vit_b16": lambda: vit(1, 64, 2, image=48, classes=10),
    "bert_base": lambda: encoder(1, 64, 2, 128, 16, vocabulary=100),
    "gpt2_decode": lambda: gpt2_decode(1, 64, 2, 8, 100),
    "gpt2_prompt": lambda: gpt2_prompt(1, 64, 2, 12, 100),
    "unet": lambda: unet(1, 32, 8, 2),
    "detector": lambda: detector(1, 64, 8, 3),
    "ocr": lambda: crnn(2, 32, 24, 11, 8),
    "audio_encoder": lambda: audio_encoder(1, 2000, 16),
    "audio_separator": lambda: audio_separator(1, 80, 16, 24),
    "recommender": lambda: recommender(5, 4, 50, 8),
    "lstm_stack": lambda: lstm_stack(2, 5, 16, 2),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_architecture(name: str) -> None:
    from fusec.measure.rivals import onnxruntime_session

    built = SMALL[name]()
    model = built.model()
    want = onnxruntime_session(model.SerializeToString(), 1, optimise=False).run(None, built.feeds)
    assert all(np.isfinite(w).all() for w in want)
    assert float(np.std(want[0])) > 1e-3 and float(np.abs(want[0]).max()) < 1e3
    session = fusec.compile(model, threads=2)
    names = [v.name for v in session.outputs]
    assert [d for d in compare(names, session.run_list(built.feeds, names), want) if not d.passes(5e-5)] == []


def test_every_kind_of_standard_architecture_is_here() -> None:
    left = {n for n in STANDARD if not any(n.startswith(s) for s in SMALL)}
    assert left == {"minilm", "mlp_small", "mlp_784", "mlp_784_b32", "mlp_wide_b128"}
