"""A thin builder of LLVM IR text: one function, fresh names, blocks, loops, typed operations. It knows no LLVM library.

Every `Value` carries its LLVM type, so operations need none. Blocks stay open until the text is made: `at` appends to an
earlier block, which is how loop-invariant work is hoisted without moving instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from fusec.errors import BugError

BITS = {
    "i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64,
}  # fmt: skip
"""Element types and their widths."""
_MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA name or a constant, as written, with its LLVM type."""

    type: str
    text: str

    @property
    def lanes(self) -> int:
        """Vector length, 0 for a scalar."""
        return lanes_of(self.type)

    @property
    def element(self) -> str:
        """The type of one lane."""
        return element_of(self.type)

    @property
    def is_constant(self) -> bool:
        """A literal rather than a name."""
        return not self.text.startswith(("%", "@"))

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


@cache
def lanes_of(type_: str) -> int:
    """Vector length of a type, 0 for a scalar."""
    return int(type_[1 : type_.index(" ")]) if type_[0] == "<" else 0


@cache
def element_of(type_: str) -> str:
    """The element type of a vector type; a scalar's own type."""
    return type_[type_.index("x ") + 2 : -1] if type_[0] == "<" else type_


@cache
def vector(lanes: int, element: str) -> str:
    """`<lanes x element>`, or the scalar type where `lanes` is 0."""
    return f"<{lanes} x {element}>" if lanes else element


@cache
def mangle(type_: str) -> str:
    """The suffix of an overloaded intrinsic: `v8f32`, `i64`, `p0`."""
    n, e = lanes_of(type_), element_of(type_)
    return (f"v{n}" if n else "") + _MANGLED.get(e, e)


def constant(type_: str, value: float | int | bool) -> Value:
    """A literal of a scalar type, or its splat. Integers wrap to the width; floats round to the type."""
    e, n = element_of(type_), lanes_of(type_)
    text = _literal(e, value)
    return Value(type_, f"splat ({e} {text})" if n else text)


def poison(type_: str) -> Value:
    """A value that nothing reads."""
    return Value(type_, "poison")


def _literal(e: str, value: float | int | bool) -> str:
    if e == "i1":
        return "true" if value else "false"
    if e[0] == "i":
        bits = int(e[1:])
        v = int(value) & ((1 << bits) - 1)
        return str(v - (1 << bits) if v >> (bits - 1) else v)
    if e == "float":
        try:
            single = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            single = float("inf") if value > 0 else float("-inf")
        return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"
    if e == "double":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    raise BugError(f"no literals of type {e}")


@dataclass(slots=True)
class Block:
    """A basic block; its parts are joined when the text is made."""

    label: str
    phis: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    terminator: str = ""


@dataclass(slots=True)
class Loop:
    """An open loop: `index` and `carried` are this iteration's values; assign `next` before it ends, `step` if it varies.

    After it, `results` are the carried values at the exit. `preheader` runs once before the first iteration, and not at
    all where there is none: the place for what the loop's body needs only once.
    """

    index: Value
    carried: tuple[Value, ...]
    preheader: Block
    step: Value
    next: Sequence[Value] = ()
    results: tuple[Value, ...] = ()


