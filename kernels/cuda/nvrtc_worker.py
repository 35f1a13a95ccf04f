"""The calls of NVRTC, and a process that makes one of them: a crash or a hang of the compiler stays there.

Only the standard library is imported, so that the process starts in a few hundredths of a second. It gets a JSON object on
standard input, and answers with a line of JSON and the cubin's bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Library:
    """libnvrtc, loaded. OSError or AttributeError where it cannot be used."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = ctypes.CDLL(path)
        # the compiler opens this part by its bare name, which the loader does not look for beside it
        for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so*")) if os.path.isabs(path) else ():
            ctypes.CDLL(str(builtins))
        self.calls.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.calls.nvrtcGetCUBINSize  # noqa: B018 - older than 11.1 where it is missing

    def version(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.calls.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    def compile(self, text: str, headers: Mapping[str, str], flags: Sequence[str]) -> tuple[str, bytes, str]:
        """What failed (empty where nothing did), the cubin and the log. RuntimeError where the library itself fails."""
        names, texts, options = (tuple(x.encode() for x in part) for part in (headers, headers.values(), flags))
        array, program = ctypes.c_char_p * len(names), ctypes.c_void_p()
        self.check(
            self.calls.nvrtcCreateProgram(
                ctypes.byref(program), text.encode(), b"region.cu", len(names), array(*texts), array(*names)
            )
        )
        try:
            status = self.calls.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode("utf-8", "replace")
            return (self.name(status), b"", log) if status != 0 else ("", self._bytes(program, "CUBIN"), log)
        finally:
            self.calls.nvrtcDestroyProgram(ctypes.byref(program))

    def check(self, status: int) -> None:
        """RuntimeError for a status that is not success."""
        if status != 0:
            raise RuntimeError(self.name(status))

    def name(self, status: int) -> str:
        """A status in words."""
        text = self.calls.nvrtcGetErrorString(status)
        return text.decode() if isinstance(text, bytes) else f"error {status}"

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self.check(getattr(self.calls, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        self.check(getattr(self.calls, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw[: size.value]


def request(library: Library, text: str, headers: Mapping[str, str], flags: Sequence[str]) -> bytes:
    """What the process reads."""
    return json.dumps({"library": library.path, "text": text, "headers": dict(headers), "flags": list(flags)}).encode()


def answer(output: bytes) -> tuple[str, bytes, str]:
    """What it wrote, as `Library.compile` gives it. ValueError for anything else."""
    head, newline, code = output.partition(b"\n")
    fields = json.loads(head)
    if not newline or len(code) != fields["size"]:
        raise ValueError("an answer that is cut off")
    return fields["failed"], code, fields["log"]


def main() -> None:
    """Compile what standard input asks for."""
    asked = json.load(sys.stdin.buffer)
    try:
        failed, code, log = Library(asked["library"]).compile(asked["text"], asked["headers"], asked["flags"])
    except (OSError, AttributeError, RuntimeError) as e:
        failed, code, log = str(e), b"", ""
    head = {"failed": failed, "log": log, "size": len(code)}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + code)


if __name__ == "__main__":
    main()
