"""Every error a user can meet, as one tree under `FusecError`, each with the exit code of the command line."""

from __future__ import annotations

from collections.abc import Sequence


class FusecError(Exception):
    """Base of every error raised on purpose.

    A message says what was wrong, where, expected against got, and what to do. `node`, `op`, `input` and `path` are set
    where they are known, so that a program need not parse the text.
    """

    code = "FS-0000"
    exit_code = 70

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        node: str | None = None,
        op: str | None = None,
        input: str | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.node = node
        self.op = op
        self.input = input
        self.path = path

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class CheckFailed(FusecError):
    """The tool worked and the result is bad: outputs differ by more than the tolerance."""

    code, exit_code = "FS-C001", 1


class UsageError(FusecError, ValueError):
    """An option or an argument is wrong."""

    code, exit_code = "FS-A001", 2


class ModelError(FusecError, ValueError):
    """The model file cannot be read, or what it says is not valid ONNX."""

    code, exit_code = "FS-M001", 3


class UnsupportedError(FusecError, NotImplementedError):
    """The model is valid, but uses an operator, a dtype or an attribute value that fusec cannot run."""

    code, exit_code = "FS-U001", 4


class InputError(FusecError, ValueError):
    """The arrays given to `Session.run` do not fit the model's inputs."""

    code, exit_code = "FS-I001", 5


class AssumptionError(InputError):
    """Sizes that a model may have, and that its plan assumes it has not: two that broadcast instead of being equal."""


class CompileError(FusecError, RuntimeError):
    """Code generation failed: the model is fine, the compiler is not able to build a kernel for it."""

    code, exit_code = "FS-K001", 6


class ExecutionError(FusecError, RuntimeError):
    """A kernel or a host step failed while it ran, or the device is not there."""

    code, exit_code = "FS-X001", 7


class PlanError(FusecError, ValueError):
    """A plan file is damaged, not a plan, or made by an incompatible version."""

    code, exit_code = "FS-P001", 8


class ResourceError(FusecError, MemoryError):
    """A stated limit of memory, disk, nodes or time would be passed."""

    code, exit_code = "FS-R001", 9


class BugError(FusecError, AssertionError):
    """Broken IR or a broken promise inside fusec: please report it with the dump folder."""

    code, exit_code = "FS-B001", 70


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for an unknown name: the nearest known one, or the list of all when it is short.

    >>> nearest("imput", ["input", "mask"])
    "did you mean 'input'? known: 'input', 'mask'"
    """
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(repr(k) for k in known[:12]) + (", ..." if len(known) > 12 else "")
    return f"{guess}known: {listed}" if known else "there are none"
