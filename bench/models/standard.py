"""The standard architectures that performance is reported on: fixed names, real sizes, seeded weights.

python -m bench.models.standard NAME [FILE.onnx]      # write one as a file
"""

from __future__ import annotations

import sys

from bench.models.architectures import Build, encoder, gpt2_decode, mlp, vit
from bench.models.sequences import audio_encoder, audio_separator, gpt2_prompt, lstm_stack, recommender
from bench.models.vision import crnn, detector, mobilenet_v2, resnet50, unet


def bert_base(batch: int = 1, length: int = 128) -> Build:
    """BERT-base of a fixed batch and length."""
    return lambda: encoder(12, 768, 12, 3072, length, batch, vocabulary=30522)


STANDARD: dict[str, Build] = {
    "resnet50": resnet50,
    "resnet50_b4": lambda: resnet50(batch=4),
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v2_b4": lambda: mobilenet_v2(batch=4),
    "vit_b16": lambda: vit(layers=12, width=768, heads=12, classes=1000),
    "bert_base": bert_base(),
    "bert_base_s32": bert_base(length=32),
    "bert_base_b4_s32": bert_base(batch=4, length=32),
    "minilm": encoder,
    "gpt2_decode": lambda: gpt2_decode(layers=12, past=128, vocabulary=50257),
    "gpt2_prompt": gpt2_prompt,
    "unet": unet,
    "detector": detector,
    "ocr": crnn,
    "ocr_b4": lambda: crnn(batch=4, length=128),
    "audio_encoder": audio_encoder,
    "audio_separator": audio_separator,
    "recommender": recommender,
    "recommender_b1": lambda: recommender(batch=1),
    "mlp_small": lambda: mlp([256, 256, 256, 256]),
    "mlp_784": lambda: mlp([784, 1024, 1024, 512, 10]),
    "mlp_784_b32": lambda: mlp([784, 1024, 1024, 512, 10], batch=32),
    "mlp_wide_b128": lambda: mlp([1024, 4096, 4096, 1024], batch=128),
    "lstm_stack": lstm_stack,
    "lstm_stack_b4": lambda: lstm_stack(batch=4),
}
"""Name -> how to build it. One inference of each takes less than about a second on one core."""


def main(arguments: list[str]) -> None:
    """Write one model, and its inputs beside it."""
    import numpy as np
    import onnx

    if not arguments or arguments[0] not in STANDARD:
        sys.exit(f"names: {', '.join(STANDARD)}")
    name, *rest = arguments
    path = rest[0] if rest else f"{name}.onnx"
    built = STANDARD[name]()
    onnx.save(built.model(), path)
    np.savez(path.removesuffix(".onnx") + ".npz", **built.feeds)
    print(f"{path} and {path.removesuffix('.onnx')}.npz")


if __name__ == "__main__":
    main(sys.argv[1:])
