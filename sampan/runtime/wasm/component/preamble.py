"""What a component's binary says of its exports, read without an engine: does it serve `wasi:http`?

A component is a sequence of sections, a byte of kind and a size each (component-model/design/mvp/Binary.md). Exports of the
outermost one are in its export sections; what is nested is passed over unread.
"""

from __future__ import annotations

import os
from typing import BinaryIO

_EXPORTS = 11
_LIMIT = 1 << 20  # bytes of an export section
_HANDLER = b"wasi:http/incoming-handler@0.2."


def serves(file: BinaryIO) -> bool:
    """Whether the component in `file` exports wasi:http/incoming-handler@0.2.x."""
    end = file.seek(0, os.SEEK_END)
    place = file.seek(8)
    while place < end:
        head = file.read(6)
        size, width = _leb128(head[1:])
        if not width:
            return False
        place += 1 + width
        file.seek(place)
        if head[0] == _EXPORTS and _HANDLER in file.read(min(size, _LIMIT)):
            return True
        place = file.seek(place + size)
    return False


def _leb128(data: bytes) -> tuple[int, int]:
    """(value, bytes taken) of an unsigned LEB128 of 32 bits; (0, 0) when it is none."""
    value = 0
    for n, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return value, n + 1
    return 0, 0
