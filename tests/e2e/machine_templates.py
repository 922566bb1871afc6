"""Templates of microVMs, and what this machine boots them with, kept from one cluster of the tests to the next.

Booting one takes seconds. A template is named by all that it depends on and checked by digest before it is used, so one
that does not fit, or is damaged, is passed over by Sampan itself. Nobody writes to a finished one, so it is lent under a
second name of the same files: six of them are half a gigabyte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from sampan.runtime.microvm.drivers import PROVEN

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "e2e" / "microvm"
MOST = 6


def lend(directory: Path) -> None:
    """Put those that are kept into `directory`, the kind's own in a data directory. Idempotent."""
    if not directory.parent.exists():
        return
    owner = directory.parent.stat()
    _put(CACHE, directory, _copy if owner.st_uid != os.geteuid() else _link)
    if directory.exists() and owner.st_uid != os.geteuid():
        subprocess.run(
            ["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(directory)], check=True
        )


def keep(directory: Path) -> None:
    """Take from `directory` what is new."""
    _put(directory, CACHE, _link)
    records = CACHE.glob("templates/[!.]*/template.json")
    for record in sorted(records, key=lambda path: path.stat().st_mtime)[:-MOST]:
        shutil.rmtree(record.parent, ignore_errors=True)


def _put(source: Path, target: Path, put: Callable[[Path, Path], None]) -> None:
    records = source.glob("templates/[!.]*/template.json")
    for path in [*(record.parent for record in records), source / PROVEN]:
        place = target / path.relative_to(source)
        if place.exists() or not path.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        put(path, beside)
        try:
            beside.rename(place)
        except OSError:  # another worker was first
            shutil.rmtree(beside)


def _copy(source: Path, target: Path) -> None:
    command = ["cp", "--archive", "--sparse=always", str(source), str(target)]
    subprocess.run(command, check=True)


def _link(source: Path, target: Path) -> None:
    """The same files under another name; copies where that is on another file system."""
    if subprocess.run(
        ["cp", "--archive", "--link", str(source), str(target)], check=False, capture_output=True
    ).returncode:
        shutil.rmtree(target, ignore_errors=True)
        _copy(source, target)
