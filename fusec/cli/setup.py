"""What verbs that run a model are told alike: `run`, `verify` and `bench` get it as one `Setup`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fusec.cli.options import (
    apply,
    compile_options,
    complete_feeds,
    input_option,
    model_argument,
    output_options,
    parse_dims,
    read_inputs,
    seed_option,
    thread_option,
)

if TYPE_CHECKING:
    from fusec.api import Options
    from fusec.runtime.session import Session

_OPTIONS = [model_argument, input_option, seed_option, thread_option, compile_options, output_options]
_OWN = ("model", "inputs", "seed", "threads", "as_json", "quiet")
_COMPILE = (
    "device",
    "dims",
    "shapes",
    "passes",
    "unfused",
    "precision",
    "no_assume",
    "max_memory",
    "max_nodes",
    "allow_newer_opset",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """The model, how to compile it, what to feed, and how much to say."""

    model: str
    inputs: tuple[str, ...]
    seed: int
    threads: int | None
    as_json: bool
    quiet: bool
    flags: Mapping[str, Any]

    @property
    def silent(self) -> bool:
        """Whether nothing but the result may be said."""
        return self.as_json or self.quiet

    @property
    def is_plan(self) -> bool:
        """Whether the model is a plan."""
        from fusec.cli.opening import is_plan

        return is_plan(self.model)

    def options(self) -> Options:
        """The compile options. UsageError names the flag that is wrong."""
        from fusec.cli.opening import make_options

        return make_options(**self.flags)

    def open(self, path: str | None = None, options: Options | None = None) -> Session:
        """A session for the model, or for another file or with other options."""
        from fusec.cli.opening import open_session

        return open_session(path or self.model, options or self.options(), self.threads, quiet=self.silent).session

    def feeds(self, session: Session, further: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Given inputs and made-up ones for the rest; `further` > 0 gives the next sets of them, without a word."""
        given = read_inputs(self.inputs, [v.name for v in session.inputs])
        dims, silent = parse_dims(self.flags["dims"]), self.silent or further > 0
        needed = session.plan.requirements
        return complete_feeds(given, session.inputs, needed, self.seed + further, dims, silent, session.limits)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb that runs a model: it gets a `Setup` in place of the options that all of them have."""

    @functools.wraps(command)
    def with_setup(**given: Any) -> None:
        del given["traceback"]  # main looks at it
        own = {n: given.pop(n) for n in _OWN}
        flags = {n: given.pop(n) for n in _COMPILE}
        command(setup=Setup(**own, flags=flags), **given)

    return apply(_OPTIONS)(with_setup)
