"""Control flow of host steps: the branches and loops that the onnx package's evaluator has wrong, or only in part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as ReferenceLoop

from fusec.host.loops import Turn, run_loop, run_scan, scanning


class MayBeEmpty(OpRun):
    """An op that may give an empty optional, None; the reference lets no result be None."""

    op_domain = ""

    @classmethod
    def _check_and_fix_outputs(cls, res: tuple[Any, ...]) -> tuple[Any, ...]:
        return res


class If(MayBeEmpty):
    """A branch may give an empty optional; the reference takes None for a value that is missing."""

    def need_context(self) -> bool:
        """The branches may read outer values."""
        return True

    def _run(self, cond: Any, context: Any = None, attributes: Any = None, **_: Any) -> tuple[Any, ...]:
        taken: Any = getattr(self, "then_branch" if bool(np.asarray(cond).reshape(-1)[0]) else "else_branch")
        return tuple(taken.run(None, dict(context or {}), attributes=attributes))


class Loop(ReferenceLoop):
    """A loop whose scanned outputs are stacked along a new axis; the reference joins them along the first."""

    op_domain = ""

    def _run(self, M: Any, cond: Any, *args: Any, context: Any = None, **_: Any) -> tuple[Any, ...]:
        body = getattr(self, "body")  # noqa: B009  # the base class sets it from the attribute
        return tuple(run_loop(_turn(body, context), M, cond, args, body.output_types[1 + self.N :]))


class Optional(MayBeEmpty):
    """An optional is its element, or None; the reference puts the element into a list."""

    def _run(self, x: Any = None, **_: Any) -> tuple[Any, ...]:
        return (x,)


class Scan(OpRun):
    """A scan with axes and directions, and the batched one of opset 8 with its sequence lengths."""

    op_domain = ""

    def need_context(self) -> bool:
        """The body may read outer values."""
        return True

    def _run(self, *args: Any, context: Any = None, **_: Any) -> tuple[Any, ...]:
        body = getattr(self, "body")  # noqa: B009  # the base class sets it from the attribute
        scan = scanning(vars(self), self.run_params["opsets"].get("", 1))
        return tuple(run_scan(_turn(body, context), args, scan, body.output_types[scan.states(len(args)) :]))


def _turn(body: Any, context: Any) -> Turn:
    """The evaluator of a body as a function of the body's inputs in order."""
    outer = dict(context or {})
    run: Callable[..., list[Any]] = body.run
    return lambda values: run(None, outer | dict(zip(body.input_names, values, strict=False)))
