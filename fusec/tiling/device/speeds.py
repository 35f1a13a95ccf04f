"""How fast the block tiles of a product multiply, compared with the largest of their template."""

from __future__ import annotations

from collections.abc import Mapping

Shapes = Mapping[tuple[str, int, int], float]
PLAIN: Shapes = {
    ("simt", 128, 128): 1.0, ("simt", 128, 64): 0.9, ("simt", 64, 64): 0.8, ("simt", 32, 64): 0.65, ("simt", 16, 32): 0.4,
}  # fmt: skip
"""Template, rows and columns of a block tile -> how fast it multiplies, compared with the largest."""
WIDE: Shapes = {("simt", 64, 64): 1.0, ("simt", 16, 32): 0.5}
"""For elements of 8 bytes."""
TENSOR: Shapes = {
    ("mma", 128, 128): 1.0, ("mma", 128, 64): 0.85, ("mma", 64, 64): 0.7, ("mma", 32, 64): 0.5, ("mma", 16, 32): 0.25,
}  # fmt: skip
HOPPER: Shapes = {
    ("wgmma", 128, 256): 1.0, ("wgmma", 128, 128): 0.85, ("wgmma", 128, 64): 0.6, ("mma", 64, 64): 0.4,
    ("mma", 32, 64): 0.3, ("mma", 16, 32): 0.15,
}  # fmt: skip
"""mma.sync reaches less than two thirds of what Hopper's tensor cores can do."""
HOPPER_FLOAT: Shapes = {**HOPPER, ("mma", 128, 128): 0.55, ("mma", 128, 64): 0.5}
"""For float as tf32, of which wgmma does not take every product."""
OF_TEMPLATE: Shapes = {**{k: s for k, s in HOPPER.items() if k[0] == "wgmma"}, **PLAIN, **TENSOR}
"""Each compared with the largest of its own template."""
