"""Paths inside a tree that somebody else filled: symlinks are followed as if its root were /, so none leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

LONGEST_CHAIN = 40  # symlinks, as the kernel's


def resolve(root: Path, path: str) -> Path | None:
    """The file that `path` names in the tree at `root`; None when it does not exist.

    The tree must not change meanwhile: the answer is a path, not a descriptor.
    """
    base = Path(os.path.normpath(root))
    parts = path.split("/")[::-1]
    here: list[str] = []
    hops = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = here[:-1]
            continue
        candidate = base.joinpath(*here, part)
        if candidate.is_symlink():
            hops += 1
            if hops > LONGEST_CHAIN:
                return None
            target = os.readlink(candidate)
            if target.startswith("/"):
                here = []
            parts.extend(target.split("/")[::-1])
            continue
        here.append(part)
    found = base.joinpath(*here)
    return found if found.exists() else None
