"""Container logs are kept within bounds: a file that grew too large is put aside, older ones are packed, the oldest go.

    0.log                     being written
    0.log.20260131-093000     put aside last: still read by who follows the log
    0.log.20260131-091500.gz  older ones, packed

The runtime is told to open the log anew (CRI's ReopenContainerLog); should it fail, the file goes back under its name, so
that nothing is lost. Sizes are looked at every ten seconds, as kubelet does: no event tells the size of a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0  # seconds
STAMP = "%Y%m%d-%H%M%S"
PACKED = ".gz"
UNFINISHED = ".tmp"


class LogRotation:
    """`running` gives (container id, path of its log) of what runs now."""

    def __init__(
        self,
        cri: CRIClient,
        running: Callable[[], Iterable[tuple[str, Path]]],
        *,
        most_bytes: int,
        most_files: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cri = cri
        self._running = running
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._clock = clock

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Rotate every log that is too large. One that cannot be is tried again the next time."""
        for container, path in list(self._running()):
            try:
                if path.stat().st_size > self._most_bytes:
                    await self.rotate(container, path)
            except FileNotFoundError:
                continue  # the container has just gone, or has written nothing
            except (CRIError, OSError) as error:
                log.warning("the log of container %s cannot be rotated: %s", container, error)

    async def rotate(self, container: str, path: Path) -> None:
        """Put the log aside and begin a new one. Raises CRIError, OSError; then the log is where it was."""
        await asyncio.to_thread(self._make_room, path)
        aside = self._free_name(path)
        path.rename(aside)
        try:
            await self._cri.reopen_container_log(container_id=container)
        except BaseException:
            aside.rename(path)
            raise

    def _free_name(self, path: Path) -> Path:
        moment = self._clock()
        while True:
            found = path.with_name(f"{path.name}.{time.strftime(STAMP, time.gmtime(moment))}")
            if not found.exists() and not found.with_name(found.name + PACKED).exists():
                return found
            moment += 1

    def _make_room(self, path: Path) -> None:
        """Before another file is put aside: pack those that are, and delete the oldest beyond the limit."""
        rotated = []
        for each in sorted(path.parent.glob(f"{path.name}.*")):
            if each.suffix == UNFINISHED:
                each.unlink()
            else:
                rotated.append(each)
        # Of `most_files` one is being written and one is about to be put aside.
        keep = max(self._most_files - 2, 0)
        for each in rotated[: max(len(rotated) - keep, 0)]:
            each.unlink(missing_ok=True)
        for each in rotated[max(len(rotated) - keep, 0) :]:
            if each.suffix != PACKED:
                pack(each)


def pack(path: Path) -> None:
    """Replace a file by its gzip, whole or not at all."""
    packed = path.with_name(path.name + PACKED)
    unfinished = packed.with_name(packed.name + UNFINISHED)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(path.open("rb"))
        target = stack.enter_context(unfinished.open("wb"))
        os.fchmod(target.fileno(), 0o600)
        with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as stream:
            shutil.copyfileobj(source, stream)
        target.flush()
        os.fsync(target.fileno())
    unfinished.rename(packed)
    path.unlink()
