"""What our own implementation of an op looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Attrs = Mapping[str, Any]
"""Attributes as onnx.helper reads them: strings are bytes."""
Compute = Callable[[Sequence[Any], Attrs, int, int], Sequence[Any]]
"""(inputs, None for absent ones; attributes; opset; number of outputs) -> outputs."""
