"""Guest kernels of the user's own: a vmlinux, a boot image, or an OCI image with one, as Ignite's kernel images are.

    /boot/vmlinux, /boot/vmlinuz (or with -<release>)     the kernel
    /lib/modules/<release>/                               its modules, where the drivers are not built in

Kept as any kernel is (`kernels.py`), under its release and a digest: it takes no other's place. One that lacks what guests
need (`guestneeds.py`), or is too old for them, is not kept.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sampan.image import lookup
from sampan.runtime.microvm import guestneeds, kernels, modules, vmlinux
from sampan.runtime.microvm.errors import BadArtifact
from sampan.runtime.microvm.kernels import Kernel

BANNER = re.compile(rb"Linux version (\d[0-9A-Za-z.+_~-]*) ")
OLDEST = (5, 12)  # has mount_setattr(2), by which the agent locks mounts
NAMES = ("boot/vmlinux", "boot/vmlinuz", "boot/bzImage")
ROOTS = ("lib/modules", "usr/lib/modules")


def from_file(path: Path, place: Path, vmm: str) -> Kernel:
    """A kernel whose drivers are built in, for guests of that VMM. Raises BadArtifact."""
    if not path.is_file():
        raise BadArtifact(path, "there is no such file")
    return keep(vmlinux.extract(path), {}, place, vmm, str(path))


def from_image(layers: Sequence[Path], place: Path, vmm: str, name: str) -> Kernel:
    """Out of an image's unpacked layers; `name` is for messages. Raises BadArtifact."""
    found = kernel_in(layers)
    if found is None:
        raise BadArtifact(name, "no kernel in this image: neither /boot/vmlinux nor /boot/vmlinuz")
    return keep(vmlinux.extract(found), dict(modules_in(layers)), place, vmm, name)


def kernel_in(layers: Sequence[Path]) -> Path | None:
    """By paths that are resolved inside the image: its links may not lead to files of the host."""
    for name in NAMES:
        beside = sorted({path.name for layer in layers for path in layer.glob(f"{name}-*")})
        for wanted in (name, *(f"boot/{each}" for each in reversed(beside))):
            if (found := lookup.find(layers, f"/{wanted}")) is not None:
                return found
    return None


def modules_in(layers: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """By name, contents uncompressed. Raises BadArtifact."""
    for layer, root in itertools.product(layers, ROOTS):
        for path in sorted((layer / root).rglob("*.ko*")):
            if lookup.find(layers, f"/{path.relative_to(layer)}") != path:
                continue  # a higher layer has another or none, or it is a link
            try:
                yield modules.name_of(path.name), modules.opened(path.name, path.read_bytes())
            except (OSError, ValueError) as error:
                raise BadArtifact(path, str(error)) from error


def keep(image: bytes, found: dict[str, bytes], place: Path, vmm: str, name: str) -> Kernel:
    banner = BANNER.search(image)
    if banner is None:
        raise BadArtifact(name, "it does not say which Linux it is")
    if tuple(map(int, re.findall(rb"\d+", banner[1])[:2])) < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise BadArtifact(
            name, f"it is Linux {banner[1].decode()}, and guests need {least} or newer"
        )
    guestneeds.check(image, found, vmm, name)
    digest = hashlib.sha256(image)
    for each in sorted(found):
        digest.update(hashlib.sha256(found[each]).digest())
    release = f"{banner[1].decode()}-{digest.hexdigest()[:8]}"
    return kernels.store(place, release, image, found, own=True)
