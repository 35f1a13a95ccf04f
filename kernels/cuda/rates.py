"""What a multiprocessor of each level does in a microsecond: what estimates are made of, of tiles and of ways to convolve."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.target import Target


@dataclass(frozen=True, slots=True)
class Rates:
    """What one multiprocessor does in a microsecond: operations of matrix products by template, of loop nests, bytes.

    Peaks from NVIDIA's data sheets (A100 SXM, H100 SXM, RTX 3090, B200, RTX 5090) divided by the multiprocessors, times what
    such kernels reach of them. `bytes` is a share of the memory's bandwidth; `kept` is from the cache that all share.
    """

    products: dict[str, float]
    nests: float
    bytes: float
    kept: float


RATES = {
    "sm_80": Rates({"simt": 110e3, "mma": 900e3, "gemv": 50e3, "stream": 300e3}, 60e3, 12e3, 35e3),
    "sm_90": Rates(
        {"simt": 300e3, "mma": 2_500e3, "wgmma": 4_500e3, "gemv": 120e3, "stream": 1_000e3}, 150e3, 20e3, 45e3
    ),
    "sm_86": Rates({"simt": 250e3, "mma": 600e3, "gemv": 50e3, "stream": 300e3}, 100e3, 8e3, 20e3),
    "sm_100": Rates({"simt": 300e3, "mma": 1_200e3, "gemv": 120e3, "stream": 600e3}, 150e3, 38e3, 60e3),
    "sm_120": Rates({"simt": 350e3, "mma": 850e3, "gemv": 60e3, "stream": 400e3}, 120e3, 7e3, 25e3),
}
TILE_OVERHEAD = 0.5
"""Microseconds for the barriers around a tile and the first bytes to arrive."""


def rates_of(target: Target) -> Rates:
    """The rates of a target's level, emulated or not."""
    return RATES.get(target.level.partition("-")[0], RATES["sm_80"])