class Builder:
    """Builds one function `void name(params)`; parameters are `(LLVM type, attributes, name)`."""

    def __init__(self, name: str, params: Sequence[tuple[str, str, str]], module: Builder | None = None) -> None:
        self.name = name
        self.params = tuple(Value(t, f"%{n}") for t, _, n in params)
        self._signature = ", ".join(f"{t} {a} %{n}".replace("  ", " ") for t, a, n in params)
        self._count = 0
        self._labels = 0
        self._declared: dict[str, str] = {} if module is None else module._declared
        self._globals: dict[str, str] = {} if module is None else module._globals
        self._functions: dict[str, str] = {} if module is None else module._functions
        self._blocks: list[Block] = [Block("entry")]
        self.block = self._blocks[0]
        self.entry = self.block

    # ---- text

    def text(self) -> str:
        """The module: globals, the function and those that it calls, declarations. The current block returns."""
        own = self._function("define void")
        parts = [*self._globals.values(), own, *self._functions.values()]
        return "\n".join(
            [*parts, *(self._declared[n] for n in sorted(self._declared)), "attributes #0 = { nounwind }", ""]
        )

    def _function(self, head: str) -> str:
        if not self.block.terminator:
            self.block.terminator = "ret void"
        out = [f"{head} @{self.name}({self._signature}) #0 {{"]
        for block in self._blocks:
            if not block.terminator:
                raise BugError(f"block {block.label} of {self.name} does not end")
            out.append(f"{block.label}:")
            out += block.phis
            out += block.lines
            out.append(f"  {block.terminator}")
        return "\n".join([*out, "}"])

    def define(
        self, name: str, result: str, args: Sequence[Value], body: Callable[[Builder, tuple[Value, ...]], Value | None]
    ) -> Value:
        """Call an internal function, which `body` writes at its first use: for long code, and for code that branches."""
        if name not in self._functions:
            self._functions[name] = ""  # its place among the functions, should the body call others
            inner = Builder(name, [(a.type, "", f"p{k}") for k, a in enumerate(args)], self)
            value = body(inner, inner.params)
            inner.block.terminator = f"ret {value}" if value else "ret void"
            self._functions[name] = inner._function(f"define internal {result}")
        arguments = ", ".join(map(str, args))
        if result == "void":
            self.effect(f"call void @{name}({arguments})")
            return poison("i1")
        return self.emit(result, f"call {result} @{name}({arguments})")

    def table(self, name: str, element: str, values: Sequence[int]) -> Value:
        """The address of a constant array of integers."""
        words = ", ".join(f"{element} {v}" for v in values)
        self._globals[name] = f"@{name} = internal constant [{len(values)} x {element}] [{words}], align 64"
        return Value("ptr", f"@{name}")

    def constant_bytes(self, size: int) -> Value:
        """The address of `size` zero bytes, 64-byte aligned: where refused lanes of a gather read."""
        self._globals["zeros"] = f"@zeros = internal constant [{size} x i8] zeroinitializer, align 64"
        return Value("ptr", "@zeros")

    # ---- operations

    def stack(self, element: str, count: int) -> Value:
        """The address of `count` elements on the stack, for the time of this call."""
        with self.at(self.entry):
            return self.emit("ptr", f"alloca [{count} x {element}], align 64")

    def emit(self, type_: str, text: str) -> Value:
        """Append an instruction that yields a value of `type_`."""
        self._count += 1
        name = f"%v{self._count}"
        self.block.lines.append(f"  {name} = {text}")
        return Value(type_, name)

    def effect(self, text: str) -> None:
        """Append an instruction without a result."""
        self.block.lines.append(f"  {text}")

    def op(self, opcode: str, a: Value, b: Value, flags: str = "") -> Value:
        """A binary instruction (add, fmul, and, shl, ...) on two values of one type."""
        if a.type != b.type:
            raise BugError(f"{opcode} of {a} and {b}")
        return self.emit(a.type, f"{opcode} {flags + ' ' if flags else ''}{a.type} {a.text}, {b.text}")

    def fneg(self, a: Value) -> Value:
        """-a, the sign bit flipped."""
        return self.emit(a.type, f"fneg {a}")

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """icmp or fcmp by the operands' type: `slt`, `eq`, ... or `olt`, `une`, ...; gives i1 lanes."""
        if a.type != b.type:
            raise BugError(f"{predicate} of {a} and {b}")
        kind = "fcmp" if a.element in ("float", "double", "half", "bfloat") else "icmp"
        return self.emit(vector(a.lanes, "i1"), f"{kind} {predicate} {a.type} {a.text}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """a where the condition holds, else b; a scalar condition may choose whole vectors."""
        if condition.text == "true":
            return a
        return self.emit(a.type, f"select {condition}, {a}, {b}")

    def convert(self, opcode: str, a: Value, element: str) -> Value:
        """A conversion instruction (fpext, sitofp, trunc, ...) to another element type, lane by lane."""
        if a.element == element:
            return a
        to = vector(a.lanes, element)
        return self.emit(to, f"{opcode} {a} to {to}")

    def bitcast(self, a: Value, to: str) -> Value:
        """The same bits as another type."""
        return a if a.type == to else self.emit(to, f"bitcast {a} to {to}")

    def call(self, name: str, result: str, *args: Value) -> Value:
        """Call an intrinsic by its full name, declaring it."""
        self._declare(name, result, args)
        return self.emit(result, f"call {result} @{name}({', '.join(map(str, args))})")

    def call_void(self, name: str, *args: Value) -> None:
        """Call an intrinsic without a result, declaring it."""
        self._declare(name, "void", args)
        self.effect(f"call void @{name}({', '.join(map(str, args))})")

    def intrinsic(self, name: str, *args: Value) -> Value:
        """An intrinsic overloaded on its one type, which is its result's: `intrinsic("llvm.fabs", x)`."""
        t = args[0].type
        return self.call(f"{name}.{mangle(t)}", t, *args)

    def _declare(self, name: str, result: str, args: Sequence[Value]) -> None:
        if name not in self._declared:
            # metadata-like immediates must be constants: the declarations of intrinsics say so themselves
            self._declared[name] = f"declare {result} @{name}({', '.join(a.type for a in args)})"

    # ---- integers of addresses

    def i64(self, value: int) -> Value:
        """An i64 literal."""
        return Value("i64", str(value))

    def add(self, a: Value, b: Value) -> Value:
        """Integer a + b, without an instruction where one is a literal 0 or both are literals."""
        if a.text == "0":
            return b
        if b.text == "0":
            return a
        if a.type == "i64" and a.is_constant and b.is_constant:
            return self.i64(int(a.text) + int(b.text))
        return self.op("add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        """Integer a - b, simplified like `add`."""
        if b.text == "0":
            return a
        if a.type == "i64" and a.is_constant and b.is_constant:
            return self.i64(int(a.text) - int(b.text))
        return self.op("sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """Integer a * b, simplified like `add`."""
        if "0" in (a.text, b.text):
            return a if a.text == "0" else b
        if a.text == "1":
            return b
        if b.text == "1":
            return a
        if a.type == "i64" and a.is_constant and b.is_constant:
            return self.i64(int(a.text) * int(b.text))
        return self.op("mul", a, b)

    def smin(self, a: Value, b: Value) -> Value:
        """The smaller signed integer."""
        return a if a == b else self.intrinsic("llvm.smin", a, b)

    def smax(self, a: Value, b: Value) -> Value:
        """The larger signed integer."""
        return a if a == b else self.intrinsic("llvm.smax", a, b)

    # ---- vectors

    def splat(self, a: Value, lanes: int) -> Value:
        """A scalar in every lane; a value that is a vector already stays as it is."""
        if not lanes or a.lanes:
            return a
        to = vector(lanes, a.type)
        if a.is_constant:
            return poison(to) if a.text == "poison" else Value(to, f"splat ({a})")
        one = self.emit(to, f"insertelement {to} poison, {a}, i64 0")
        return self.emit(to, f"shufflevector {one}, {to} poison, <{lanes} x i32> zeroinitializer")

    def iota(self, lanes: int, element: str = "i64") -> Value:
        """The constant 0, 1, 2, ..."""
        return Value(vector(lanes, element), "<" + ", ".join(f"{element} {i}" for i in range(lanes)) + ">")

    def extract(self, a: Value, lane: int | Value) -> Value:
        """One lane."""
        return self.emit(a.element, f"extractelement {a}, {lane if isinstance(lane, Value) else f'i64 {lane}'}")

    def insert(self, a: Value, x: Value, lane: int) -> Value:
        """The vector with one lane replaced."""
        return self.emit(a.type, f"insertelement {a}, {x}, i64 {lane}")

    def shuffle(self, a: Value, b: Value | None, lanes: Sequence[int]) -> Value:
        """Lanes of a and b (numbered on from a's) in a new order; the result may be shorter or longer."""
        mask = ", ".join(f"i32 {i}" for i in lanes)
        other = b or poison(a.type)
        return self.emit(vector(len(lanes), a.element), f"shufflevector {a}, {other}, <{len(lanes)} x i32> <{mask}>")

    # ---- memory

    def gep(self, pointer: Value, index: Value, element: str) -> Value:
        """pointer + index elements; a vector index gives a vector of pointers."""
        if index.text == "0":
            return pointer
        return self.emit(vector(index.lanes, "ptr"), f"getelementptr {element}, {pointer}, {index}")

    def opaque(self, a: Value) -> Value:
        """The same value, of which the optimiser knows nothing: it stays where it is made."""
        return self.emit(a.type, f'call {a.type} asm "", "=r,0"({a})')

    def load(self, type_: str, pointer: Value, align: int | None = None) -> Value:
        """Load a scalar or a vector; the alignment defaults to the element's size."""
        return self.emit(type_, f"load {type_}, {pointer}, align {align or _natural(type_)}")

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        """Store a scalar or a vector; the alignment defaults to the element's size."""
        self.effect(f"store {value}, {pointer}, align {align or _natural(value.type)}")

    def masked_load(self, type_: str, pointer: Value, mask: Value, other: Value) -> Value:
        """A vector load that touches only the lanes of the mask; the rest is `other`."""
        name = f"llvm.masked.load.{mangle(type_)}.p0"
        return self.call(name, type_, pointer, Value("i32", str(_natural(type_))), mask, other)

    def masked_store(self, value: Value, pointer: Value, mask: Value) -> None:
        """A vector store that touches only the lanes of the mask."""
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.call_void(name, value, pointer, Value("i32", str(_natural(value.type))), mask)

    def gather(self, type_: str, pointers: Value, mask: Value, other: Value) -> Value:
        """Load the lanes of the mask from a vector of pointers; the rest is `other`."""
        name = f"llvm.masked.gather.{mangle(type_)}.{mangle(pointers.type)}"
        return self.call(name, type_, pointers, Value("i32", str(_natural(type_))), mask, other)

    # ---- control

    def new_block(self, hint: str) -> Block:
        """A block at the end of the function, not yet reached."""
        self._labels += 1
        block = Block(f"{hint}{self._labels}")
        self._blocks.append(block)
        return block

    def jump(self, to: Block) -> None:
        """End the current block."""
        self.block.terminator = f"br label %{to.label}"

    def branch(self, condition: Value, yes: Block, no: Block) -> None:
        """End the current block with a choice."""
        self.block.terminator = f"br {condition}, label %{yes.label}, label %{no.label}"

    def enter(self, block: Block) -> None:
        """Continue in another block."""
        self.block = block

    @contextmanager
    def at(self, block: Block) -> Iterator[None]:
        """Append to the end of another block for a while; only straight-line code."""
        here, self.block = self.block, block
        yield
        if self.block is not block:
            raise BugError("control flow in hoisted code")
        self.block = here

    def phi(self, block: Block, type_: str, sources: Sequence[tuple[Value, Block]]) -> Value:
        """A phi node of a block."""
        self._count += 1
        name = f"%v{self._count}"
        block.phis.append(_phi(name, type_, sources))
        return Value(type_, name)

    @contextmanager
    def loop(
        self, start: Value, end: Value, step: Value | int = 1, carried: Sequence[Value] = (), hint: str = "loop"
    ) -> Iterator[Loop]:
        """For index from `start` below `end` by `step`; no iteration where start >= end.

        with b.loop(lo, hi, 8, [zero]) as loop:
            loop.next = [b.op("fadd", loop.carried[0], x)]
        total = loop.results[0]
        """
        pre, body, done = self.new_block(f"{hint}.pre"), self.new_block(hint), self.new_block(f"{hint}.end")
        outside = self.block
        surely = start.is_constant and end.is_constant and int(start.text) < int(end.text)
        if surely:
            self.jump(pre)
        else:
            self.branch(self.compare("slt", start, end), pre, done)
        pre.terminator = f"br label %{body.label}"
        names = [Value(v.type, f"%v{self._count + 1 + k}") for k, v in enumerate((start, *carried))]
        self._count += len(names)
        loop = Loop(names[0], tuple(names[1:]), pre, step if isinstance(step, Value) else self.i64(step))
        self.enter(body)
        yield loop
        if len(loop.next) != len(carried):
            raise BugError(
                f"loop {body.label} carries {len(carried)} values, got {len(loop.next)} for the next iteration"
            )
        following = self.op("add", loop.index, loop.step, "nsw")
        latch = self.block
        self.branch(self.compare("slt", following, end), body, done)
        for name, first, then in zip(names, (start, *carried), (following, *loop.next), strict=True):
            if first.type != then.type:
                raise BugError(f"loop {body.label} carries {first.type} and then {then.type}")
            body.phis.append(_phi(name.text, name.type, [(first, pre), (then, latch)]))
        self._move_last(done)
        self.enter(done)
        loop.results = tuple(
            then if surely else self.phi(done, first.type, [(first, outside), (then, latch)])
            for first, then in zip(carried, loop.next, strict=True)
        )

    def when(
        self, condition: Value, then: Callable[[], Sequence[Value]], otherwise: Sequence[Value] = ()
    ) -> list[Value]:
        """Run `then` where the scalar condition holds; its values, or `otherwise` where it does not."""
        yes, done, outside = self.new_block("then"), self.new_block("done"), self.block
        self.branch(condition, yes, done)
        self.enter(yes)
        values = list(then())
        last = self.block
        self.jump(done)
        self._move_last(done)
        self.enter(done)
        return [self.phi(done, v.type, [(v, last), (o, outside)]) for v, o in zip(values, otherwise, strict=True)]

    def either(self, condition: Value, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Run one of two parts, by a scalar condition."""
        yes, no, done = self.new_block("then"), self.new_block("else"), self.new_block("done")
        self.branch(condition, yes, no)
        for block, part in ((yes, then), (no, otherwise)):
            self._move_last(block)
            self.enter(block)
            part()
            self.jump(done)
        self._move_last(done)
        self.enter(done)

    def _move_last(self, block: Block) -> None:
        self._blocks.remove(block)
        self._blocks.append(block)


def _natural(type_: str) -> int:
    return max(1, BITS[element_of(type_)] // 8)


def _phi(name: str, type_: str, sources: Sequence[tuple[Value, Block]]) -> str:
    return f"  {name} = phi {type_} " + ", ".join(f"[ {v.text}, %{b.label} ]" for v, b in sources)
