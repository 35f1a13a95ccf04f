"""Reading tile programs back from text: Python's grammar, line by line, bounded and never evaluated."""

from __future__ import annotations

import ast
import re

from fusec.errors import FusecError, PlanError
from fusec.ir.dim import Extent, parse_dim
from fusec.ir.expr import COMPARISONS, PATTERNS, PRIMITIVES, TESTS, Const, Expr, Index, Load, Prim, Ref, prim
from fusec.ir.types import DType, parse_type, split_top
from fusec.tile.fold import fold_rule
from fusec.tile.program import ROLES, Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram

MAX_LINE, MAX_LINES = 1 << 16, 1 << 16
BINARY: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.BitOr: "bitor", ast.BitXor: "bitxor", ast.BitAnd: "bitand", ast.LShift: "shl", ast.RShift: "shr",
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne", ast.And: "and", ast.Or: "or",
}  # fmt: skip
UNARY: dict[type[ast.AST], str] = {ast.USub: "neg", ast.Not: "not", ast.Invert: "bitnot"}
DTYPES = {d.value: d for d in DType}
SPECIAL = {"inf": float("inf"), "nan": float("nan")}


def parse_program(text: str) -> TileProgram:
    """Read what `print_program` wrote; blank lines and `#` comments are skipped. PlanError where it is anything else."""
    lines = text.splitlines()
    if len(lines) > MAX_LINES or any(len(line) > MAX_LINE for line in lines):
        raise PlanError(f"a tile program of more than {MAX_LINES} lines or {MAX_LINE} characters a line")
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        line = line.split("#")[0].rstrip()
        if not line.strip():
            continue
        try:
            reader.line(line)
        except (SyntaxError, ValueError, KeyError, FusecError, RecursionError, MemoryError) as e:
            raise PlanError(f"tile program, line {number}: cannot read {line.strip()!r}: {e}") from e
    return reader.program()


