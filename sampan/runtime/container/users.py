"""Who a container runs as: names looked up in the image's own /etc/passwd and /etc/group.

The files belong to the image, which may hold symlinks that lead out of it: they are opened beneath the root only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sampan.runtime.beneath import resolve
from sampan.runtime.sandbox import CannotStart, SecurityContext

LIMIT = 4 << 20  # a passwd file larger than this is not read


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def identity(root: Path, security: SecurityContext) -> Identity:
    """`security.username` is `user[:group]`, by name or number; without it `user` and `group` count.

    Raises CannotStart for a name that the image does not know.
    """
    user, _, group = security.username.partition(":")
    wanted = user or str(security.user)
    entry = next(
        (row for row in rows(root, "etc/passwd", 7) if wanted in (row[0], row[2])),
        None,
    )
    if entry is not None:
        name, uid, gid, home = entry[0], int(entry[2]), int(entry[3]), entry[5]
    elif wanted.isdecimal():
        name, uid, gid, home = "", int(wanted), security.group, "/"
    else:
        raise CannotStart(
            f"unable to find user {wanted}: no matching entries in the image's passwd file"
        )
    groups = rows(root, "etc/group", 4)
    if group:
        gid = group_id(groups, group)
    elif security.group:
        gid = security.group
    # The primary group is among them, as with other runtimes: else dropping it would regain what it is denied.
    extra = [gid, *security.groups]
    if name and not security.strict_groups:
        extra += [int(row[2]) for row in groups if name in row[3].split(",")]
    return Identity(uid, gid, tuple(dict.fromkeys(extra)), home or "/")


def group_id(groups: list[list[str]], wanted: str) -> int:
    for row in groups:
        if row[0] == wanted:
            return int(row[2])
    if wanted.isdecimal():
        return int(wanted)
    raise CannotStart(
        f"unable to find group {wanted}: no matching entries in the image's group file"
    )


def rows(root: Path, path: str, columns: int) -> list[list[str]]:
    """The well-formed lines of a colon-separated file; those with a bad number are skipped as libc does."""
    found = []
    for line in read_beneath(root, path).decode(errors="replace").splitlines():
        row = line.strip().split(":")
        if len(row) >= columns and row[2].isdecimal() and (columns < 7 or row[3].isdecimal()):
            found.append(row)
    return found


def read_beneath(root: Path, path: str) -> bytes:
    """A file of the image, b"" when it is missing. Symlinks are resolved as if `root` were /."""
    found = resolve(root, path)
    if found is None:
        return b""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(found, flags)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read(LIMIT)
        except OSError:
            return b""
