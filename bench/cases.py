"""The fixed list of models that performance is reported on: standard architectures, Rammer's LSTM, and public models."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bench.models.fetch import MODELS
from bench.models.inputs import feeds
from bench.models.recurrent import lstm_nodes, lstm_unrolled
from bench.models.standard import STANDARD

Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A model and its inputs. `kind` is standard, lstm or public."""

    name: str
    kind: str
    make: Callable[[], tuple[bytes, Feeds]]

    @property
    def is_missing(self) -> bool:
        """Whether its file was not fetched."""
        return self.kind == "public" and not MODELS[self.name.partition("@")[0]].path.is_file()


def _built(build: Callable[[], Any]) -> Callable[[], tuple[bytes, Feeds]]:
    def make() -> tuple[bytes, Feeds]:
        built = build()
        return built.model().SerializeToString(), built.feeds

    return make


def _public(name: str, other: bool) -> Callable[[], tuple[bytes, Feeds]]:
    return lambda: (MODELS[name].path.read_bytes(), feeds(name, other=other))


LSTMS: dict[str, Callable[[], Any]] = {
    "rammer_lstm": lstm_nodes,
    "rammer_lstm_b4": lambda: lstm_nodes(4),
    "rammer_lstm_unrolled": lstm_unrolled,
    "rammer_lstm_unrolled_b4": lambda: lstm_unrolled(4),
}
OTHER_SHAPES = ("silero_vad", "magika", "ppocrv4_rec", "minilm_l6_int8")
"""Public models that are measured with their second inputs too: batches, other lengths."""
CASES = {
    c.name: c
    for c in (
        *(Case(n, "standard", _built(b)) for n, b in STANDARD.items()),
        *(Case(n, "lstm", _built(b)) for n, b in LSTMS.items()),
        *(Case(n, "public", _public(n, False)) for n in MODELS),
        *(Case(f"{n}@2", "public", _public(n, True)) for n in OTHER_SHAPES),
    )
}
"""Name -> case, in the order of the report."""


def arguments(description: str | None, file: Path, names: str) -> argparse.ArgumentParser:
    """What every benchmark of whole models takes: names of cases, and the table that their results go to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=names)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--save", type=Path, default=file, metavar="FILE.json")
    return parser


def _name(text: str) -> str:
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"unknown model {text!r}; known are {', '.join(CASES)}")
    return text


def to_measure(names: Sequence[str], default: Sequence[str], measured: Collection[str]) -> list[str]:
    """The names that were given; without any, those of the default that are not measured yet."""
    return list(names) or [n for n in default if n not in measured]


def is_float32(model: bytes) -> bool:
    """Whether a model computes in float32 throughout: no 8-bit or half-precision weights, no quantised operators."""
    import onnx

    proto = onnx.load_model_from_string(model)
    narrow = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    quantised = {"DynamicQuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}
    weights = any(w.data_type in narrow and len(w.dims) > 1 for w in proto.graph.initializer)
    return not weights and not quantised & {n.op_type for n in proto.graph.node}
