"""Files that change together: a directory whose content is replaced in one step, as Kubernetes' AtomicWriter does.

    volume/..2026_01_31_10_00_00.123/key    the files
    volume/..data -> ..2026_01_31_10_00_00.123
    volume/key -> ..data/key                what readers open

A new version is written beside the old one and `..data` is renamed over: a reader sees the old set or the new one.
Names that start with `..` are reserved by this layout.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

DATA = "..data"


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644
    owner: int = -1


Payload = dict[str, File]  # by path relative to the volume


def check(payload: Payload) -> None:
    """Raise ValueError for a path that would leave the volume or clash with the layout."""
    for name in payload:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name or name.startswith(".."):
            raise ValueError(f"invalid path {name!r}: must be relative and must not contain '..'")


def write(directory: Path, payload: Payload, group: int | None = None) -> bool:
    """Make the directory hold exactly the payload; True when it did not already. The directory exists."""
    check(payload)
    current = _current(directory)
    if current is not None and _holds(current, payload):
        _link(directory, payload)
        return False
    stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    fresh = Path(tempfile.mkdtemp(prefix=stamp, dir=directory))
    fresh.chmod(0o755)
    for name, file in payload.items():
        _write_file(fresh, name, file, group)
    if group is not None:
        _own_directories(fresh, group)
    link = directory / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.rename(directory / DATA)
    _link(directory, payload)
    if current is not None:
        shutil.rmtree(current, ignore_errors=True)
    return True


def _current(directory: Path) -> Path | None:
    try:
        return directory / os.readlink(directory / DATA)
    except FileNotFoundError:
        return None


def _holds(current: Path, payload: Payload) -> bool:
    found = {str(p.relative_to(current)) for p in current.rglob("*") if p.is_file()}
    if found != set(payload):
        return False
    return all((current / name).read_bytes() == file.content for name, file in payload.items())


def _write_file(base: Path, name: str, file: File, group: int | None) -> None:
    target = base / name
    if target.parent != base:
        target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as out:
            out.write(file.content)
        if group is not None or file.owner >= 0:
            os.fchown(descriptor, file.owner, -1 if group is None else group)
        # A group that owns the volume can read it, whatever the mode says (fsGroup on a read-only volume).
        os.fchmod(descriptor, file.mode | (0o440 if group is not None else 0))
    finally:
        os.close(descriptor)


def _own_directories(base: Path, group: int) -> None:
    for path in (base, *(p for p in base.rglob("*") if p.is_dir())):
        os.chown(path, -1, group)
        path.chmod(0o2755)


def _link(directory: Path, payload: Payload) -> None:
    """User-visible names point into `..data`; the names of what is gone are removed."""
    wanted = {PurePosixPath(name).parts[0] for name in payload}
    present = set()
    for entry in os.scandir(directory):
        if entry.name.startswith("..") and entry.is_dir(follow_symlinks=False):
            continue
        if entry.name in (DATA, "..data_tmp"):
            continue
        present.add(entry.name)
    for name in wanted - present:
        (directory / name).symlink_to(f"{DATA}/{name}")
    for name in present - wanted:
        (directory / name).unlink()
