"""The parser of the text form of graphs; `ir.text` states the grammar."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from fusec.errors import FusecError, PlanError, nearest
from fusec.ir.dim import parse_dim
from fusec.ir.graph import Attr, Graph, Node, Value, Weight
from fusec.ir.requirement import Requirement
from fusec.ir.types import DType, TensorType, Type, parse_type

RESERVED = frozenset("graph require weight return from none true false nan inf random".split()) | {
    d.value for d in DType
}
"""Words with a meaning of their own: values with such a name are written as strings."""
DEEPEST = 32
"""Nesting of attribute tuples beyond which a text is refused."""
MOST_RANDOM = 1 << 24
"""Elements of a random weight beyond which a text is refused."""

_BLANK = re.compile(r"(?:[\s;]|#[^\n]*)*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_NAME = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,400}")
_FLOAT = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")
_RECIPE = re.compile(r'(?:[^"{\n;#]|"(?:[^"\\\n]|\\.)*")*')
_SIZE = re.compile(r'[^{}\n;#">=]*')
_MARK = re.compile(r'[][(){},;\n#"=]')

T = TypeVar("T")


def parse_graph(text: str, weights: Mapping[str, npt.NDArray[Any]] | None = None) -> Graph:
    """Read what `print_graph` wrote; `weights` holds the arrays that the text leaves out, by name.

    PlanError naming the line where the text is not a graph.
    """
    return GraphParser(text, weights or {}).graph()


def scan_recipe(recipe: str) -> bool:
    """Whether a recipe can be written as it is, without quotes around it."""
    m = _RECIPE.fullmatch(recipe)
    return m is not None and bool(recipe) and recipe == recipe.strip() and recipe[0] != '"' and recipe.isprintable()


class GraphParser:
    """One method per rule of the grammar; each reads from where the one before it stopped, and fails with the line."""

    def __init__(self, text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.text = text
        self.at = 0
        self.arrays = arrays
        self.values: dict[str, Value] = {}

    def graph(self) -> Graph:
        """The whole text as a graph."""
        nodes: list[Node] = []
        whole = self.whole(lambda: nodes.append(self.node()))
        return replace(whole, nodes=tuple(nodes))

    def whole(self, statement: Callable[[], None]) -> Graph:
        """The whole text as a graph without its nodes: `statement` reads what is no requirement, weight or return."""
        self.word("graph")
        name = self.name()
        self.expect("(")
        inputs = tuple(self.listed(self.declared, ")"))
        self.expect("{")
        weights: dict[str, Weight] = {}
        requirements: list[Requirement] = []
        while not self.accept_word("return"):
            if self.accept_word("require"):
                requirements.append(self.requirement())
            elif self.accept_word("weight"):
                w = self.weight()
                weights[w.value.name] = w
            else:
                statement()
        outputs = tuple(self.listed(self.known, "}"))
        self.blank()
        if self.at != len(self.text):
            self.fail("text follows the graph")
        return Graph(name, inputs, outputs, (), weights, tuple(requirements))

    # statements

    def declared(self) -> Value:
        """A value with its type, where it is declared."""
        name = self.name()
        self.expect(":")
        return self.declare(Value(name, self.type()))

    def declare(self, v: Value) -> Value:
        """Make a value known. PlanError where its name is taken."""
        if v.name in self.values:
            self.fail(f"{v.name!r} is declared twice")
        self.values[v.name] = v
        return v

    def known(self) -> Value:
        """A value that was declared before, by name."""
        name = self.name()
        if name not in self.values:
            self.fail(f"{name!r} is not declared", hint=nearest(name, list(self.values)))
        return self.values[name]

    def operand(self) -> Value | None:
        """A known value, or None for the word `none`."""
        return None if self.accept_word("none") else self.known()

    def node(self) -> Node:
        """A node with its outputs, attributes, operands and origin."""
        start = self.at
        targets = [self.target()]
        while self.accept(","):
            targets.append(self.target())
        self.expect("=")
        op = self.match(_NAME, "the name of an op")
        attrs = sorted(self.listed(self.keyword, "]"), key=lambda kv: kv[0]) if self.accept("[") else []
        if len(dict(attrs)) != len(attrs):
            self.fail(f"{op}: an attribute is given twice")
        self.expect("(")
        operands = tuple(self.listed(self.operand, ")"))
        origin = self.origin()
        types = [t for _, t in targets if t is not None]
        if len(types) != len(targets):
            types = self.infer(op, operands, attrs, len(targets), start)
        outputs = tuple(self.declare(Value(name, t)) for (name, _), t in zip(targets, types, strict=True))
        return Node(op, operands, outputs, tuple(attrs), origin)

    def origin(self) -> tuple[str, ...]:
        """The ONNX nodes that something stands for; none where they are not written."""
        if not self.accept_word("from"):
            return ()
        self.expect("(")
        return tuple(self.listed(self.string, ")"))

    def requirement(self) -> Requirement:
        """What the graph needs of a size, after the word `require`."""
        text = self.match(_SIZE, "a dimension")
        is_exact = self.accept("==")
        if not is_exact:
            self.expect(">=")
        least = int(self.match(_INTEGER, "an integer"))
        self.word("for")
        what = self.string()
        try:
            return Requirement(parse_dim(text), least, is_exact, what, self.origin())
        except ValueError as e:
            self.fail(str(e)[:200])

    def target(self) -> tuple[str, Type | None]:
        """The name of an output, and its type where one is written."""
        name = self.name()
        return name, self.type() if self.accept(":") else None

    def keyword(self) -> tuple[str, Attr]:
        """An attribute with its name."""
        key = self.match(_NAME, "the name of an attribute")
        self.expect("=")
        return key, self.attr()

    def infer(
        self, op: str, operands: tuple[Value | None, ...], attrs: list[tuple[str, Attr]], count: int, start: int
    ) -> list[Type]:
        """The types that the op's rule gives to outputs that are written without."""
        from fusec.ops.op import get  # only text written by hand leaves types out

        try:
            types = get(op).infer([None if v is None else v.type for v in operands], dict(attrs))
        except (FusecError, KeyError, TypeError) as e:
            self.at = start
            self.fail(f"{op}: {e}")
        if len(types) != count:
            self.fail(f"{op} makes {len(types)} values, {count} are named")
        return list(types)

    def weight(self) -> Weight:
        """A weight with its recipe and its array, after the word `weight`."""
        v = self.declared()
        recipe = f"init({json.dumps(v.name)})"
        if self.accept("="):
            self.blank()
            quoted = self.text[self.at : self.at + 1] == '"'
            recipe = self.string() if quoted else self.match(_RECIPE, "a recipe").strip()
        if not isinstance(v.type, TensorType) or not v.type.is_static:
            self.fail(f"weight {v.name!r} needs the type of a tensor with known sizes, got {v.type}")
        array = self.data(v.name, v.type) if self.accept("{") else self.given(v.name, v.type)
        return Weight(v, array, recipe)

    def given(self, name: str, t: TensorType) -> npt.NDArray[Any]:
        """The array of a weight that is not written out."""
        if name not in self.arrays:
            self.fail(f"weight {name!r} is not written out, and no array of that name was given")
        array = self.arrays[name]
        if DType.of(array.dtype) is not t.dtype or array.shape != t.shape:
            self.fail(f"weight {name!r} is {t}, the array given is {array.dtype}{list(array.shape)}")
        return array

    def data(self, name: str, t: TensorType) -> npt.NDArray[Any]:
        """The array of a weight that is written out, after its bracket."""
        shape = tuple(int(str(d)) for d in t.dims)
        if self.accept_word("random"):
            self.expect("(")
            seed = self.attr()
            self.expect(")")
            self.expect("}")
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                self.fail("random takes a seed")
            if min(shape, default=1) < 0 or math.prod(shape) > MOST_RANDOM:
                self.fail(f"no random weight is that large: {t}")
            return random_array(t.dtype, shape, seed)
        flat = list(self.listed(self.attr, "}"))
        try:
            return _array(flat, t.dtype, shape)
        except (ValueError, TypeError, OverflowError) as e:
            self.fail(f"weight {name!r} is {t}, its data does not fit: {e}")

    # attributes

    def attr(self, depth: int = 0) -> Attr:
        """The value of an attribute."""
        self.blank()
        if depth > DEEPEST:
            self.fail("attributes are nested too deep")
        if self.accept("("):
            return tuple(self.listed(lambda: self.attr(depth + 1), ")"))
        if self.text[self.at : self.at + 1] == '"':
            return self.string()
        if self.text.startswith('b64"', self.at):
            self.at += 3
            try:
                return base64.b64decode(self.string(), validate=True)
            except (binascii.Error, ValueError):
                self.fail("not base64")
        start = self.at
        try:
            return _atom(self.raw())
        except ValueError as e:
            self.at = start
            self.fail(str(e))

    # tokens

    def blank(self) -> None:
        """Skip blanks, newlines, semicolons and comments."""
        m = _BLANK.match(self.text, self.at)
        self.at = m.end() if m else self.at

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        """What a pattern matches here; `what` says in the error what was expected."""
        self.blank()
        m = pattern.match(self.text, self.at)
        if m is None or not m[0]:
            self.fail(f"expected {what}, found {self.next()}")
        self.at = m.end()
        return m[0]

    def name(self) -> str:
        """An identifier that is no reserved word, or a string."""
        self.blank()
        if self.text[self.at : self.at + 1] == '"':
            return self.string()
        name = self.match(_NAME, "a name")
        if name in RESERVED:
            self.at -= len(name)
            self.fail(f"expected a name, found the word {name!r}", hint="write a value of that name as a string")
        return name

    def string(self) -> str:
        """A string as in JSON."""
        token = self.match(_STRING, "a string")
        try:
            return str(json.loads(token))
        except ValueError:
            self.fail(f"not a string: {token[:40]}")

    def type(self) -> Type:
        """The type of a value."""
        self.blank()
        start = self.at
        try:
            return parse_type(self.raw())
        except (ValueError, RecursionError) as e:
            self.at = start
            self.fail(str(e)[:200])

    def raw(self) -> str:
        """A dimension, a type or another bare word: up to what ends it outside of its brackets."""
        start, depth = self.at, 0
        for m in _MARK.finditer(self.text, start):
            c = m[0]
            if c in "([":
                depth += 1
            elif c in ")]" and depth:
                depth -= 1
            elif depth == 0 or c in '{}\n;#"=':
                self.at = m.start()
                break
        else:
            self.at = len(self.text)
        return self.text[start : self.at].strip()

    def accept(self, token: str) -> bool:
        """Whether a token stands here; if so, go past it."""
        self.blank()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def accept_word(self, word: str) -> bool:
        """Whether a whole word stands here; if so, go past it."""
        self.blank()
        m = _NAME.match(self.text, self.at)
        if m is None or m[0] != word:
            return False
        self.at = m.end()
        return True

    def word(self, word: str) -> None:
        """Go past a word that has to stand here."""
        if not self.accept_word(word):
            self.fail(f"expected {word!r}, found {self.next()}")

    def expect(self, token: str) -> None:
        """Go past a token that has to stand here."""
        if not self.accept(token):
            self.fail(f"expected {token!r}, found {self.next()}")

    def listed(self, item: Callable[[], T], close: str) -> list[T]:
        """Items between commas up to the closing bracket; a comma may follow the last."""
        out: list[T] = []
        while not self.accept(close):
            out.append(item())
            if not self.accept(","):
                self.expect(close)
                break
        return out

    def next(self) -> str:
        """What stands here, for an error."""
        self.blank()
        rest = self.text[self.at : self.at + 20].partition("\n")[0]
        return repr(rest) if rest else "the end"

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Raise PlanError with the line that was reached."""
        line = self.text.count("\n", 0, self.at) + 1
        raise PlanError(f"graph text, line {line}: {message}", hint=hint)


_WORDS: dict[str, Attr] = {"none": None, "true": True, "false": False, **{d.value: d for d in DType}}


def _atom(text: str) -> Attr:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if "[" in text:
        found = parse_type(text)
        if not isinstance(found, TensorType):
            raise ValueError(f"not the type of a tensor: {text[:200]!r}")
        return found
    return parse_dim(text)


def _array(flat: list[Attr], dtype: DType, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if dtype is DType.STRING:
        out = np.empty(len(flat), object)
        out[:] = flat
        return out.reshape(shape)
    if len(flat) == 1 and isinstance(flat[0], bytes):
        return np.frombuffer(flat[0], dtype.numpy).reshape(shape)
    wanted: tuple[type, ...] = (bool,) if dtype is DType.BOOL else (int, float) if dtype.is_float else (int,)
    bad = [x for x in flat if not isinstance(x, wanted) or (isinstance(x, bool) and dtype is not DType.BOOL)]
    if bad or not dtype.is_native:
        raise ValueError(f"not of {dtype}: {bad[:1]}")
    if dtype.is_float:
        with np.errstate(all="ignore"):
            return np.array(flat, np.float64).astype(dtype.numpy).reshape(shape)
    return np.array(flat, dtype.numpy).reshape(shape)


def random_array(dtype: DType, shape: tuple[int, ...], seed: int) -> npt.NDArray[Any]:
    """Numbers for tests: normal floats, integers from -4 to 8 (from 0 where unsigned), bools; the same for a seed."""
    rng = np.random.default_rng(seed)
    if dtype.is_float:
        return np.asarray(rng.standard_normal(shape)).astype(dtype.numpy)
    low = -4 if dtype.is_signed else 0
    return np.asarray(rng.integers(low, 2 if dtype is DType.BOOL else 9, shape)).astype(dtype.numpy)
