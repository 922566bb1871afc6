"""Volumes that are a place: emptyDir (a directory, or memory), hostPath (somebody else's path), and claims on either."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sampan.kube.quantity import parse
from sampan.node import linux
from sampan.node.errors import VolumeError
from sampan.node.podspec import Object


def empty_dir(path: Path, source: Object, root: bool, group: int | None) -> Path:
    """A world-writable directory, on tmpfs when memory was asked for and mounting is possible. Idempotent."""
    if path.is_dir() and (source.get("medium") != "Memory" or not root or os.path.ismount(path)):
        return path  # its mode is the pod's business by now
    path.mkdir(parents=True, exist_ok=True)
    if source.get("medium") == "Memory" and root:
        limit = source.get("sizeLimit")
        size = f"size={parse(limit).value()}," if limit and parse(limit).value() else ""
        linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"{size}mode=0777")
    path.chmod(0o777 if group is None else 0o2777)
    if group is not None:
        os.chown(path, -1, group)
    return path


_CHECKS: dict[str, tuple[str, Any]] = {
    "Directory": ("a directory", stat.S_ISDIR),
    "DirectoryOrCreate": ("a directory", stat.S_ISDIR),
    "File": ("a file", stat.S_ISREG),
    "FileOrCreate": ("a file", stat.S_ISREG),
    "Socket": ("a socket", stat.S_ISSOCK),
    "CharDevice": ("a character device", stat.S_ISCHR),
    "BlockDevice": ("a block device", stat.S_ISBLK),
}


def host_path(source: Object) -> Path:
    """The path itself, checked and made as `type` asks. Without a type a missing directory is made, as runtimes do."""
    path, kind = Path(source["path"]), source.get("type") or ""
    if not path.exists():
        if kind in ("", "DirectoryOrCreate"):
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        elif kind == "FileOrCreate":
            if not path.parent.is_dir():
                raise VolumeError(f"hostPath type check failed: {path.parent} does not exist")
            path.touch(mode=0o644)
        else:
            raise VolumeError(f"hostPath type check failed: {path} is not {_CHECKS[kind][0]}")
    if kind and kind in _CHECKS:
        wanted, check = _CHECKS[kind]
        if not check(path.stat().st_mode):
            raise VolumeError(f"hostPath type check failed: {path} is not {wanted}")
    return path


def persistent(volume: Object) -> Path:
    """Where a PersistentVolume's data is on this node."""
    spec = volume["spec"]
    if source := spec.get("hostPath"):
        return host_path(source)
    if source := spec.get("local"):
        path = Path(source["path"])
        if not path.exists():
            raise VolumeError(f"local volume path {path} does not exist")
        return path
    kinds = sorted(k for k in spec if isinstance(spec[k], dict))
    raise VolumeError(
        f"PersistentVolume {volume['metadata']['name']!r}: no volume plugin matched ({', '.join(kinds)}); "
        "hostPath and local are known"
    )


def give_to_group(path: Path, group: int) -> None:
    """fsGroup: everything in the volume belongs to the group, and what is made later will. Links are not followed."""
    for directory, _, files in os.walk(path):
        os.chown(directory, -1, group, follow_symlinks=False)
        mode = os.lstat(directory).st_mode
        os.chmod(directory, stat.S_IMODE(mode) | 0o2770)
        for name in files:
            file = os.path.join(directory, name)
            found = os.lstat(file)
            os.chown(file, -1, group, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                os.chmod(file, stat.S_IMODE(found.st_mode) | 0o660)
