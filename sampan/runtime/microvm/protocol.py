"""The guest protocol's frames and fields, as `native/wire.h` has them; described in docs/guest-protocol.md. Pure.

What a guest sends is not trusted: a malformed frame or field raises Malformed, and the connection ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
HEADER = struct.Struct("<IIHH")  # size of the payload, channel, type, flags
FIELD = struct.Struct("<HI")  # key, size
FRAME_MAX = 32768
MESSAGE_MAX = 1 << 20
WINDOW = 1 << 16  # bytes of a stream that may be unacknowledged
MORE = 0x8000
STDIN, STDOUT, STDERR = 0, 1, 2


class Type(IntEnum):
    HELLO = 1
    SETUP = 2
    IMAGE = 3
    START = 4
    EXEC = 5
    CONNECT = 6
    SIGNAL = 7
    RESIZE = 8
    REMOVE = 9
    STATS = 10
    UPDATE = 11
    PUT = 12
    GET = 13
    POWEROFF = 14
    CLOSE = 15
    SHARE = 16
    STAGE = 17
    DATA = 32
    END = 33
    ACK = 34
    REPLY = 64
    EXIT = 65
    READY = 66


class Key(IntEnum):
    ERROR = 1
    WHERE = 2
    VERSION = 3
    PID = 4
    CODE = 5
    OOM = 6
    FINISHED = 7
    CONTENT = 8
    BOOT = 9
    ENTROPY = 16
    TIME = 17
    HOSTNAME = 18
    MAC = 19
    ADDRESS = 20
    NETMASK = 21
    GATEWAY = 22
    MTU = 23
    SYSCTL = 24
    SHARE_PIDS = 25
    LOOPBACK_MASK = 26
    SLOT = 32
    ID = 33
    CHANNEL = 34
    LIMIT = 35
    READONLY = 36
    ARG = 37
    ENV = 38
    CWD = 39
    UID = 40
    GID = 41
    GROUP = 42
    UMASK = 43
    CAPS_PERMITTED = 44
    CAPS_BOUNDING = 45
    NO_NEW_PRIVILEGES = 46
    SECCOMP = 47
    TTY = 48
    STDIN = 49
    MOUNT = 50
    MASKED = 51
    READONLY_PATH = 52
    CGROUP = 53
    RLIMIT = 54
    OOM_SCORE = 55
    PRIVILEGED = 56
    PID_MODE = 57
    TARGET = 59
    OUT_SEEN = 60
    ERR_SEEN = 61
    IN_TAKEN = 62
    INIT = 63
    UPPER = 64
    NUMBER = 80
    ROWS = 81
    COLUMNS = 82
    PORT = 83
    ALL = 84
    OP = 96
    PATH = 97
    MODE = 98
    LINK = 99
    TASK = 112
    CPU = 113
    MEMORY = 114
    WORKING_SET = 115
    RSS = 116
    PIDS = 117
    DISK = 118
    RX = 119
    TX = 120


class Change(IntEnum):
    """Values of Key.OP."""

    DIRECTORY = 1
    WHOLE = 2
    APPEND = 3
    LINK = 4
    RENAME = 5
    REMOVE_TREE = 6
    IN_PLACE = 7


class Malformed(ValueError):
    """These bytes are no frame, or no fields, of this protocol."""


Value = int | str | bytes
Field = tuple[int, Value]


@dataclass(frozen=True, slots=True)
class Frame:
    type: int
    channel: int
    flags: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        return HEADER.pack(len(self.payload), self.channel, self.type, self.flags) + self.payload


class FrameReader:
    """Frames out of a stream of bytes, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises Malformed, after which nothing more may be fed."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER.size:
                size, channel, kind, flags = HEADER.unpack_from(buffer, at)
                if size > FRAME_MAX:
                    raise Malformed(f"a frame of {size} bytes")
                if len(buffer) - at - HEADER.size < size:
                    break
                begin = at + HEADER.size
                at = begin + size
                yield Frame(kind, channel, flags, bytes(buffer[begin:at]))
        finally:
            del buffer[:at]


def encode(fields: Iterable[Field]) -> bytes:
    """Numbers are eight bytes, little endian; texts are UTF-8 (surrogates stand for other bytes)."""
    out = bytearray()
    for key, value in fields:
        if isinstance(value, int):
            raw = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        else:
            raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        out += FIELD.pack(key, len(raw))
        out += raw
    return bytes(out)


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Raises Malformed."""
    at = 0
    while at < len(message):
        if len(message) - at < FIELD.size:
            raise Malformed("half a field")
        key, size = FIELD.unpack_from(message, at)
        at += FIELD.size
        if size > len(message) - at:
            raise Malformed("a field longer than its message")
        yield key, message[at : at + size]
        at += size


def decode(message: bytes) -> dict[int, bytes]:
    """The first field of each key. Raises Malformed."""
    found: dict[int, bytes] = {}
    for key, value in fields(message):
        found.setdefault(key, value)
    return found


def number(value: bytes | None) -> int:
    return int.from_bytes(value[:8], "little") if value else 0


def frames(kind: int, channel: int, message: bytes) -> Iterator[Frame]:
    """A message as frames that follow one another. Raises Malformed when it is too large."""
    if len(message) > MESSAGE_MAX:
        raise Malformed(f"a message of {len(message)} bytes: at most {MESSAGE_MAX} can be sent")
    for at in range(0, max(1, len(message)), FRAME_MAX):
        part = message[at : at + FRAME_MAX]
        yield Frame(kind, channel, MORE if at + FRAME_MAX < len(message) else 0, part)
