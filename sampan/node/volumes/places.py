"""Volumes that are a place: emptyDir (a directory, or memory), hostPath (somebody else's path), and PersistentVolumes that
are a directory or a device of this node.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.kube.quantity import parse
from sampan.linux import mounts, trees
from sampan.node.errors import VolumeError
from sampan.node.podspec import Object
from sampan.node.volumes import directories

# Sources of PersistentVolumes.
_KINDS = frozenset(
    (
        "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume", "flocker",
        "gcePersistentDisk", "glusterfs", "iscsi", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd",
        "scaleIO", "storageos", "vsphereVolume",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statistics:
    """Bytes and inodes."""

    capacity: int
    available: int
    used: int
    inodes: int
    inodes_free: int
    inodes_used: int


def empty_dir(path: Path, source: Object, root: bool, group: int | None) -> Path:
    """A world-writable directory, on tmpfs when memory was asked for and mounting is possible. Idempotent."""
    if path.is_dir() and (source.get("medium") != "Memory" or not root or os.path.ismount(path)):
        return path  # its mode is the pod's business by now
    path.mkdir(parents=True, exist_ok=True)
    if source.get("medium") == "Memory" and root:
        limit = source.get("sizeLimit")
        size = f"size={parse(limit).value()}," if limit and parse(limit).value() else ""
        mounts.mount("tmpfs", path, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, f"{size}mode=0777")
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


def persistent(volume: Object, own: Path) -> Path:
    """Where a PersistentVolume's data is on this node. `own`: where it keeps directories for volumes itself."""
    spec = volume["spec"]
    block = spec.get("volumeMode") == "Block"
    if source := spec.get("hostPath"):
        path = host_path({**source, "type": "BlockDevice"} if block else source)
    elif source := spec.get("local"):
        path = Path(source["path"])
        if path.parent == own and not block:
            directories.make(path)
        if not path.exists():
            raise VolumeError(f'path "{path}" does not exist')
    else:
        kind = next((key for key in spec if isinstance(spec[key], dict) and key in _KINDS), "this")
        if kind == "csi":
            driver = spec["csi"].get("driver")
            raise VolumeError(
                f"kubernetes.io/csi: driver name {driver} not found in the list of registered CSI drivers"
            )
        raise VolumeError(
            f"no volume plugin matched: this node mounts hostPath and local volumes, not {kind}"
        )
    if block and not stat.S_ISBLK(path.stat().st_mode):
        raise VolumeError(f'path "{path}" is not a block device')
    return path


def statistics(path: Path) -> Statistics:
    """Of the file system that the volume is on, as kubelet measures local volumes."""
    found = os.statvfs(path)
    return Statistics(
        capacity=found.f_blocks * found.f_frsize,
        available=found.f_bavail * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        inodes_used=found.f_files - found.f_ffree,
    )


def belongs_to(path: Path, group: int) -> bool:
    """Whether the volume's root is the group's already: then OnRootMismatch leaves everything as it is (KEP-695)."""
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    return found.st_gid == group and mode & 0o2070 == 0o2070


def give_to_group(path: Path, group: int) -> None:
    """fsGroup: everything in the volume belongs to the group, and what is made later will. Links are not followed."""
    for directory, found in trees.walk(path):
        os.chown(directory, -1, group)
        os.chmod(directory, stat.S_IMODE(os.fstat(directory).st_mode) | 0o2770)
        for entry, status in found:
            if stat.S_ISDIR(status.st_mode):
                continue
            os.chown(entry.name, -1, group, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                _open_to_group(directory, entry.name)


def _open_to_group(directory: int, name: str) -> None:
    """By a descriptor: whoever else writes to the volume may put a link to a file of the host's in its place meanwhile."""
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISLNK(mode):
            os.chmod(f"/proc/self/fd/{file}", stat.S_IMODE(mode) | 0o660)
    finally:
        os.close(file)