class _Reader:
    """What has been read so far: the dtypes of names, and which names are axes or parameters."""

    def __init__(self) -> None:
        self.name = ""
        self.params: tuple[str, ...] = ()
        self.axes: tuple[Axis, ...] = ()
        self.operands: dict[str, Operand] = {}
        self.stages: list[Stage] = []
        self.refs: dict[str, DType] = {}
        self.dims: set[str] = set()
        self.own: set[str] = set()
        self.known: dict[int, DType | None] = {}

    def program(self) -> TileProgram:
        if not self.name:
            raise PlanError("not a tile program: it does not begin with `program`")
        return TileProgram(self.name, self.params, self.axes, tuple(self.operands.values()), tuple(self.stages))

    def line(self, line: str) -> None:
        if line.startswith("  "):
            self.statement(line.strip())
            return
        key, _, rest = line.partition(" ")
        match key:
            case "program":
                m = re.fullmatch(r"(\w+)\((.*)\)", rest)
                if m is None or self.name:
                    raise ValueError("expected `program name(params)` once")
                self.name, self.params = m[1], tuple(split_top(m[2]))
                self.dims.update(self.params)
            case "task":
                self.axes = tuple(_axis(a) for a in split_top(rest))
                self.dims.update(a.name for a in self.axes)
            case "stage":
                names = {a.name for a in self.axes}
                axes = tuple(a if a in names else _axis(a) for a in split_top(rest))
                self.stages.append(Stage(axes, (), ()))
                self.own = {a.name for a in axes if isinstance(a, Axis)}
            case _ if key in ROLES:
                for part in split_top(rest):
                    self.operand(key, part)
            case _:
                raise ValueError("expected program, task, stage, a role or an indented statement")

    def operand(self, role: str, text: str) -> None:
        name, _, rest = text.partition(":")
        if role == "scalar":
            o = Operand(name, role, DTYPES[rest.strip()], ())
            self.refs[name] = o.dtype
        else:
            t = parse_type(rest)
            o = Operand(name, role, t.dtype, t.shape or ())  # type: ignore[union-attr]
        if name in self.operands:
            raise ValueError(f"operand {name!r} is declared twice")
        self.operands[name] = o

    def statement(self, text: str) -> None:
        if not self.stages:
            raise ValueError("a statement outside any stage")
        (line,) = ast.parse(text).body
        self.known.clear()
        stage, folds = self.stages[-1], self.stages[-1].folds
        match line:
            case ast.Assign(targets=[target], value=value):
                folds, s = self.assign(target, value, stage)
            case ast.AnnAssign(
                target=ast.Subscript() as target, annotation=ast.Name(id="partial"), value=ast.expr() as value
            ):
                s = self.store(target, value, partial=True)
            case _:
                raise ValueError("expected an assignment")
        self.stages[-1] = Stage(stage.axes, folds, (*stage.body, s))

    def assign(self, target: ast.expr, value: ast.expr, stage: Stage) -> tuple[tuple[Axis, ...], Statement]:
        if isinstance(target, ast.Subscript):
            return stage.folds, self.store(target, value, partial=False)
        name = _name(target)
        match value:
            case ast.Call(func=ast.Subscript(value=ast.Name(id=monoid), slice=axes), args=args, keywords=[]):
                folds = tuple(_slice_axis(a) for a in (axes.elts if isinstance(axes, ast.Tuple) else [axes]))
                if stage.folds and folds != stage.folds:
                    raise ValueError("all folds of a stage run over the same axes")
                self.own |= {a.name for a in folds}
                fold = Fold(name, monoid, tuple(self.expr(a, None) for a in args))
                self.refs[name] = fold_rule(monoid, fold.args[0].dtype).finish[0].dtype
                return folds, fold
        let = Let(name, self.expr(value, None))
        self.refs[name] = let.value.dtype
        return stage.folds, let

    def store(self, target: ast.Subscript, value: ast.expr, partial: bool) -> Store:
        name = _name(target.value)
        return Store(name, self.index(target), self.expr(value, self.operands[name].dtype), partial)

    def index(self, t: ast.Subscript) -> tuple[Extent | Expr, ...]:
        parts = t.slice.elts if isinstance(t.slice, ast.Tuple) else [t.slice]
        return tuple(parse_dim(ast.unparse(p)) if self.is_dim(p) else self.expr(p, None) for p in parts)

    def is_dim(self, t: ast.AST) -> bool:
        """A polynomial mentions no let, no operand and no `index(...)`; fold axes may be used before the fold names them."""
        names = [n for n in ast.walk(t) if isinstance(n, ast.Name | ast.Subscript)]
        calls = {id(c.func) for c in ast.walk(t) if isinstance(c, ast.Call)}
        free = [n.id for n in names if isinstance(n, ast.Name) and id(n) not in calls]
        functions = [n.id for n in names if isinstance(n, ast.Name) and id(n) in calls]
        return (
            not any(isinstance(n, ast.Subscript) for n in names)
            and not any(n in self.refs for n in free)
            and not any(n == "index" or n in DTYPES for n in functions)
        )

    def expr(self, t: ast.AST, expected: DType | None) -> Expr:
        """The expression; bare literals take `expected`."""
        if (literal := _literal(t)) is not None:
            return self.const(literal, expected)
        match t:
            case ast.Name(id=name):
                return Ref(name, self.refs[name])
            case ast.Subscript(value=ast.Name(id=name)):
                return Load(name, self.index(t), self.operands[name].dtype)
            case ast.Call(func=ast.Name(id="index"), args=[x, *dtype], keywords=[]):
                return Index(parse_dim(ast.unparse(x)), DTYPES[_name(dtype[0])] if dtype else DType.I64)
            case ast.Call(func=ast.Name(id="pad"), args=[ast.Subscript() as x, fill], keywords=[]):
                load = self.expr(x, None)
                assert isinstance(load, Load)
                value = self.expr(fill, load.dtype)
                if not isinstance(value, Const):
                    raise ValueError("the fill of a load is a literal")
                return Load(load.operand, load.index, load.dtype, value)
            case ast.Call(func=ast.Name(id=name), args=[x], keywords=[]) if name in DTYPES:
                inner = _literal(x)
                return (
                    self.const(inner, DTYPES[name])
                    if inner is not None
                    else prim("cast", self.expr(x, None), dtype=DTYPES[name])
                )
        name, args = _applied(t)
        return self.apply(name, args, expected)

    def const(self, value: float | int | bool, dtype: DType | None) -> Const:
        if dtype is None:
            if not isinstance(value, bool):
                raise ValueError(
                    f"the dtype of the literal {value!r} is not known here: write f32({value!r}) or the like"
                )
            dtype = DType.BOOL
        return Const(value, dtype)

    def apply(self, name: str, args: list[ast.expr], expected: DType | None) -> Prim:
        if name not in PRIMITIVES or name == "cast" or not args:
            raise ValueError(f"unknown function {name!r}")
        if len(args) > 2 and name in ("and", "or"):  # Python keeps a chain in one node
            first = self.apply(name, args[:-1], DType.BOOL)
            return prim(name, first, self.expr(args[-1], DType.BOOL))
        values = args[1:] if name == "where" else args
        inner = next((d for a in values if (d := self.dtype(a)) is not None), None)
        if inner is None and name not in COMPARISONS | TESTS:
            inner = expected
        condition = [self.expr(args[0], DType.BOOL)] if name == "where" else []
        return prim(name, *condition, *(self.expr(a, inner) for a in values))

    def dtype(self, t: ast.AST) -> DType | None:
        """The dtype that the text alone says; None for bare literals and what is made of them."""
        if id(t) not in self.known:
            self.known[id(t)] = self._dtype(t)
        return self.known[id(t)]

    def _dtype(self, t: ast.AST) -> DType | None:
        if (literal := _literal(t)) is not None:
            return DType.BOOL if isinstance(literal, bool) else None
        match t:
            case ast.Name(id=name):
                return self.refs[name]
            case ast.Subscript(value=ast.Name(id=name)):
                return self.operands[name].dtype
            case ast.Call(func=ast.Name(id="index"), args=[_, *dtype]):
                return DTYPES[_name(dtype[0])] if dtype else DType.I64
            case ast.Call(func=ast.Name(id="pad"), args=[x, _]):
                return self.dtype(x)
            case ast.Call(func=ast.Name(id=name)) if name in DTYPES:
                return DTYPES[name]
        name, args = _applied(t)
        if name in COMPARISONS | TESTS | {"and", "or", "not", "xor"}:
            return DType.BOOL
        if name == "bits":
            inner = self.dtype(args[0])
            return None if inner is None else PATTERNS.get(inner)
        return next((d for a in (args[1:] if name == "where" else args) if (d := self.dtype(a)) is not None), None)


