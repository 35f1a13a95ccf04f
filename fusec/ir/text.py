"""The text form of graphs: `parse_graph(print_graph(g))` is the same graph again.

    graph mlp(x: f32[N, 128]) {
      require N >= 2 for "Conv '/conv': kernel_shape [2] reaches over 2 elements, the padded input has" from ("/conv")
      weight w: f32[128, 4] = init("fc1.weight")
      weight b: f32[4] = init("fc1.bias") {0.5, -0.0, nan, 1e-05}
      h: f32[N, 4] = matmul(x, w) from ("/fc1/MatMul")
      y: f32[N, 4] = add(h, b)
      return y
    }

Grammar; blanks, newlines and `;` may stand between any two tokens, and `#` starts a comment that ends with its line:

    graph     = "graph" name "(" [value {"," value}] ")" "{" {require | weight | node} "return" [name {"," name}] "}"
    value     = name ":" type
    require   = "require" dimension (">=" | "==") integer "for" string ["from" "(" [string {"," string}] ")"]
    weight    = "weight" value ["=" recipe] ["{" data "}"]
    node      = target {"," target} "=" op ["[" key "=" attr {"," key "=" attr} "]"] "(" [operand {"," operand}] ")"
                ["from" "(" [string {"," string}] ")"]
    target    = name [":" type]                  without a type: what the op's rule infers
    operand   = name | "none"                    none: an optional input that is absent
    name      = identifier | string              a string is written as in JSON
    recipe    = text up to the end of its line or a "{" outside strings; a string where it would not survive that
    data      = literals, row by row | b64 string of the bytes | random(seed), for tests
    attr      = none | true | false | integer | float | string | b64 string | dtype | dimension | type
              | "(" [attr {"," attr} [","]] ")"

Values are declared before they are read. Weights of up to 16 elements are written out; the arrays of larger ones are given
to the parser by name. Text from outside is only read, never evaluated; what it gets wrong is a PlanError with its line.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.errors import BugError
from fusec.ir.dim import Dim
from fusec.ir.graph import Attr, Graph, Node, Value, Weight
from fusec.ir.parse import RESERVED, parse_graph, scan_recipe
from fusec.ir.requirement import Requirement
from fusec.ir.types import DType, TensorType

__all__ = ["parse_graph", "print_graph", "print_name", "print_node"]

MOST_ELEMENTS = 16


def print_graph(graph: Graph) -> str:
    """The graph as text, one line per requirement, weight and node."""
    lines = [f"graph {print_name(graph.name)}({', '.join(map(_value, graph.inputs))}) {{"]
    lines += [f"  {_requirement(r)}" for r in graph.requirements]
    lines += [f"  {_weight(w)}" for w in graph.weights.values()]
    lines += [f"  {print_node(n)}" for n in graph.nodes]
    lines += ["  return " + ", ".join(print_name(v.name) for v in graph.outputs), "}"]
    return "\n".join(line.rstrip() for line in lines)


def print_node(n: Node) -> str:
    """One node as a line of the graph's text."""
    attrs = f"[{', '.join(f'{k}={_attr(v)}' for k, v in n.attrs)}]" if n.attrs else ""
    operands = ", ".join("none" if v is None else print_name(v.name) for v in n.inputs)
    return f"{', '.join(map(_value, n.outputs))} = {n.op}{attrs}({operands}){_origin(n.origin)}"


def print_name(name: str) -> str:
    """A name as an identifier where it looks like one, as an escaped string otherwise."""
    plain = re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) and name not in RESERVED
    return name if plain else json.dumps(name)


def _value(v: Value) -> str:
    return f"{print_name(v.name)}: {v.type}"


def _origin(origin: tuple[str, ...]) -> str:
    return f" from ({', '.join(map(json.dumps, origin))})" if origin else ""


def _requirement(r: Requirement) -> str:
    return f"require {r} for {json.dumps(r.what)}{_origin(r.origin)}"


def _weight(w: Weight) -> str:
    recipe = w.recipe if scan_recipe(w.recipe) else json.dumps(w.recipe)
    data = f" {{{_data(w.array)}}}" if w.array.size <= MOST_ELEMENTS else ""
    return f"weight {_value(w.value)} = {recipe}{data}"


def _data(array: npt.NDArray[Any]) -> str:
    dtype = DType.of(array.dtype)
    if dtype is DType.STRING:
        return ", ".join(json.dumps(_text(s)) for s in array.flat)
    plain_nans = np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array) if dtype.is_float else array
    if dtype.is_float and plain_nans.tobytes() == array.tobytes():
        return ", ".join(_float(float(x)) for x in array.astype(np.float64).flat)
    if dtype.is_native and not dtype.is_float:
        return ", ".join(_attr(x) for x in array.ravel().tolist())
    return f'b64"{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")}"'


def _text(s: object) -> str:
    return s.decode("utf-8", "surrogateescape") if isinstance(s, bytes) else str(s)


def _float(x: float) -> str:
    if math.isnan(x):
        return "nan"
    return repr(x)  # the shortest text that reads back as the same number


def _attr(x: Attr) -> str:
    match x:
        case None:
            return "none"
        case bool():
            return "true" if x else "false"
        case int():
            return str(x)
        case float():
            return _float(x)
        case str():
            return json.dumps(x)
        case bytes():
            return f'b64"{base64.b64encode(x).decode("ascii")}"'
        case DType() | TensorType():
            return str(x)
        case Dim():
            return f"1*{x}" if str(x) in RESERVED else str(x)
        case tuple():
            return f"({', '.join(map(_attr, x))}{',' if len(x) == 1 else ''})"
    raise BugError(f"an attribute of type {type(x).__name__} has no text form")
