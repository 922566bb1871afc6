"""An image's files as what a machine boots from: an initial file system that holds all of them (cpio, the kernel's `newc`).

The kernel unpacks it into memory and starts `/.sampan/init`, which starts the image's own program: nothing is read from a
disk, and nothing that is written stays. Formats: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sampan.image.errors import BadImage

OWN = ".sampan"
INIT = f"/{OWN}/init"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LARGEST = 0xFFFFFFFF  # bytes of a file: the format has eight hexadecimal digits
PIECE = 1 << 20


class Node(Protocol):
    """A file of the merged layers."""

    @property
    def path(self) -> Path: ...  # on the host
    @property
    def status(self) -> os.stat_result: ...
    @property
    def links(self) -> int: ...
    @property
    def children(self) -> Mapping[str, Any]: ...


def start_file(config: Mapping[str, Any], root: Node, host: str) -> bytes:
    """What the image's program is started with: see native/init/init.c. Raises BadImage."""
    arguments = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    if not arguments:
        raise BadImage("the image names no program to start: it has neither ENTRYPOINT nor CMD")
    uid, gid, home = user_of(str(config.get("User") or ""), root)
    environment = list(config.get("Env") or [])
    names = {item.partition("=")[0] for item in environment}
    for name, value in (("PATH", PATH.partition("=")[2]), ("HOME", home), ("TERM", "linux")):
        if name not in names:
            environment.append(f"{name}={value}")
    texts = [host, config.get("WorkingDir") or "/", str(uid), str(gid), str(len(arguments))]
    whole = [*texts, *arguments, *environment]
    if any("\0" in text for text in whole):
        raise BadImage("an argument or variable of the image holds a NUL byte")
    return b"".join(text.encode(errors="surrogateescape") + b"\0" for text in whole)


def user_of(user: str, root: Node) -> tuple[int, int, str]:
    """uid, gid and home of `USER name|uid[:group|gid]`, by the image's own /etc/passwd and /etc/group. Raises BadImage."""
    name, _, group = user.partition(":")
    people = {row[0]: row for row in table(root, "passwd") if len(row) > 5}
    groups = {row[0]: row for row in table(root, "group") if len(row) > 2}
    by_number = {row[2]: row for row in people.values()}
    if not name:
        name = "0"
    row = by_number.get(name) if name.isdigit() else people.get(name)
    if row is None and not name.isdigit():
        raise BadImage(f"unable to find user {name}: no matching entries in passwd file")
    uid, gid, home = (int(row[2]), int(row[3]), row[5]) if row else (int(name), 0, "/")
    if group.isdigit():
        gid = int(group)
    elif group:
        if group not in groups:
            raise BadImage(f"unable to find group {group}: no matching entries in group file")
        gid = int(groups[group][2])
    return uid, gid, home or "/"


def table(root: Node, name: str) -> list[list[str]]:
    etc = root.children.get("etc")
    file = etc.children.get(name) if etc is not None else None
    if file is None or not stat.S_ISREG(file.status.st_mode):
        return []
    text = Path(file.path).read_text(errors="surrogateescape")
    return [line.split(":") for line in text.splitlines()]


def write(
    out: BinaryIO, root: Node, init: bytes, start: bytes, modules: Iterable[bytes], home: bool
) -> int:
    """The archive; how many bytes. `home`: keep files' owners, else all are root's. Raises BadImage, OSError."""
    archive = _Archive(out, home)
    directory = stat.S_IFDIR | 0o755
    archive.add(".", root.status.st_mode, b"")
    archive.add(OWN, directory, b"")
    archive.add(f"{OWN}/init", stat.S_IFREG | 0o755, init)
    archive.add(f"{OWN}/start", stat.S_IFREG | 0o600, start)
    archive.add(f"{OWN}/modules", directory, b"")
    for number, module in enumerate(modules):
        archive.add(f"{OWN}/modules/{number}", stat.S_IFREG | 0o644, module)
    for name, node in walk(root, ""):
        if name.partition("/")[0] != OWN:
            archive.add_node(name, node)
    archive.add("TRAILER!!!", 0, b"")
    return archive.written


def walk(node: Node, name: str) -> Iterator[tuple[str, Node]]:
    """Parents before their children, in the order of their names: the same image gives the same bytes."""
    for child_name in sorted(node.children):
        child = node.children[child_name]
        path = f"{name}/{child_name}" if name else child_name
        yield path, child
        yield from walk(child, path)


class _Archive:
    def __init__(self, out: BinaryIO, owners: bool) -> None:
        self.out, self.owners = out, owners
        self.written = 0
        self.count = 0
        self.numbers: dict[int, int] = {}  # of nodes with several names: their inode here

    def add(self, name: str, mode: int, data: bytes) -> None:
        self.count += 1
        self.head(name, self.count, mode, size=len(data))
        self.put(data)
        self.pad()

    def add_node(self, name: str, node: Node) -> None:
        status = node.status
        mode = status.st_mode
        inode = self.numbers.get(id(node), 0)
        again = inode > 0
        if not again:
            self.count += 1
            inode = self.count
            if node.links > 1:
                self.numbers[id(node)] = inode
        target = os.fsencode(os.readlink(node.path)) if stat.S_ISLNK(mode) else b""
        # A second name of a file has no content: the kernel makes a link to the first (init/initramfs.c, maybe_link).
        size = len(target) if target else status.st_size if stat.S_ISREG(mode) and not again else 0
        if size > LARGEST:
            raise BadImage(
                f"/{name} has {size} bytes: a file of an initial file system has less than 4 GiB"
            )
        device = status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        self.head(
            name, inode, mode, size=size, links=node.links, device=device,
            owner=(status.st_uid, status.st_gid) if self.owners else (0, 0),
            time=max(0, int(status.st_mtime)),
        )  # fmt: skip
        if target:
            self.put(target)
        elif size:
            self.copy(node.path, size)
        self.pad()

    def head(
        self, name: str, inode: int, mode: int, *, size: int, links: int = 1, device: int = 0,
        owner: tuple[int, int] = (0, 0), time: int = 0,
    ) -> None:  # fmt: skip
        raw = os.fsencode(name) + b"\0"
        fields = (
            inode, mode, *owner, links, time & 0xFFFFFFFF, size, 0, 0,
            os.major(device), os.minor(device), len(raw), 0,
        )  # fmt: skip
        self.put(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self.pad()

    def copy(self, path: Path, size: int) -> None:
        left = size
        with open(path, "rb") as file:
            while left:
                data = file.read(min(PIECE, left))
                if not data:
                    raise OSError(f"{path} became shorter while it was read")
                self.put(data)
                left -= len(data)

    def put(self, data: bytes) -> None:
        self.out.write(data)
        self.written += len(data)

    def pad(self) -> None:
        self.put(b"\0" * (-self.written % 4))
