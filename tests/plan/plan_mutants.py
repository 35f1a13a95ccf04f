"""Plans that somebody changed on purpose: one field at a time, with every hash made right again.

Run as a program it is the victim: it reads lines `seed` from stdin, makes that mutant of the plan files given as arguments,
loads and runs it, and answers `seed outcome`. Memory that kernels may use ends at pages that nobody may touch, so reading
or writing outside it kills the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fusec.plan import container
from fusec.plan.file import CONTENTS, MANIFEST, PROGRAMS, SEAL

Bodies = dict[str, bytes]
NUMBERS = (0, 1, -1, 2, 3, 5, 7, 8, 16, 63, 64, 65, 1000, 1 << 20, 10**9, (1 << 31) - 1, 1 << 40, 1 << 62, 1 << 64)


def bodies_of(data: bytes) -> Bodies:
    """The entries of a plan file."""
    view = memoryview(data)
    return {e.name: bytes(view[e.offset : e.offset + e.size]) for e in container.parse(view).values()}


def sealed(bodies: Bodies) -> bytes:
    """A plan file whose hashes, sizes and checksums fit its entries."""
    manifest = msgspec.json.decode(bodies[MANIFEST])
    for section in manifest["sections"]:
        body = bodies.get(str(section["name"]), b"")
        chunks = range(0, len(body), 4 << 20) if section["chunks"] else ()
        section["chunks"] = [hashlib.sha256(body[i : i + (4 << 20)]).hexdigest() for i in chunks]
        section |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    bodies = bodies | {MANIFEST: msgspec.json.encode(manifest)}
    bodies[SEAL] = hashlib.sha256(bodies[MANIFEST]).hexdigest().encode()
    _, headers, trailer = container.layout({n: (len(b), container.crc32(b)) for n, b in bodies.items()})
    return b"".join(p for h, b in zip(headers, bodies.values(), strict=True) for p in (h, b)) + trailer


def mutant(data: bytes, seed: int) -> bytes:
    """The plan with one thing changed, or two."""
    rng = random.Random(seed)
    bodies = bodies_of(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        if rng.random() < 0.45:
            bodies[PROGRAMS] = mutate_text(bodies[PROGRAMS].decode(), rng).encode()
        else:
            name = CONTENTS if rng.random() < 0.9 else MANIFEST
            tree = msgspec.json.decode(bodies[name])
            mutate_tree(tree, rng)
            bodies[name] = msgspec.json.encode(tree)
    return sealed(bodies)


def mutate_text(text: str, rng: random.Random) -> str:
    """A token of the tile programs replaced by another one of the same program, or a line moved."""
    programs = text.split("\n\n")
    i = rng.randrange(len(programs))
    lines = programs[i].split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 1:
            del lines[at]
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            lines[at] = mutate_line(lines[at], re.findall(r"\w+", programs[i]), rng)
    programs[i] = "\n".join(lines)
    return "\n\n".join(programs)


def mutate_line(line: str, words: list[str], rng: random.Random) -> str:
    """A word, a number or an operator replaced."""
    found = list(re.finditer(r"\w+|[-+*/%<>=]+", line)) or [re.search("$", line)]
    m = rng.choice(found)
    assert m is not None
    if m[0].isdigit() or rng.random() < 0.2:
        new = str(rng.choice(NUMBERS)) if rng.random() < 0.7 else f"{m[0]} + 1"
    elif re.fullmatch(r"\W+", m[0]):
        new = rng.choice("+-*/%<")
    else:
        new = rng.choice(words)
        if rng.random() < 0.3:
            new = f"{rng.choice(('floordiv', 'mod', 'max', 'min', 'ceildiv'))}({m[0]}, {new})"
    return line[: m.start()] + new + line[m.end() :]


def mutate_tree(tree: Any, rng: random.Random) -> None:
    """One leaf, list or mapping of a JSON document changed in place."""
    parent, key = rng.choice(list(places(tree)))
    value = parent[key]
    strings = [p[k] for p, k in places(tree) if isinstance(p[k], str)]
    match value:
        case str() if 'b64"' in value and rng.random() < 0.7:
            at = value.index('b64"') + 4 + rng.randrange(len(value) - value.index('b64"') - 4)
            parent[key] = value[:at] + rng.choice("ABCDabcd0123+/=") + value[at + 1 :]
        case str():
            choice = rng.randrange(3)
            if choice == 0 or not value:
                parent[key] = rng.choice(strings) if strings else "x"
            else:
                parent[key] = mutate_line(value, re.findall(r"\w+", " ".join(strings[:200])) or ["x"], rng)
        case int():
            parent[key] = rng.choice(NUMBERS) if rng.random() < 0.7 else value + rng.choice((-1, 1))
        case list() if value:
            at, other = rng.randrange(len(value)), rng.randrange(len(value))
            match rng.randrange(3):
                case 0:
                    del value[at]
                case 1:
                    value.insert(other, value[at])
                case _:
                    value[at], value[other] = value[other], value[at]
        case dict() if value:
            names = list(value)
            value[rng.choice(names)] = value[rng.choice(names)]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document, the long lists of values no more often than the rest."""
    todo = [tree]
    while todo:
        at = todo.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at))
        for key in keys:
            yield at, key
            if isinstance(at[key], dict | list):
                todo.append(at[key])


