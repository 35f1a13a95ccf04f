"""Every FUSEC_* variable, typed and validated, and the limits that keep a hostile or huge model from taking the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fusec.errors import UsageError, nearest

PREFIX = "FUSEC_"
PRECISIONS = ("f32", "tf32")
"""How the factors of float32 products may be computed: as they are (the default), or rounded to TF32 on devices that can."""

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "kb": 1000, "m": 1 << 20, "mib": 1 << 20, "mb": 1000**2}
_UNITS |= {"g": 1 << 30, "gib": 1 << 30, "gb": 1000**3, "t": 1 << 40, "tib": 1 << 40, "tb": 1000**4}


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading and compiling one model may cost, and how strictly its versions are taken.

    `max_nodes` counts nodes after functions are inlined; `memory` bounds any one tensor and the arena; `fold_bytes` bounds
    what constant folding may store per value; `allow_newer_opset` reads models of versions that this build does not know.
    """

    max_nodes: int = 1_000_000
    fold_bytes: int = 16 << 20
    memory: int = 8 << 30
    allow_newer_opset: bool = False

    def check_bytes(self, wanted: int, what: str) -> None:
        """ResourceError where `wanted` bytes pass the memory limit."""
        from fusec.errors import ResourceError

        if wanted > self.memory:
            raise ResourceError(
                f"{what} would need {format_bytes(wanted)}, the limit is {format_bytes(self.memory)}",
                hint="raise it with --max-memory or FUSEC_MAX_MEMORY if this is meant",
            )


def parse_bytes(text: str) -> int:
    """Read a size such as `2GiB`, `512M` or `1000`. UsageError where it is anything else.

    >>> parse_bytes("2GiB")
    2147483648
    """
    m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not m or m[2].lower() not in _UNITS:
        raise UsageError(f"not a size: {text!r}", hint="write a number with an optional unit, such as 512MiB or 2GiB")
    return int(float(m[1]) * _UNITS[m[2].lower()])


def format_bytes(n: int) -> str:
    """A size for people.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1024 or unit == "EiB":
            return f"{n} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def _parse_count(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\s*\d+\s*", text) or not low <= int(text) <= high:
        raise UsageError(f"not a whole number from {low} to {high}: {text!r}")
    return int(text)


def _parse_seconds(text: str) -> float:
    if not re.fullmatch(r"\s*\d+(\.\d*)?\s*", text):
        raise UsageError(f"not a number of seconds: {text!r}")
    return float(text)


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip().lower() not in known:
            raise UsageError(f"unknown value {text!r}", hint=nearest(text, known))
        return text.strip().lower()

    return parse


def _parse_device(text: str) -> str:
    from fusec.target import Target

    return str(Target.parse(text))


@dataclass(frozen=True, slots=True)
class Knobs:
    """The switches of this process. `Knobs.read()` takes them from the environment; fields are what the code asks for.

    An unset number of threads means: as many as the process may use. No cache directory means: the user's cache folder.
    """

    num_threads: int | None = None
    cache_dir: Path | None = None
    cache: Literal["rw", "ro", "off"] = "rw"
    cache_max: int = 2 << 30
    debug: int = 0
    dump: Path | None = None
    max_memory: int = 8 << 30
    max_nodes: int = 1_000_000
    device: str | None = None
    progress: Literal["auto", "plain", "off"] = "auto"
    watchdog: float | None = None
    unknown: tuple[str, ...] = field(default=())
    """FUSEC_* variables that are set and mean nothing, for `fusec doctor` to point at."""

    @staticmethod
    def read(environ: Mapping[str, str] | None = None) -> Knobs:
        """Parse the environment. UsageError naming the variable where one has a bad value."""
        environ = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for knob in _KNOBS:
            text = environ.get(knob.variable, "")
            if not text.strip():
                continue
            try:
                found[knob.name] = knob.parse(text)
            except UsageError as e:
                raise UsageError(f"{knob.variable}: {e.message}", hint=e.hint, input=knob.variable) from None
        known = {k.variable for k in _KNOBS}
        found["unknown"] = tuple(sorted(v for v in environ if v.startswith(PREFIX) and v not in known))
        return Knobs(**found)

    @property
    def limits(self) -> Limits:
        """The limits that these knobs ask for."""
        return Limits(max_nodes=self.max_nodes, memory=self.max_memory)


@dataclass(frozen=True, slots=True)
class Knob:
    """One variable: the field of `Knobs` it sets, what it means, and how its text is read."""

    name: str
    meaning: str
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


_KNOBS = (
    Knob("num_threads", "workers per run (default: what affinity and quota allow)", lambda t: _parse_count(t, 1, 4096)),
    Knob("cache_dir", "folder of compiled code (default: the user's cache folder)", lambda t: Path(t).expanduser()),
    Knob("cache", "rw, ro or off", _one_of("rw", "ro", "off")),
    Knob("cache_max", "size limit of the cache", parse_bytes),
    Knob("debug", "0 to 6: how much is said", lambda t: _parse_count(t, 0, 6)),
    Knob("dump", "folder that gets one file per stage", lambda t: Path(t).expanduser()),
    Knob("max_memory", "largest tensor and arena", parse_bytes),
    Knob("max_nodes", "most nodes after functions are inlined", lambda t: _parse_count(t, 1, 1 << 40)),
    Knob("device", "target such as cpu or cpu:avx2", _parse_device),
    Knob("watchdog", "seconds after which a launch on a device may be ended (default: 10; 0: never)", _parse_seconds),
    Knob(
        "progress",
        "auto (rounds only on a terminal), plain (always) or off",
        _one_of("auto", "plain", "off"),
    ),
)


@dataclass(frozen=True, slots=True)
class KnobSetting:
    """A knob as `fusec doctor` shows it."""

    variable: str
    value: str
    is_set: bool
    meaning: str


def all_knobs(environ: Mapping[str, str] | None = None) -> tuple[KnobSetting, ...]:
    """Every knob with its value in force, for printing."""
    environ = os.environ if environ is None else environ
    knobs, defaults = Knobs.read(environ), Knobs()
    by_name = {k.name: k for k in _KNOBS}
    return tuple(
        KnobSetting(knob.variable, _show(getattr(knobs, f.name)), getattr(knobs, f.name) != getattr(defaults, f.name)
                    or knob.variable in environ, knob.meaning)
        for f in fields(Knobs)
        if (knob := by_name.get(f.name)) is not None
    )  # fmt: skip


def _show(value: object) -> str:
    return "-" if value is None else str(value)
