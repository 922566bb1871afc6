"""The directories that this node keeps for volumes of the class `local-path`: made when first mounted, removed when asked.

The API server asks through the node's endpoint when a volume is given back. What is removed is renamed first, which takes
no time and cannot stop half-way; the files go afterwards, and after a crash at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import tempfile
from pathlib import Path

from sampan.linux import mounts, trees

log = logging.getLogger(__name__)

PREFIX = "pvc-"  # what a volume's directory begins with; nothing else is ever removed
GOING = ".removed-"


class Directories:
    def __init__(self, base: Path, group: asyncio.TaskGroup) -> None:
        self.base = base
        self._group = group

    def remove(self, name: str) -> None:
        """There is no such directory on return. Idempotent. Raises ValueError for what is no volume's, OSError."""
        if not name.startswith(PREFIX) or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is not the directory of a volume")
        if not self.base.is_dir():
            return
        if left := mounts.mounts_below((self.base / name).resolve()):
            # What is mounted in a volume is not the volume's: its files are not to go with it.
            raise OSError(errno.EBUSY, f"still mounted: {', '.join(left)}")
        place = Path(tempfile.mkdtemp(prefix=GOING, dir=self.base))
        try:
            (self.base / name).rename(place / "volume")
        except FileNotFoundError:
            place.rmdir()
            return
        self._delete(place)

    def finish(self) -> None:
        """Go on with what an earlier process left half removed."""
        if self.base.is_dir():
            for place in self.base.glob(f"{GOING}*"):
                self._delete(place)

    def _delete(self, place: Path) -> None:
        self._group.create_task(self._delete_files(place), name=f"remove {place.name}")

    async def _delete_files(self, place: Path) -> None:
        try:
            await asyncio.to_thread(trees.remove, place)
        except OSError as error:
            log.warning("%s: %s; it is tried again at the next start", place, error)


def make(path: Path) -> None:
    """A directory that any user of a container may write to, whatever the umask. What is there stays as it is."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
