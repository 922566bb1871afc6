"""A read-only file system image (EROFS) out of an image's layers, written by one pass over their merged view.

Only what needs no compression is used: plain files, one block size, compact and extended inodes, inline extended
attributes. Layers are merged here, whiteouts applied, so neither a mount nor privilege nor erofs-utils is needed.
Format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux.

    block 0        superblock at 1024
    from block 1   inodes, 32 or 64 bytes each and their attributes, in 32-byte slots: a node's number is its slot
    after those    directories and symlinks, then files' contents, each from a block of its own
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 4096
SLOT = 32
MAGIC = 0xE0F5E1E2
PLAIN = 0  # data layout: EROFS_INODE_FLAT_PLAIN
NO_BLOCK = 0xFFFFFFFF
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ")
EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
DIRENT = struct.Struct("<QHBx")
ATTRIBUTE = struct.Struct("<BBH")
# Prefixes that have a number of their own in the format.
PREFIXES = ((1, "user."), (4, "trusted."), (6, "security."))
KINDS = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}  # fmt: skip
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
OVERRIDE = "user.containers.override_stat"  # noted by who unpacked without root (image/extract.py)
OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")


@dataclass(slots=True, eq=False)
class Node:
    path: Path  # on the host
    status: os.stat_result
    children: dict[str, Node] = field(default_factory=dict)
    links: int = 1
    slot: int = -1
    data: bytes = b""  # of a directory or a symlink
    block: int = NO_BLOCK
    attributes: bytes = b""

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.status.st_mode)

    @property
    def size(self) -> int:
        return self.status.st_size if self.kind == stat.S_IFREG else len(self.data)


def build(layers: Sequence[Path], target: Path, places: Sequence[str] = ()) -> None:
    """Write the merged view of `layers` (lowest first) to `target`, whole or not at all.

    `places`, directories where they end in a slash and else files, are there in any case, empty if no layer has them.
    """
    root = merge(layers)
    for place in places:
        provide(root, place)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("wb") as out:
            write(root, out.fileno())
            os.fsync(out.fileno())
        beside.chmod(0o444)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


# The merged view


def merge(layers: Sequence[Path]) -> Node:
    if not layers:
        raise ValueError("an image without layers has no files")
    root = Node(layers[-1], layers[-1].stat())
    seen: dict[tuple[int, int], Node] = {}
    for layer in layers:
        overlay(root, layer, seen)
    return root


def overlay(into: Node, directory: Path, seen: dict[tuple[int, int], Node]) -> None:
    """Lay what is in `directory` over what is there, as overlayfs and the OCI image spec say."""
    with os.scandir(directory) as found:
        entries = list(found)
    if opaque(directory) or any(entry.name == OPAQUE for entry in entries):
        into.children.clear()
    for entry in entries:
        if entry.name.startswith(WHITEOUT):
            if entry.name != OPAQUE:
                into.children.pop(entry.name.removeprefix(WHITEOUT), None)
            continue
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            into.children.pop(entry.name, None)
            continue
        path = Path(entry.path)
        if stat.S_ISDIR(status.st_mode):
            present = into.children.get(entry.name)
            if present is None or present.kind != stat.S_IFDIR:
                present = into.children[entry.name] = Node(path, status)
            else:
                present.path, present.status = path, status
            overlay(present, path, seen)
            continue
        identity = (status.st_dev, status.st_ino)
        node = seen.get(identity) if status.st_nlink > 1 else None
        if node is None:
            node = Node(path, status)
            if status.st_nlink > 1:
                seen[identity] = node
        else:
            node.links += 1
        into.children[entry.name] = node


def provide(root: Node, place: str) -> None:
    """Make `place`, unless it would lie behind a symlink or a file."""
    *above, name = place.rstrip("/").split("/")
    node = root
    for part in above:
        node = node.children.setdefault(part, empty(stat.S_IFDIR | 0o755, root.status))
        if node.kind != stat.S_IFDIR:
            return
    kind = stat.S_IFDIR | 0o755 if place.endswith("/") else stat.S_IFREG | 0o644
    node.children.setdefault(name, empty(kind, root.status))


def empty(mode: int, like: os.stat_result) -> Node:
    """Root's, as old as `like`."""
    fields = (mode, 0, 0, 1, 0, 0, 0, like.st_atime, like.st_mtime, like.st_ctime)
    return Node(Path(os.devnull), os.stat_result(fields, {"st_mtime_ns": like.st_mtime_ns}))


