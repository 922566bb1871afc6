"""What a guest kernel must bring, as a module or built in: one that lacks a driver would boot to silence.

A driver that is built in is known by the names that it is registered under, which stand in the image as they are. ACPI counts
where QEMU's virtio-mmio devices are to be found: they are announced by it alone (`LNRO0005`).
"""

from __future__ import annotations

from typing import NamedTuple

from sampan.runtime.microvm import kernels
from sampan.runtime.microvm.errors import BadArtifact
from sampan.runtime.microvm.kernels import Kernel


class Need(NamedTuple):
    module: str
    mark: bytes  # in the image of a kernel that has it built in
    setting: str
    qemu_only: bool = False


NEEDS = (
    Need("virtio_mmio", b"virtio-mmio\0", "CONFIG_VIRTIO_MMIO", True),
    Need("virtio_console", b"virtio_console\0", "CONFIG_VIRTIO_CONSOLE", True),
    Need("virtio_blk", b"virtio_blk\0", "CONFIG_VIRTIO_BLK"),
    Need("virtio_net", b"virtio_net\0", "CONFIG_VIRTIO_NET"),
    Need("erofs", b"erofs\0", "CONFIG_EROFS_FS"),
    Need("overlay", b"overlay\0", "CONFIG_OVERLAY_FS"),
)
ACPI_DEVICE = b"LNRO0005"


def lacking(image: bytes, modules: dict[str, bytes], vmm: str) -> list[str]:
    """The settings that the kernel was built without."""
    qemu = vmm == "qemu"
    found = [
        need.setting
        for need in NEEDS
        if need.module not in modules and need.mark not in image and (qemu or not need.qemu_only)
    ]
    if qemu and not any(ACPI_DEVICE in each for each in (*modules.values(), image)):
        found.append("CONFIG_ACPI")
    return found


def check(image: bytes, modules: dict[str, bytes], vmm: str, name: str) -> None:
    """Raises BadArtifact, about `name`, with what is missing."""
    if missing := lacking(image, modules, vmm):
        raise BadArtifact(
            name,
            f"its guests cannot be reached in {vmm}: it was built without {', '.join(missing)}, and brings no such module",
        )


def verify(kernel: Kernel, vmm: str) -> None:
    """As `check`, of a kernel that is here, all of which is read and is what was unpacked."""
    kernels.load(kernel.directory)
    modules = dict(zip(kernel.modules, kernel.module_files(), strict=True))
    check(kernel.image.read_bytes(), modules, vmm, f"kernel {kernel.release}")
