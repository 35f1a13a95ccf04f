"""Plans around the hand-written kernels of fake_region, and sessions of them."""

from __future__ import annotations

from typing import Any

from fake_region import TARGET, TILE, Chain, code, kernel, microseconds

from fusec.ir.graph import Value
from fusec.plan.plan import Plan
from fusec.runtime.session import Session


def plan_of(chain: Chain, tile: int = TILE, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "name": "chain",
        "target": TARGET,
        "inputs": (Value("x", chain.values["x"]),),
        "outputs": (Value("y", chain.values["y"]),),
        "values": chain.values,
        "aliases": {},
        "steps": (chain.region,),
        "kernels": {"flip": (kernel(tile),)},
        "weights": {},
    }
    return Plan(**(fields | changes))


def session_of(plan: Plan, threads: int = 1, **options: Any) -> Session:
    return Session(plan, threads=threads, code=lambda _: code(), microseconds=microseconds, **options)