def opaque(directory: Path) -> bool:
    for name in OPAQUE_ATTRIBUTES:
        try:
            if os.getxattr(directory, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


# The image


def write(root: Node, out: int) -> None:
    nodes = list(dict.fromkeys(each for _, _, each in walk(root, root)))
    slots = place_inodes(nodes)
    inodes = (slots * SLOT + BLOCK - 1) // BLOCK
    block = 1 + inodes
    for node, parent, _ in list(directories(root, root)):
        node.data = directory(node, parent)
    for node in nodes:
        if node.kind == stat.S_IFLNK:
            node.data = os.fsencode(os.readlink(node.path))
        if node.size:
            node.block = block
            block += (node.size + BLOCK - 1) // BLOCK
    for node in nodes:
        os.pwrite(out, inode(node), BLOCK + node.slot * SLOT)
        if node.data:
            os.pwrite(out, node.data, node.block * BLOCK)
        elif node.size:
            copy(node, out)
    os.pwrite(out, superblock(root, len(nodes), block), 1024)
    os.ftruncate(out, block * BLOCK)


def walk(node: Node, parent: Node) -> Iterator[tuple[Node, Node, Node]]:
    """Every node, parents first: (directory, its parent, node)."""
    yield node, parent, node
    for child in node.children.values():
        if child.kind == stat.S_IFDIR:
            yield from walk(child, node)
        else:
            yield node, parent, child


def directories(node: Node, parent: Node) -> Iterator[tuple[Node, Node, Node]]:
    return (each for each in walk(node, parent) if each[2].kind == stat.S_IFDIR)


def place_inodes(nodes: Sequence[Node]) -> int:
    """Give every node its slots; how many there are in all. No inode may lie across two blocks."""
    slot = 0
    for node in nodes:
        node.attributes = attributes(node.path)
        size = EXTENDED.size + len(node.attributes)
        wanted = (size + SLOT - 1) // SLOT
        room = BLOCK // SLOT - slot % (BLOCK // SLOT)
        if wanted > room and (wanted <= BLOCK // SLOT or room < 2):
            slot += room
        node.slot = slot
        slot += wanted
    return slot


def inode(node: Node) -> bytes:
    """The extended form always: the compact one has no time and no large owners."""
    status = node.status
    mode, uid, gid = ownership(node)
    raw = NO_BLOCK if node.block == NO_BLOCK else node.block
    if node.kind in (stat.S_IFCHR, stat.S_IFBLK):
        raw = device(status.st_rdev)
    links = node.links
    if node.kind == stat.S_IFDIR:
        links = 2 + sum(child.kind == stat.S_IFDIR for child in node.children.values())
    count = (len(node.attributes) - 12) // 4 + 1 if node.attributes else 0
    head = EXTENDED.pack(
        1 | PLAIN << 1, count, mode, 0, node.size, raw, node.slot + 1, uid, gid,
        max(0, status.st_mtime_ns // 1_000_000_000), status.st_mtime_ns % 1_000_000_000, links,
    )  # fmt: skip
    return head + node.attributes


def ownership(node: Node) -> tuple[int, int, int]:
    """Mode, user and group. Without root all files are the user's who unpacked them: root's in the guest, if nothing else was
    noted beside them then."""
    status = node.status
    if os.geteuid() == 0:
        return status.st_mode, status.st_uid, status.st_gid
    try:
        noted = os.getxattr(node.path, OVERRIDE, follow_symlinks=False)
        uid, gid, mode = noted.split(b":")[:3]
        return stat.S_IFMT(status.st_mode) | int(mode, 8) & 0o7777, int(uid), int(gid)
    except (OSError, ValueError):
        return status.st_mode, 0, 0


def device(number: int) -> int:
    """As the kernel's new_encode_dev."""
    major, minor = os.major(number), os.minor(number)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def attributes(path: Path) -> bytes:
    """Inline extended attributes: file capabilities above all. Overlay's own are not the image's."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return b""
    out = bytearray()
    for name in sorted(names):
        number, prefix = next(((n, p) for n, p in PREFIXES if name.startswith(p)), (0, ""))
        if not number or ".overlay." in name or name == OVERRIDE:
            continue
        try:
            value = os.getxattr(path, name, follow_symlinks=False)
        except OSError:
            continue
        rest = os.fsencode(name.removeprefix(prefix))
        entry = ATTRIBUTE.pack(len(rest), number, len(value)) + rest + value
        out += entry + b"\0" * (-len(entry) % 4)
    return bytes(12) + bytes(out) if out else b""


def directory(node: Node, parent: Node) -> bytes:
    """Blocks of entries, sorted by name through all of them, each block with its names behind its entries."""
    entries = [(b".", node), (b"..", parent)]
    entries += [(os.fsencode(name), child) for name, child in node.children.items()]
    entries.sort(key=lambda entry: entry[0])
    blocks: list[bytes] = []
    batch: list[tuple[bytes, Node]] = []
    used = 0
    for name, child in entries:
        size = DIRENT.size + len(name)
        if used + size > BLOCK:
            blocks.append(directory_block(batch).ljust(BLOCK, b"\0"))
            batch, used = [], 0
        batch.append((name, child))
        used += size
    return b"".join([*blocks, directory_block(batch)])


def directory_block(entries: Sequence[tuple[bytes, Node]]) -> bytes:
    offset = DIRENT.size * len(entries)
    head = bytearray()
    for name, node in entries:
        head += DIRENT.pack(node.slot, offset, KINDS[node.kind])
        offset += len(name)
    return bytes(head) + b"".join(name for name, _ in entries)


def copy(node: Node, out: int) -> None:
    with node.path.open("rb", buffering=0) as source:
        offset, left = node.block * BLOCK, node.size
        while left:
            try:
                done = os.copy_file_range(source.fileno(), out, left, None, offset)
            except OSError:
                data = source.read(min(left, 1 << 20))
                done = os.pwrite(out, data, offset)
            if not done:
                raise OSError(f"{node.path} became shorter while it was read")
            offset += done
            left -= done


def superblock(root: Node, nodes: int, blocks: int) -> bytes:
    return SUPERBLOCK.pack(
        MAGIC, 0, 0, 12, 0, root.slot, nodes, 0, 0, blocks, 1, 0, bytes(16), bytes(16), 0, 0, 0, 0, 0, 0, 0, 0,
    ).ljust(128, b"\0")  # fmt: skip
