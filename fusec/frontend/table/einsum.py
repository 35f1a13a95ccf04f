"""Einsum equations of one or two operands as transposes, sums and one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.frontend.builder import NotNative
from fusec.frontend.call import Call
from fusec.ir.dim import Extent, product
from fusec.ir.graph import Value


def einsum(call: Call, equation: str, operands: Sequence[Value]) -> Value:
    """The value of an equation: operands are contracted from left to right."""
    labels, output = _parse(call, equation, operands)
    left, names = _without_diagonals(call, operands[0], labels[0])
    for i in range(1, len(operands)):
        right, others = _without_diagonals(call, operands[i], labels[i])
        later = set(output).union(*labels[i + 1 :])
        a, a_names = _summed(call, left, names, later | set(others))
        b, b_names = _summed(call, right, others, later | set(names))
        wanted = (
            output if i == len(operands) - 1 else "".join(n for n in dict.fromkeys(a_names + b_names) if n in later)
        )
        left, names = _product(call, a, a_names, b, b_names, wanted), wanted
    return _arranged(call, *_summed(call, left, names, set(output)), output)


def _without_diagonals(call: Call, x: Value, names: str) -> tuple[Value, str]:
    """Labels that stand twice at one operand pick the elements whose indices there are equal."""
    while (twice := next((n for n in names if names.count(n) > 1), None)) is not None:
        i, j = names.index(twice), names.rindex(twice)
        n = x.shape[i]
        if not isinstance(n, int):
            raise NotNative(f"a diagonal of {n} elements")
        rest = [d for d in range(len(names)) if d not in (i, j)]
        x = call.transpose(x, (*rest, i, j))
        lead = x.shape[:-2]
        x = call.reshape(x, (*lead, n * n))
        zeros, ones = (0,) * (len(lead) + 1), (1,) * len(lead)
        x = call.emit("slice", x, starts=zeros, sizes=(*lead, n), steps=(*ones, n + 1))
        names = "".join(names[d] for d in rest) + twice
    return x, names


def _product(call: Call, a: Value, a_names: str, b: Value, b_names: str, output: str) -> Value:
    shared = [n for n in a_names if n in b_names]
    batch = "".join(n for n in shared if n in output)
    inner = "".join(n for n in shared if n not in output)
    left = "".join(n for n in a_names if n not in shared)
    right = "".join(n for n in b_names if n not in shared)
    a = _arranged(call, a, a_names, batch + left + inner)
    b = _arranged(call, b, b_names, batch + inner + right)
    nb, nl, ni = len(batch), len(left), len(inner)
    batch_shape, a_shape, b_shape = a.shape[:nb], a.shape[nb : nb + nl], b.shape[nb + ni :]
    if any(p != q for p, q in zip(a.shape[:nb], b.shape[:nb])):
        raise NotNative("einsum batch sizes that broadcast")
    k = product(a.shape[nb + nl :])
    rows = call.reshape(a, (*batch_shape, product(a_shape), k))
    columns = call.reshape(b, (*batch_shape, product(b.shape[nb : nb + ni]), product(b_shape)))
    out = call.reshape(call.matmul(rows, columns), (*batch_shape, *a_shape, *b_shape))
    return _arranged(call, out, batch + left + right, output)


def _arranged(call: Call, x: Value, names: str, wanted: str) -> Value:
    return call.transpose(x, [names.index(n) for n in wanted])


def _summed(call: Call, x: Value, names: str, kept: set[str]) -> tuple[Value, str]:
    axes = tuple(i for i, n in enumerate(names) if n not in kept)
    if not axes:
        return x, names
    return call.emit("reduce_sum", x, axes=axes, keepdims=False), "".join(n for n in names if n in kept)


def _parse(call: Call, equation: str, operands: Sequence[Value]) -> tuple[list[str], str]:
    """Labels of every operand and of the output, with the dimensions of `...` as upper-case Greek letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise call.error(f"the equation {equation!r} has {len(terms)} operands, the node {len(operands)}")
    spare = [len(x.shape) - len(t.replace("...", "")) for t, x in zip(terms, operands)]
    most = max((s for t, s in zip(terms, spare) if "..." in t), default=0)
    greek = "".join(chr(0x391 + i) for i in range(most))
    labels = []
    for term, extra, x in zip(terms, spare, operands):
        if extra < 0 or ("..." not in term and extra):
            raise call.error(f"the term {term!r} of the equation does not fit {x.type}")
        labels.append(term.replace("...", greek[most - extra :] if extra else ""))
    if not arrow:
        plain = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted(n for n in set(plain) if plain.count(n) == 1))
    output = right.replace("...", greek)
    known = set("".join(labels))
    if len(set(output)) != len(output) or not set(output) <= known:
        raise call.error(f"the output of the equation {equation!r} does not fit its operands")
    _check_sizes(call, equation, labels, operands)
    return labels, output


def _check_sizes(call: Call, equation: str, labels: Sequence[str], operands: Sequence[Value]) -> None:
    sizes: dict[str, Extent] = {}
    for names, x in zip(labels, operands):
        for name, d in zip(names, x.shape):
            before = sizes.setdefault(name, d)
            if before != d:
                if isinstance(before, int) and isinstance(d, int) and 1 not in (before, d):
                    raise call.error(f"label {name!r} of {equation!r} is {before} and {d}")
                raise NotNative("einsum sizes that broadcast or that only a run can compare")
