"""What a container mounts, in a guest: shared with the host, copied, made inside, or refused.

| source                                          | in the guest                                               |
| ConfigMap, Secret, projected, downward API      | copied, read-only, and again at each update, in one step   |
| a file of the pod's own (/etc/hosts, message)   | copied, again when it is written; back when it is writable |
| emptyDir with `medium: Memory`                  | a directory in the guest's memory, shared by its containers |
| emptyDir, hostPath, claim                       | the host's own, by the file server                         |

Without a file server (a guest kernel without FUSE, a VMM without its port) an emptyDir is in the guest's memory, what is
mounted read-only is copied once, up to 64 MiB, and what is writable is refused: what is written would never reach the host.

A kind knows no Kubernetes volumes; what a source is, is read from the layout that kubelets (and our node) share.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sampan.linux import trees
from sampan.runtime.microvm.protocol import Change, Field, Key
from sampan.runtime.sandbox import CannotStart, Mount

GUEST = "/run/v"
COPY_LIMIT = 64 << 20
PIECE = 512 * 1024
DATA = "..data"
# <pods>/<uid>/volumes/<plugin>/<name>, with kubelet's spelling of the plugins or with ours; secrets are elsewhere on tmpfs.
LAYOUT = re.compile(
    r"/volumes/(?:[^/]+/)?(?:kubernetes\.io~)?"
    r"(?P<plugin>configmap|configMap|secret|projected|downwardAPI|downward-api|emptyDir|empty-dir)"
    r"/(?P<name>[^/]+)(?P<rest>/.*)?$"
)
POD_FILE = re.compile(r"/pods/[^/]+/[^/]+$")
LOCAL = ("emptyDir", "empty-dir")


class Treatment(Enum):
    PAYLOAD = "payload"  # a directory whose content is replaced as a whole
    FILE = "file"
    LOCAL = "local"
    SHARED = "shared"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Volume:
    treatment: Treatment
    source: Path
    guest: str  # where it is in the guest, before it is mounted into the container; "": not settled yet
    readonly: bool
    returned: bool = False  # a file that is copied back when the container has ended


def plan(mount: Mount, mounts: str, own: tuple[Path, ...] = (), *, sharing: bool = False) -> Volume:
    """`mounts`: the host's mountinfo(5); `own`: files that the runtime itself made for the pod; `sharing`: by a file server.

    Raises CannotStart for what a guest cannot have.
    """
    path = str(mount.source)
    try:
        status = mount.source.stat()
    except OSError as error:
        raise CannotStart(f"{path}, to be mounted at {mount.target}: {error.strerror}") from error
    name = hashlib.sha256(path.encode()).hexdigest()[:16]
    found = LAYOUT.search(path) or next(
        filter(None, map(LAYOUT.search, origins(path, mounts))), None
    )
    shared = Volume(Treatment.SHARED, mount.source, "", mount.readonly)
    if found and found["plugin"] in LOCAL:
        if sharing and not in_memory(found.string.removesuffix(found["rest"] or ""), mounts):
            return shared
        top = f"{GUEST}/e-{found['name']}"
        return Volume(Treatment.LOCAL, mount.source, top + (found["rest"] or ""), mount.readonly)
    if stat.S_ISREG(status.st_mode):
        is_own = found is not None or mount.source in own or POD_FILE.search(path) is not None
        if not is_own and sharing:
            return shared
        if not is_own and not mount.readonly:
            raise refused(mount)
        readonly = mount.readonly or found is not None
        check_size(mount, status.st_size)
        return Volume(
            Treatment.FILE, mount.source, f"{GUEST}/{name}", readonly, is_own and not readonly
        )
    if not stat.S_ISDIR(status.st_mode):
        raise CannotStart(
            f"{path}, to be mounted at {mount.target}, is a device or socket of the host: a microVM has none"
        )
    if found:
        return Volume(Treatment.PAYLOAD, mount.source, f"{GUEST}/{name}", True)
    if sharing:
        return shared
    if not mount.readonly:
        raise refused(mount)
    check_size(mount, size_of(mount.source))
    return Volume(Treatment.COPY, mount.source, f"{GUEST}/{name}", True)


def refused(mount: Mount) -> CannotStart:
    return CannotStart(
        f"{mount.source} cannot be mounted writable at {mount.target}: the kernel of this microVM has no FUSE, so what is "
        "written would be lost. Bring one that has it (sampan vm kernels fetch), mount it read-only (it is copied), "
        "use an emptyDir, or another runtimeClassName"
    )


def check_size(mount: Mount, size: int) -> None:
    if size > COPY_LIMIT:
        raise CannotStart(
            f"{mount.source}, to be mounted at {mount.target}, holds more than {COPY_LIMIT >> 20} MiB: "
            "a microVM gets a copy in its memory, and that is too much for one"
        )


def size_of(directory: Path) -> int:
    """Bytes of all files; of a tree that is too large, more than COPY_LIMIT and not all."""
    total = 0
    for _, found in trees.walk(directory):
        total += sum(status.st_size for _, status in found if not stat.S_ISDIR(status.st_mode))
        if total > COPY_LIMIT:
            break
    return total


def in_memory(top: str, mounts: str) -> bool:
    """Whether an emptyDir is `medium: Memory`: the node has mounted a tmpfs there."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[4] == top and after.startswith("tmpfs "):
            return True
    return False


