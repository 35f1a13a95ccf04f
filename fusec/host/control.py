"""Control flow of host steps: the branches and loops that the onnx package's evaluator has wrong, or only in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as ReferenceLoop


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
        values = dict(context or {})
        carried, scanned = list(args), [list[Any]() for _ in range(self.K)]
        done, going = 0, cond is None or bool(np.asarray(cond).reshape(-1)[0])
        limit = None if M is None else int(np.asarray(M).reshape(-1)[0])
        while going and (limit is None or done < limit):
            feeds = dict(zip(body.input_names, [np.array(done, np.int64), np.array(going), *carried], strict=False))
            going_out, *outputs = body.run(None, values | feeds)
            going, carried = bool(np.asarray(going_out).reshape(-1)[0]), outputs[: self.N]
            for seen, new in zip(scanned, outputs[self.N :], strict=True):
                seen.append(new)
            done += 1
        return (*carried, *(np.stack(s) if s else np.zeros((0,), np.float32) for s in scanned))


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
        if self.run_params["opsets"].get("", 1) < 9:
            return self._batched(args, dict(context or {}))
        return self._scan(args, dict(context or {}), self._list("scan_input_directions"))

    def _batched(self, args: Sequence[Any], outer: dict[str, Any]) -> tuple[Any, ...]:
        """Opset 8: a batch in front of everything, each of a length of its own; what is behind that stays zero."""
        lengths, values = args[0], args[1:]
        states = len(values) - self._count
        rows = []
        for b in range(len(values[0])):
            length = None if lengths is None else int(lengths[b])
            row = [v[b] if i < states else v[b][:length] for i, v in enumerate(values)]
            rows.append(self._scan(row, outer, self._list("directions")))
        whole = values[states].shape[1]
        return tuple(
            np.stack([r if i < states else _lengthened(r, whole) for r in column])
            for i, column in enumerate(zip(*rows, strict=True))
        )

    def _scan(self, args: Sequence[Any], outer: dict[str, Any], backwards: list[int]) -> tuple[Any, ...]:
        body = getattr(self, "body")  # noqa: B009  # the base class sets it from the attribute
        states = list(args[: len(args) - self._count])
        sources = [np.moveaxis(v, a, 0) for v, a in _with_default(args[len(states) :], self._list("scan_input_axes"))]
        sources = [v[::-1] if back else v for v, back in _with_default(sources, backwards)]
        seen: list[list[Any]] = [[] for _ in body.output_names[len(states) :]]
        carried = states
        for step in range(len(sources[0])):
            feeds = dict(zip(body.input_names, [*carried, *(v[step] for v in sources)], strict=True))
            outputs = body.run(None, outer | feeds)
            carried = outputs[: len(states)]
            for one, new in zip(seen, outputs[len(states) :], strict=True):
                one.append(new)
        made = [np.stack(s) if s else np.zeros((0,), np.float32) for s in seen]
        made = [v[::-1] if back else v for v, back in _with_default(made, self._list("scan_output_directions"))]
        return (*carried, *(np.moveaxis(v, 0, a) for v, a in _with_default(made, self._list("scan_output_axes"))))

    @property
    def _count(self) -> int:
        """How many inputs are scanned."""
        return int(getattr(self, "num_scan_inputs"))  # noqa: B009  # the base class sets it from the attribute

    def _list(self, name: str) -> list[int]:
        return list(getattr(self, name, None) or ())


def _with_default(values: Sequence[Any], settings: list[int]) -> list[tuple[Any, int]]:
    """The values, each with its axis or direction, 0 where none is given."""
    return [(v, settings[i] if i < len(settings) else 0) for i, v in enumerate(values)]


def _lengthened(x: Any, length: int) -> Any:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)]) if len(x) < length else x