def _applied(t: ast.AST) -> tuple[str, list[ast.expr]]:
    match t:
        case ast.BinOp(left=a, op=op, right=b) if type(op) in BINARY:
            return BINARY[type(op)], [a, b]
        case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in BINARY:
            return BINARY[type(op)], [a, b]
        case ast.BoolOp(op=op, values=values):
            return BINARY[type(op)], values
        case ast.UnaryOp(op=op, operand=x) if type(op) in UNARY:
            return UNARY[type(op)], [x]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return name, args
    raise ValueError(f"not an expression: {ast.unparse(t)!r}")


def _literal(t: ast.AST) -> float | int | bool | None:
    match t:
        case ast.Constant(value=float() | int() as v):
            return v
        case ast.Name(id=name) if name in SPECIAL:
            return SPECIAL[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float() | int() as v)) if not isinstance(v, bool):
            return -v
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if name in SPECIAL:
            return -SPECIAL[name]
    return None


def _axis(text: str) -> Axis:
    m = re.fullmatch(r"(seq )?(\w+):(.*)", text)
    if m is None:
        raise ValueError(f"expected `axis: extent`, got {text!r}")
    return Axis(m[2], parse_dim(m[3]), m[1] is not None)


def _slice_axis(t: ast.AST) -> Axis:
    match t:
        case ast.Slice(lower=ast.Name(id=name), upper=ast.expr() as extent, step=None):
            return Axis(name, parse_dim(ast.unparse(extent)))
    raise ValueError("a fold names its axes and their extents: sum[k: K](...)")


def _name(t: ast.AST) -> str:
    if not isinstance(t, ast.Name):
        raise ValueError(f"expected a name, got {ast.unparse(t)!r}")
    return t.id
