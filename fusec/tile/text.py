"""The text form of tile programs: `parse_program(print_program(p)) == p`, dtypes of every expression included.

Loads take their dtype from the operand, lets from what they name. A literal takes the dtype of what it is combined with;
where there is nothing to take it from it is written `f32(0.5)`. The same form around anything else is a cast. `index(i + 1)`
is a polynomial as an i64 value, `pad(x[i - 1], 0.0)` a guarded load, `y[i + 1]: partial = t` a guarded store, `x[()]` the
element of a scalar.
"""

from __future__ import annotations

from itertools import groupby

from fusec.ir.dim import Dim, Extent
from fusec.ir.expr import COMPARISONS, Const, Expr, Index, Load, Prim, Ref
from fusec.ir.types import DType
from fusec.tile.parse import parse_program
from fusec.tile.program import Axis, Fold, Let, Operand, Stage, Statement, Store, TileProgram

__all__ = ["parse_program", "print_expr", "print_program"]

INFIX = {
    "or": ("or", 1), "and": ("and", 2), "lt": ("<", 4), "le": ("<=", 4), "gt": (">", 4), "ge": (">=", 4), "eq": ("==", 4),
    "ne": ("!=", 4), "bitor": ("|", 5), "bitxor": ("^", 6), "bitand": ("&", 7), "shl": ("<<", 8), "shr": (">>", 8),
    "add": ("+", 9), "sub": ("-", 9), "mul": ("*", 10), "div": ("/", 10), "floordiv": ("//", 10), "mod": ("%", 10),
}  # fmt: skip
"""Primitive -> Python's operator and how tightly it binds."""
PREFIX = {"not": ("not ", 3), "neg": ("-", 11), "bitnot": ("~", 11)}


def print_program(p: TileProgram) -> str:
    """The program as text, one line per role, stage head and statement."""
    lines = [f"program {p.name}({', '.join(p.params)})"]
    lines.append(f"task {', '.join(map(_axis, p.axes))}".rstrip())
    for role, operands in groupby(p.operands, lambda o: o.role):
        lines.append(f"{role} {', '.join(map(_operand, operands))}")
    for stage in p.stages:
        lines.append(f"stage {', '.join(a if isinstance(a, str) else _axis(a) for a in stage.axes)}".rstrip())
        lines += [f"  {_statement(s, stage, p)}" for s in stage.body]
    return "\n".join(lines)


def print_expr(e: Expr, expected: DType | None = None) -> str:
    """An expression; a literal is bare where its place implies the dtype `expected`."""
    return _show(e, expected, 0)


def _axis(a: Axis) -> str:
    return f"{'seq ' if a.sequential else ''}{a.name}: {a.extent}"


def _operand(o: Operand) -> str:
    return f"{o.name}: {o.dtype}" + ("" if o.role == "scalar" else f"[{', '.join(map(str, o.shape))}]")


def _statement(s: Statement, stage: Stage, p: TileProgram) -> str:
    match s:
        case Let(name, value):
            return f"{name} = {print_expr(value)}"
        case Fold(name, monoid, args):
            return f"{name} = {monoid}[{', '.join(map(_axis, stage.folds))}]({', '.join(map(print_expr, args))})"
        case Store(operand, index, value, partial):
            guard = ": partial" if partial else ""
            return f"{operand}[{_index(index)}]{guard} = {print_expr(value, p.operand[operand].dtype)}"


def _index(index: tuple[Extent | Expr, ...]) -> str:
    return ", ".join(str(i) if isinstance(i, int | Dim) else _show(i, None, 0) for i in index) or "()"


def _show(e: Expr, expected: DType | None, level: int) -> str:
    match e:
        case Const(value, dtype):
            return f"{value!r}" if expected is dtype else f"{dtype}({value!r})"
        case Ref(name, _):
            return name
        case Index(value, dtype):
            return f"index({value})" if dtype is DType.I64 else f"index({value}, {dtype})"
        case Load(operand, index, dtype, fill):
            text = f"{operand}[{_index(index)}]"
            return text if fill is None else f"pad({text}, {_show(fill, dtype, 0)})"
        case Prim("cast", (x,), dtype):
            return f"{dtype}({_show(x, None, 0)})"
    inner = _argument_dtype(e, expected)
    if e.name in INFIX:
        operator, own = INFIX[e.name]
        # comparisons do not chain, so both sides bind tighter; the others group to the left
        left, right = (_show(a, inner, own + (i or own == 4)) for i, a in enumerate(e.args))
        return _bracket(f"{left} {operator} {right}", own, level)
    if e.name in PREFIX and not (e.name == "neg" and isinstance(e.args[0], Const)):
        operator, own = PREFIX[e.name]
        return _bracket(operator + _show(e.args[0], inner, own), own, level)
    wanted = [inner] * len(e.args)
    if e.name == "where":
        wanted[0] = DType.BOOL
    return f"{e.name}({', '.join(_show(a, d, 0) for a, d in zip(e.args, wanted, strict=True))})"


def _bracket(text: str, own: int, level: int) -> str:
    return f"({text})" if own < level else text


def _argument_dtype(e: Prim, expected: DType | None) -> DType | None:
    """The dtype that bare literals among the arguments have, where the text says so by other means."""
    values = e.args[1:] if e.name == "where" else e.args
    if any(map(_says_its_dtype, values)):
        return values[0].dtype
    return expected if e.name not in COMPARISONS and e.dtype is values[0].dtype else None


def _says_its_dtype(e: Expr) -> bool:
    """Whether the parser finds the dtype in the text of `e` alone."""
    todo = [e]
    while todo:
        match todo.pop():
            case Prim("cast", _, _) | Load() | Ref() | Index():
                return True
            case Prim(name, args, dtype):
                if dtype is DType.BOOL:
                    return True
                todo += args[1:] if name == "where" else args
    return False
