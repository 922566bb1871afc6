"""Snapshots of running machines: memory, devices and disk of one moment, in one file from which a machine goes on.

    <name>.tar: snapshot.json   what it is of: everything that must be the same where it goes on, and digests of the rest
                state           the VMM's own: devices, and of memory what is not zero
                disk            when the machine has one; GNU tar's sparse format 1.0, so `tar` reads it too

Written beside its place and renamed, so a file of that name is whole; what has changed on disk since is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from sampan.runtime.microvm.errors import BadArtifact, MissingPiece
from sampan.runtime.microvm.templates import pieces

ANNOTATION = (
    "sampan.dev/vm-snapshot"  # of a pod: the name of the snapshot that its machine goes on from
)
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
RECORD, STATE, DISK = "snapshot.json", "state", "disk"
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a snapshot besides its bulk."""

    edition: str  # of VMM and accelerator
    processor: str
    memory: int  # MiB
    cpus: int
    sharing: bool
    image: str  # key of the drive with the container's image
    number: int  # the container's channel
    numbers: int  # the highest channel number that was used
    user: list[Any]
    init: str
    terminal: bool
    seen: list[int]  # how far the host had heard stdout and stderr
    volumes: dict[str, str]  # places in the container → in the guest
    present: list[str]
    pod: str  # namespace/name
    taken_at: float  # seconds since the epoch
    digests: dict[str, str] = field(default_factory=dict)


def place(kind_directory: Path) -> Path:
    return kind_directory / "snapshots"


def path_of(kind_directory: Path, name: str) -> Path:
    """Raises MissingPiece when there is none of that name."""
    path = place(kind_directory) / f"{name}.tar"
    if NAME.fullmatch(name) is None or not path.is_file():
        known = (
            ", ".join(sorted(each.stem for each in place(kind_directory).glob("*.tar"))) or "none"
        )
        raise MissingPiece(f"there is no snapshot {name!r} on this node; it has: {known}")
    return path


def write(path: Path, snapshot: Snapshot, state: int, disk: int = -1) -> None:
    """From open files. Raises OSError."""
    bulk = {STATE: state} | ({DISK: disk} if disk >= 0 else {})
    record = asdict(snapshot) | {"digests": {name: digest(fd) for name, fd in bulk.items()}}
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as out:
            os.fchmod(out.fileno(), 0o600)
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
                text = json.dumps(record, indent=1).encode()
                archive.addfile(member(RECORD, len(text), snapshot), io.BytesIO(text))
                for name, fd in bulk.items():
                    add_sparse(archive, member(name, 0, snapshot), fd)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def member(name: str, size: int, snapshot: Snapshot) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode, found.mtime = size, 0o600, int(snapshot.taken_at)
    return found


def add_sparse(archive: tarfile.TarFile, entry: tarfile.TarInfo, fd: int) -> None:
    """PAX sparse format 1.0 (GNU tar's manual, "Sparse Formats"): a map of what is not zero, then that."""
    size = os.fstat(fd).st_size
    found = [(at, len(data)) for at, data in pieces(fd)] + [(size, 0)]  # which says where it ends
    numbers = [len(found), *(number for piece in found for number in piece)]
    head = "".join(f"{number}\n" for number in numbers).encode()
    head += bytes(-len(head) % BLOCK)
    entry.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": entry.name,
        "GNU.sparse.realsize": str(size),
    }  # fmt: skip
    entry.size = len(head) + sum(count for _, count in found)
    archive.addfile(entry, cast(Any, Joined(head, fd, found)))


class Joined(io.RawIOBase):
    """Bytes, then parts of a file, read as one."""

    def __init__(self, head: bytes, fd: int, parts: list[tuple[int, int]]) -> None:
        self._left = memoryview(head)
        self._parts = iter(parts)
        self._fd = fd

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        out = bytearray()
        while size < 0 or len(out) < size:
            if not self._left:
                if (part := next(self._parts, None)) is None:
                    break
                self._left = memoryview(os.pread(self._fd, part[1], part[0]))
            take = len(self._left) if size < 0 else min(size - len(out), len(self._left))
            out += self._left[:take]
            self._left = self._left[take:]
        return bytes(out)


def read_record(path: Path) -> Snapshot:
    """Without its bulk. Raises BadArtifact."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()  # not by name, for which all would be gone through
            file = archive.extractfile(first) if first and first.name == RECORD else None
            if file is None:
                raise ValueError(f"it does not begin with {RECORD}")
            return Snapshot(**json.loads(file.read()))
    except (OSError, ValueError, TypeError, KeyError, tarfile.TarError) as error:
        raise BadArtifact(path, f"not a snapshot of a machine: {error}") from error


def unpack(path: Path, directory: Path) -> Snapshot:
    """`state` and `disk` in `directory` on return, as they were written. Raises BadArtifact."""
    snapshot = read_record(path)
    try:
        with tarfile.open(path) as archive:
            for name, wanted in snapshot.digests.items():
                if name not in (STATE, DISK) or not (member := archive.getmember(name)).isreg():
                    raise BadArtifact(path, f"it has a part {name!r} that is not known here")
                # `filter` came with Python 3.11.4, and a plain file of such a name needs none.
                archive.extract(member, directory, set_attrs=False)
                with (directory / name).open("rb") as file:
                    if digest(file.fileno()) != wanted:
                        raise BadArtifact(path, f"its {name} has changed on disk")
    except (OSError, ValueError, KeyError, tarfile.TarError, EOFError) as error:
        raise BadArtifact(path, f"a damaged snapshot: {error}") from error
    return snapshot


def digest(descriptor: int) -> str:
    whole = hashlib.sha256(os.fstat(descriptor).st_size.to_bytes(8, "little"))
    for offset, data in pieces(descriptor):
        whole.update(offset.to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()