def origins(path: str, mounts: str) -> Iterator[str]:
    """Other names of a path that is a bind mount (a subPath): by the mounts of the same device that lead to its root."""
    rows = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        # Blanks and the like are octal escapes there.
        root, point = (text.encode("latin-1").decode("unicode_escape") for text in fields[3:5])
        rows.append((fields[2], root, point))
    own = next((row for row in reversed(rows) if row[2] == path), None)
    if own is None:
        return
    for device, root, point in rows:
        if device == own[0] and point != path and (own[1] + "/").startswith(root.rstrip("/") + "/"):
            rest = own[1][len(root.rstrip("/")) :]
            yield f"{point.rstrip('/')}{rest}"


# Changes that bring a copy about: fields of PUT messages


def put_directory(path: str, status: os.stat_result) -> list[Field]:
    return [(Key.OP, Change.DIRECTORY), (Key.PATH, path), *owner(status)]


def owner(status: os.stat_result) -> list[Field]:
    return [
        (Key.MODE, stat.S_IMODE(status.st_mode)),
        (Key.UID, status.st_uid),
        (Key.GID, status.st_gid),
    ]


def put_file(source: Path, path: str, change: Change = Change.WHOLE) -> Iterator[list[Field]]:
    with source.open("rb") as file:
        status = os.fstat(file.fileno())
        data = file.read(PIECE)
        yield [(Key.OP, change), (Key.PATH, path), *owner(status), (Key.CONTENT, data)]
        while data := file.read(PIECE):
            yield [(Key.OP, Change.APPEND), (Key.PATH, path), (Key.CONTENT, data)]


def put_tree(source: Path, path: str) -> Iterator[list[Field]]:
    """All of a directory; symlinks as they are, what is neither file, directory nor symlink is left out."""
    yield put_directory(path, source.stat())
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        target = f"{path}/{entry.name}"
        if entry.is_symlink():
            yield [(Key.OP, Change.REMOVE_TREE), (Key.PATH, target)]
            yield [(Key.OP, Change.LINK), (Key.PATH, target), (Key.LINK, os.readlink(entry.path))]
        elif entry.is_dir():
            yield from put_tree(Path(entry.path), target)
        elif entry.is_file():
            yield from put_file(Path(entry.path), target)


def update_payload(source: Path, path: str, before: set[str]) -> Iterator[list[Field]]:
    """A new version of an atomically written directory: files first, then `..data` in one step, then what has gone."""
    current = os.readlink(source / DATA)
    if current in before:
        return
    yield from put_tree(source / current, f"{path}/{current}")
    beside = f"{path}/..data_tmp"
    yield [(Key.OP, Change.REMOVE_TREE), (Key.PATH, beside)]
    yield [(Key.OP, Change.LINK), (Key.PATH, beside), (Key.LINK, current)]
    yield [(Key.OP, Change.RENAME), (Key.PATH, beside), (Key.LINK, f"{path}/{DATA}")]
    names = names_in(source)
    for name in sorted(names - before - {current, DATA}):
        yield [
            (Key.OP, Change.LINK),
            (Key.PATH, f"{path}/{name}"),
            (Key.LINK, os.readlink(source / name)),
        ]
    for name in sorted(before - names - {DATA}):
        yield [(Key.OP, Change.REMOVE_TREE), (Key.PATH, f"{path}/{name}")]


def names_in(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name != "..data_tmp"}
