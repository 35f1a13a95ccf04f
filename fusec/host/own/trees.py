"""Ops of ai.onnx.ml around classifiers that the reference does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusec.host.compute import Compute


def _zip_map(inputs: Sequence[Any], attrs: Mapping[str, Any], _opset: int, _outputs: int) -> Sequence[Any]:
    """One dictionary per row, from class label to score."""
    (scores,) = inputs
    labels = attrs.get("classlabels_int64s") or [
        label.decode() if isinstance(label, bytes) else label for label in attrs.get("classlabels_strings", ())
    ]
    rows = scores.reshape(-1, len(labels))
    return ([dict(zip(labels, map(float, row))) for row in rows],)


IMPLEMENTATIONS: dict[tuple[str, str], Compute] = {("ai.onnx.ml", "ZipMap"): _zip_map}
