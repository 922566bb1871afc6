"""Images as drives: an EROFS file per image, made when a pod first needs it, read by all guests through one page cache.

<directory>/images/<digest of the layers>.erofs
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from sampan.image import UnpackedImage
from sampan.runtime.microvm import erofs
from sampan.runtime.sandbox import CannotStart

# Where every container has something mounted: made in the image, a start need not make it in the writable layer.
PLACES = ("proc/", "sys/", "dev/", "etc/hostname", "etc/hosts", "etc/resolv.conf")
# A drive that is made without root names owners by what was noted of them.
OWNED = ("owners",)


class Drives:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._making: dict[str, asyncio.Lock] = {}

    @staticmethod
    def key(image: UnpackedImage) -> str:
        """Layers are unpacked under their digests, so their paths name their content."""
        named = "\n".join((*map(str, image.layers), *PLACES, *(() if os.geteuid() == 0 else OWNED)))
        return hashlib.sha256(named.encode()).hexdigest()[:32]

    async def open(self, image: UnpackedImage) -> int:
        """A descriptor for reading. Raises CannotStart."""
        key = self.key(image)
        path = self.directory / f"{key}.erofs"
        async with self._making.setdefault(key, asyncio.Lock()):
            if not whole(path):
                self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                try:
                    await asyncio.to_thread(erofs.build, image.layers, path, PLACES)
                except (OSError, ValueError) as error:
                    raise CannotStart(
                        f"cannot make a drive of image {image.reference}: {error}"
                    ) from error
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotStart(f"{path}: {error.strerror}") from error

    def collect(self, keep: int = 64) -> None:
        """Remove half-made ones, and those that were not read for longest beyond `keep`."""
        if not self.directory.is_dir():
            return
        for path in self.directory.glob(".*"):
            path.unlink(missing_ok=True)
        drives = sorted(self.directory.glob("*.erofs"), key=lambda path: path.stat().st_atime)
        for path in drives[: max(0, len(drives) - keep)]:
            path.unlink(missing_ok=True)


def whole(path: Path) -> bool:
    """As long as its superblock says, and with the magic number: one that was cut or overwritten is made anew."""
    try:
        with path.open("rb") as file:
            file.seek(1024)
            head = file.read(erofs.SUPERBLOCK.size)
            fields = erofs.SUPERBLOCK.unpack(head)
            return (
                fields[0] == erofs.MAGIC
                and os.fstat(file.fileno()).st_size == fields[9] * erofs.BLOCK
            )
    except (OSError, ValueError, IndexError, erofs.struct.error):
        return False
