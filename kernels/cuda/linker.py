"""NVIDIA's linker through ctypes (nvJitLink): the machine code of bodies and of the kernel that calls them becomes one cubin.

It only puts together what is machine code, which takes milliseconds. What it counts as the kernel's registers and stack is the
most of all that is called, through addresses as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from fusec.errors import CompileError
from fusec.kernels.cuda import libraries

HINT = "pip install 'nvidia-nvjitlink>=13,<14'"
CUBIN = 1
"""NVJITLINK_INPUT_CUBIN."""


class Linker:
    """libnvJitLink, loaded. OSError or AttributeError where it cannot be used."""

    def __init__(self, path: str) -> None:
        self.calls = ctypes.CDLL(path)
        self.calls.nvJitLinkCreate  # noqa: B018 - older than 12.0 where it is missing

    def version(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = ctypes.c_uint(), ctypes.c_uint()
        if self.calls.nvJitLinkVersion(ctypes.byref(major), ctypes.byref(minor)):
            return 0, 0
        return major.value, minor.value

    def link(self, parts: Sequence[bytes], architecture: str) -> tuple[bytes, str]:
        """The cubin of some parts, and the resources of its kernels in words. CompileError where they do not fit together."""
        handle, options = ctypes.c_void_p(), (f"-arch={architecture}".encode(), b"-verbose")
        array = (ctypes.c_char_p * len(options))(*options)
        if status := self.calls.nvJitLinkCreate(ctypes.byref(handle), ctypes.c_uint32(len(options)), array):
            raise CompileError(f"nvJitLink cannot link for {architecture}: error {status}")
        try:
            for i, part in enumerate(parts):
                arguments = ctypes.c_int(CUBIN), part, ctypes.c_size_t(len(part)), b"part %d" % i
                self._check(handle, self.calls.nvJitLinkAddData(handle, *arguments))
            self._check(handle, self.calls.nvJitLinkComplete(handle))
            return self._bytes(handle, "LinkedCubin"), self._text(handle, "InfoLog")
        finally:
            self.calls.nvJitLinkDestroy(ctypes.byref(handle))

    def _check(self, handle: ctypes.c_void_p, status: int) -> None:
        if status:
            why = self._text(handle, "ErrorLog").strip().replace("\n", "; ") or f"error {status}"
            raise CompileError(f"nvJitLink refuses a module: {why}", hint="it must be no older than NVRTC: " + HINT)

    def _text(self, handle: ctypes.c_void_p, what: str) -> str:
        return self._bytes(handle, what).rstrip(b"\0").decode("utf-8", "replace")

    def _bytes(self, handle: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        failed = getattr(self.calls, f"nvJitLinkGet{what}Size")(handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        if failed or getattr(self.calls, f"nvJitLinkGet{what}")(handle, buffer):
            raise CompileError(f"nvJitLink does not give its {what}")
        return buffer.raw[: size.value]


def is_installed() -> bool:
    """Whether the linker's library is there."""
    return _linker_or_why()[0] is not None


def version() -> tuple[int, int]:
    """The linker's version. CompileError where it is not installed."""
    return _linker().version()


def link(parts: Sequence[bytes], architecture: str) -> tuple[bytes, str]:
    """See Linker.link."""
    return _linker().link(parts, architecture)


def _linker() -> Linker:
    found, why = _linker_or_why()
    if found is None:
        raise CompileError(f"NVIDIA's linker is not there: {why}", hint=HINT)
    return found


@cache
def _linker_or_why() -> tuple[Linker | None, str]:
    return libraries.first("nvJitLink", Linker)
