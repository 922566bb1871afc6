"""The file server against a guest that is not a kernel: what it says is checked, and nothing is reached but the shares."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.runtime.microvm.shares import program_file

HEAD = struct.Struct("<IIQQIIIHH")  # fuse_in_header
ANSWER = struct.Struct("<IiQ")  # fuse_out_header
LOOKUP, READLINK, SYMLINK, MKNOD, MKDIR, OPEN, READ, INIT, CREATE = 1, 5, 6, 8, 9, 14, 15, 26, 35
OPERATIONS = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    20,
    25,
    27,
    28,
    29,
    30,
    35,
    36,
    38,
    42,
    43,
    45,
    46,
)


class Guest:
    def __init__(self, shared: Path, *, readonly: bool = False) -> None:
        self.stream, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"\0sampan-test-" + os.urandom(8))
        listener.listen(1)
        self.process = subprocess.Popen(
            [str(program_file()), str(theirs.fileno()), str(listener.fileno()), "0"],
            pass_fds=(theirs.fileno(), listener.fileno()),
        )
        theirs.close()
        self.stream.settimeout(10)
        self._control = listener.getsockname()
        listener.close()
        assert self.share(shared, readonly=readonly) == 0
        self.request(INIT, 1, struct.pack("<IIII", 7, 37, 65536, 0))

    def share(self, path: Path, *, readonly: bool = False) -> int:
        descriptor = os.open(path, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(self._control)
            socket.send_fds(control, [bytes([readonly])], [descriptor])
            answer = control.recv(4)
        os.close(descriptor)
        return int(struct.unpack("<i", answer)[0])

    def send(self, operation: int, node: int, body: bytes) -> None:
        head = HEAD.pack(
            HEAD.size + len(body), operation, 7, node, os.getuid(), os.getgid(), 1, 0, 0
        )
        self.stream.sendall(head + body)

    def request(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        """errno, content."""
        self.send(operation, node, body)
        head = self.stream.recv(ANSWER.size, socket.MSG_WAITALL)
        size, error, _ = ANSWER.unpack(head)
        rest = size - ANSWER.size
        return -error, self.stream.recv(rest, socket.MSG_WAITALL) if rest else b""

    def lookup(self, node: int, name: bytes) -> int:
        error, content = self.request(LOOKUP, node, name + b"\0")
        assert error == 0, os.strerror(error)
        return int(struct.unpack_from("<Q", content)[0])

    def end(self) -> None:
        self.stream.close()
        assert self.process.wait(10) == 0, "it ends with its stream"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "shared"
    place.mkdir()
    (place / "file").write_text("open")
    (place / "out").symlink_to(tmp_path / "secret")
    return place


@pytest.fixture
def guest(shared: Path) -> Iterator[Guest]:
    guest = Guest(shared)
    yield guest
    guest.end()


def test_names_lead_nowhere_else(guest: Guest) -> None:
    root = guest.lookup(1, b"0")
    for name in (b"..", b".", b"", b"../secret", b"out/..", b"/etc/passwd", b"file/../../secret"):
        error, _ = guest.request(LOOKUP, root, name + b"\0")
        assert error == 22, name
    assert guest.request(LOOKUP, root, b"file")[0] == 22, "a name without its end"
    assert guest.request(LOOKUP, 1, b"1\0")[0] == 2
    link = guest.lookup(root, b"out")
    assert guest.request(READLINK, link, b"")[1].endswith(b"/secret")
    assert guest.request(OPEN, link, struct.pack("<II", 0, 0))[0] == 13, (
        "a link is the guest's to follow"
    )


def test_numbers_that_were_not_given_are_no_files(guest: Guest) -> None:
    root = guest.lookup(1, b"0")
    file = guest.lookup(root, b"file")
    error, opened = guest.request(OPEN, file, struct.pack("<II", 2, 0))
    assert error == 0
    (handle,) = struct.unpack_from("<Q", opened)
    read = struct.pack("<QQIIQII", handle, 0, 100, 0, 0, 0, 0)
    assert guest.request(READ, file, read) == (0, b"open")
    for number in range(64):
        if number != handle:
            read = struct.pack("<QQIIQII", number, 0, 100, 0, 0, 0, 0)
            assert guest.request(READ, file, read)[0] == 9, number
    assert guest.request(LOOKUP, 99, b"file\0")[0] == 116


def test_no_devices_and_nothing_into_what_is_read_only(shared: Path) -> None:
    guest = Guest(shared, readonly=True)
    root = guest.lookup(1, b"0")
    create = struct.pack("<IIII", os.O_CREAT | os.O_RDWR, 0o644, 0, 0) + b"new\0"
    assert guest.request(CREATE, root, create)[0] == 30
    assert guest.request(MKDIR, root, struct.pack("<II", 0o755, 0) + b"new\0")[0] == 30
    assert guest.request(SYMLINK, root, b"new\0old\0")[0] == 30
    assert guest.request(OPEN, guest.lookup(root, b"file"), struct.pack("<II", 2, 0))[0] == 30
    assert guest.share(shared) == 1
    writable = guest.lookup(1, b"1")
    device = struct.pack("<IIII", 0o020666, 0x103, 0, 0) + b"null\0"
    assert guest.request(MKNOD, writable, device)[0] == 1
    assert sorted(path.name for path in shared.iterdir()) == ["file", "out"]
    guest.end()


def test_noise_neither_ends_it_nor_leads_outside(shared: Path) -> None:
    """Any request of any size with any content: answered, or not to be, and the next one is answered too."""
    random_ = random.Random(5)
    guest = Guest(shared)
    root = guest.lookup(1, b"0")
    for _ in range(3000):
        operation = random_.choice(OPERATIONS)
        node = random_.choice((1, root, root + 1, root + 2, random_.randrange(1 << 64)))
        words = [
            random_.choice((0, 1, root, 3, 7, 1 << 31, random_.randrange(1 << 64)))
            for _ in range(random_.randrange(9))
        ]
        body = b"".join(struct.pack("<Q", word) for word in words)
        body += random_.choice(
            (b"", b"file\0", b"../x\0y\0", b"n1\0n2\0", bytes(random_.randrange(60)))
        )
        if operation in (2, 42, 36):  # FORGET, BATCH_FORGET, INTERRUPT have no answer
            guest.send(operation, node, body[: random_.choice((0, 8, len(body)))])
        else:
            guest.request(operation, node, body)
        if guest.request(3, 1, bytes(16))[0] != 0:
            raise AssertionError("the top directory is gone")
    assert guest.process.poll() is None
    outside = sorted(path.name for path in shared.parent.iterdir())
    assert outside == ["secret", "shared"] and (shared.parent / "secret").read_text() == "secret"
    guest.stream.sendall(struct.pack("<I", 5) + bytes(60))
    assert guest.process.wait(10) == 1, "what is no header ends it"
    guest.stream.close()
