"""FUSEC_* variables and the limits that they set."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusec.errors import ResourceError, UsageError
from fusec.knobs import Knobs, Limits, all_knobs, format_bytes, parse_bytes


def test_defaults_when_nothing_is_set() -> None:
    assert Knobs.read({}) == Knobs()
    assert Knobs.read({"FUSEC_DEBUG": "  "}) == Knobs()


def test_values_are_typed() -> None:
    k = Knobs.read(
        {"FUSEC_NUM_THREADS": "4", "FUSEC_CACHE": "RO", "FUSEC_CACHE_MAX": "512MiB", "FUSEC_DUMP": "/tmp/d",
         "FUSEC_PROGRESS": "Plain", "FUSEC_MAX_MEMORY": "1.5GiB", "FUSEC_DEVICE": "cpu:generic", "FUSEC_TYPO": "x"}
    )  # fmt: skip
    assert (k.num_threads, k.cache, k.cache_max, k.dump) == (4, "ro", 512 << 20, Path("/tmp/d"))
    assert (k.device, k.unknown) == ("cpu:generic", ("FUSEC_TYPO",))
    assert k.limits.memory == 3 << 29


@pytest.mark.parametrize(
    ("name", "text"),
    [("NUM_THREADS", "0"), ("NUM_THREADS", "many"), ("CACHE", "readonly"), ("CACHE_MAX", "2 parsecs"), ("DEBUG", "7"),
     ("DEVICE", "cpu:avx9"), ("PROGRESS", "loud"), ("MAX_NODES", "-1")],
)  # fmt: skip
def test_bad_values_name_the_variable(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"FUSEC_{name}"):
        Knobs.read({f"FUSEC_{name}": text})


def test_all_knobs_for_printing() -> None:
    shown = {k.variable: k for k in all_knobs({"FUSEC_DEBUG": "2"})}
    assert shown["FUSEC_DEBUG"].value == "2"
    assert shown["FUSEC_DEBUG"].is_set
    assert not shown["FUSEC_CACHE"].is_set
    assert all(k.meaning for k in shown.values())


def test_sizes() -> None:
    assert [parse_bytes(t) for t in ("7", "1k", "1kB", "2 MiB")] == [7, 1024, 1000, 2 << 20]
    assert [format_bytes(n) for n in (5, 1536, 4 << 40)] == ["5 B", "1.5 KiB", "4.0 TiB"]


def test_limits_name_what_was_too_much() -> None:
    with pytest.raises(ResourceError, match=r"tile would need 4\.0 TiB, the limit is 8\.0 GiB.*--max-memory"):
        Limits().check_bytes(4 << 40, "tile")
