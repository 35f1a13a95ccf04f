"""The container of a plan file: a ZIP of stored entries that any tool can list, read back strictly.

Writing is deterministic: fixed order, fixed time stamps, every entry's data on a 64-byte boundary (the extra field is the
padding). Reading parses the local headers one after the other and then demands that the central directory and the end
record are, byte for byte, those that writing these entries would have made; so a damaged header, a second directory, a
hidden entry, a link or an encrypted entry cannot pass. Contents are covered by SHA-256 in the manifest (see file.py).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from fusec.errors import PlanError

ALIGNMENT = 64
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_DOS_DATE = 0x21  # 1980-01-01, the earliest that ZIP can say
_PAD_ID = 0xD935  # the extra-field id that Android's zipalign uses for the same purpose
_LIMIT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an entry's bytes lie in the file."""

    name: str
    offset: int
    size: int
    crc: int


def layout(sizes: Mapping[str, tuple[int, int]]) -> tuple[list[Entry], list[bytes], bytes]:
    """Place entries given as name -> (size, crc32): the entries, the local header before each, and the trailer.

    PlanError where the file would pass 4 GiB.
    """
    entries, headers, position = list[Entry](), list[bytes](), 0
    central = b""
    for name, (size, crc) in sizes.items():
        raw = name.encode()
        start = position + _LOCAL.size + len(raw) + 4
        pad = -start % ALIGNMENT
        extra = struct.pack("<HH", _PAD_ID, pad) + bytes(pad)
        header = _LOCAL.pack(0x04034B50, 20, 0, 0, 0, _DOS_DATE, crc, size, size, len(raw), len(extra)) + raw + extra
        if start + pad + size > _LIMIT:
            raise PlanError("the plan would pass 4 GiB, the limit of its container", hint="split the model")
        entry = Entry(name, start + pad, size, crc)
        central += (
            _CENTRAL.pack(0x02014B50, 20, 20, 0, 0, 0, _DOS_DATE, crc, size, size, len(raw), 0, 0, 0, 0, 0, position)
            + raw
        )
        entries.append(entry)
        headers.append(header)
        position = entry.offset + size
    end = _END.pack(0x06054B50, 0, 0, len(entries), len(entries), len(central), position, 0)
    return entries, headers, central + end


def parse(data: memoryview) -> dict[str, Entry]:
    """The entries of a container. PlanError names what is wrong; contents are not checked here."""
    if len(data) < _END.size or bytes(data[:2]) != b"PK":
        raise PlanError("not a plan file: it does not start like one", hint="plans are made by `fusec compile`")
    sizes, position = dict[str, tuple[int, int]](), 0
    while True:
        if position + 4 > len(data):
            raise PlanError("the plan file is truncated")
        (signature,) = struct.unpack_from("<I", data, position)
        if signature != 0x04034B50:
            break
        if position + _LOCAL.size > len(data):
            raise PlanError("the plan file is truncated")
        fields = _LOCAL.unpack_from(data, position)
        crc, size, name_length, extra_length = fields[6], fields[7], fields[9], fields[10]
        start = position + _LOCAL.size
        name = bytes(data[start : start + name_length]).decode("ascii", "replace")
        if name in sizes:
            raise PlanError(f"the plan file holds {name!r} twice")
        sizes[name] = size, crc
        position = start + name_length + extra_length + size
        if position > len(data):
            raise PlanError(f"the plan file is truncated inside {name!r}")
    entries, headers, trailer = layout(sizes)
    for entry, header in zip(entries, headers, strict=True):
        if bytes(data[entry.offset - len(header) : entry.offset]) != header:
            raise PlanError(f"the header of {entry.name!r} in the plan file is damaged")
    if bytes(data[position:]) != trailer:
        raise PlanError("the directory of the plan file is damaged, or something was appended to it")
    return {e.name: e for e in entries}


def crc32(data: bytes | memoryview) -> int:
    """The checksum that ZIP tools expect."""
    return zlib.crc32(data)
