"""Equal expressions become one object, names of lets disappear: what is written twice is then computed once."""

from __future__ import annotations

from fusec.ir.dim import Dim, Extent, symbols_of
from fusec.ir.expr import Const, Expr, Index, Load, Prim, Ref


class Interner:
    """Canonical expressions: equal ones are identical, so tables of values can go by identity."""

    def __init__(self) -> None:
        self.lets: dict[str, Expr] = {}
        """Name -> canonical expression; `intern` puts these in place of Refs."""
        self._table: dict[object, Expr] = {}
        self._symbols: dict[int, frozenset[str]] = {}
        self._done: dict[int, tuple[Expr, Expr]] = {}

    def intern(self, e: Expr) -> Expr:
        """The canonical object for an expression."""
        known = self._done.get(id(e))
        if known is not None and known[0] is e:
            return known[1]
        out = self._canonical(e)
        if not isinstance(e, Ref):  # the meaning of a name may come later
            self._done[id(e)] = e, out
        return out

    def index(self, x: Extent) -> Expr:
        """The canonical Index of a polynomial."""
        return self._table.setdefault(("index", x), Index(x))

    def symbols(self, e: Expr) -> frozenset[str]:
        """Every axis and parameter in the indices of a canonical expression; each shared part is looked at once."""
        known = self._symbols.get(id(e))
        if known is None:
            match e:
                case Index(x):
                    known = symbols_of(x)
                case Prim(_, parts):
                    known = frozenset[str]().union(*map(self.symbols, parts))
                case Load(_, index):
                    known = frozenset[str]().union(
                        *(symbols_of(i) if isinstance(i, int | Dim) else self.symbols(i) for i in index)
                    )
                case _:
                    known = frozenset()
            self._symbols[id(e)] = known
        return known

    def _canonical(self, e: Expr) -> Expr:
        match e:
            case Ref(name):
                return self.lets.get(name) or self._table.setdefault(e, e)
            case Const():
                return self._table.setdefault(e, e)
            case Index(value):
                return self.index(value)
            case Prim(name, args, dtype):
                parts = tuple(self.intern(a) for a in args)
                return self._table.setdefault((name, tuple(map(id, parts)), dtype), Prim(name, parts, dtype))
            case Load(operand, index, dtype, fill):
                entries = tuple(i if isinstance(i, int | Dim) else self.intern(i) for i in index)
                key = ("load", operand, tuple(i if isinstance(i, int | Dim) else id(i) for i in entries), fill)
                return self._table.setdefault(key, Load(operand, entries, dtype, fill))
