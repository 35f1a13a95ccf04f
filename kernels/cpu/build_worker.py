"""A build worker: IR text in on stdin, objects out on stdout, one at a time, until stdin ends.

Run as `python -m fusec.kernels.cpu.build_worker`. It imports llvmlite and nothing heavy, so it starts in about 0.2 s.
Every message is a little-endian u64 length and that many bytes: a request is JSON {"level", "text"}, a reply is JSON
{"error"} followed by a second message with the object (empty where there is an error).
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from typing import BinaryIO

from fusec.errors import CompileError
from fusec.kernels.cpu.llvm import compile_text, initialise

READY = b"fusec build worker 1"


def send(stream: BinaryIO, message: bytes) -> None:
    """Write one message."""
    stream.write(struct.pack("<Q", len(message)) + message)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one message; None where the other side is gone."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head)
    body = stream.read(length)
    return body if len(body) == length else None


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes our stdin
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever LLVM prints must not get between the messages
    initialise()
    send(replies, READY)
    while (request := receive(requests)) is not None:
        order = json.loads(request)
        code, error = b"", None
        try:
            code = compile_text(order["text"], order["level"])
        except CompileError as e:
            error = str(e)
        send(replies, json.dumps({"error": error}).encode())
        send(replies, code)


if __name__ == "__main__":
    main()