# ---- the victim

PAGE = mmap.PAGESIZE


def fence(size: int) -> tuple[mmap.mmap, int]:
    """Memory of `size` bytes, as an offset into pages whose last one, right behind it, is out of bounds."""
    whole = -(-size // PAGE) * PAGE
    pages = mmap.mmap(-1, whole + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    libc = ctypes.CDLL(None)
    for at in (address, address + PAGE + whole):
        if libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(PAGE), 0):
            raise OSError("mprotect")
    return pages, PAGE + whole - size


class Fenced(np.ndarray):
    """An array type only so that somebody keeps the pages."""


def fenced(shape: Any, dtype: Any) -> np.ndarray:
    """An array that ends where its memory ends."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    pages, offset = fence(size)
    return np.frombuffer(pages, np.uint8)[offset : offset + size].view(dtype).reshape(shape)


def fenced_block(block: Any, size: int) -> None:
    """`Block.__init__` with fences; starts at a cache line, so up to 63 bytes too many may pass."""
    size_up = -(-size // 64) * 64
    block.size = size
    block._keep, offset = fence(size_up)
    block.bytes = np.frombuffer(block._keep, np.uint8)[offset : offset + size]
    block.address = ctypes.addressof(ctypes.c_char.from_buffer(block._keep)) + offset


class Numpy:
    """numpy, with outputs that end at a fence."""

    empty = staticmethod(fenced)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def outcome_of(data: bytes, feeds: dict[str, np.ndarray]) -> str:
    """Load and run a plan: "ran", or the class of the FusecError."""
    import fusec
    from fusec.api import open_session
    from fusec.errors import FusecError
    from fusec.plan.file import deserialise

    try:
        plan = deserialise(memoryview(data))
        session = open_session(plan, threads=1)
        known = {v.name: feeds[v.name] for v in session.inputs if v.name in feeds}
        session.run(known)
        session.run({n: a.copy() for n, a in known.items()})
    except FusecError as e:
        return type(e).__name__
    assert fusec.__version__
    return "ran"


def main() -> None:
    """The victim's loop."""
    import resource

    import fusec.runtime.binding as binding
    import fusec.runtime.memory as memory
    import fusec.runtime.session as session

    memory.Block.__init__ = fenced_block
    memory.HUGE = 0
    memory.aligned = _copied
    binding.np = session.np = Numpy()
    import fusec.runtime.weights as weights

    weights.aligned = _copied
    files = [(Path(p).read_bytes(), dict(np.load(Path(p).with_suffix(".npz")))) for p in sys.argv[1:]]
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for line in sys.stdin:
        seed = int(line)
        data, feeds = files[seed % len(files)]
        held = {}
        for name, array in feeds.items():
            held[name] = fenced(array.shape, array.dtype)
            held[name][...] = array
        print(seed, outcome_of(mutant(data, seed), held), flush=True)


def _copied(array: np.ndarray) -> np.ndarray:
    from fusec.runtime.memory import Block

    block = Block(array.nbytes)
    copy = block.bytes.view(array.dtype).reshape(array.shape) if array.nbytes else np.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


if __name__ == "__main__":
    main()
