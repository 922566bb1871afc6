"""What a guest kernel must bring, as a module or built in: one that lacks a driver would boot to silence.

A kernel that carries its settings (`kernelconfig.py`) is judged by them, and by all that the agent and its containers use.
In any other a driver that is built in is known by the names that it is registered under, which stand in the image as they
are. ACPI counts where QEMU's virtio-mmio devices are to be found: they are announced by it alone (`LNRO0005`).
"""

from __future__ import annotations

from typing import NamedTuple

from sampan.runtime.microvm import kernelconfig, kernels
from sampan.runtime.microvm.errors import BadArtifact
from sampan.runtime.microvm.kernels import Kernel


class Need(NamedTuple):
    module: str
    mark: bytes  # in the image of a kernel that has it built in
    setting: str
    only: tuple[str, ...] = ()  # the VMMs whose guests need it; none named: all


NEEDS = (
    Need("virtio_mmio", b"virtio-mmio\0", "CONFIG_VIRTIO_MMIO", ("qemu", "firecracker")),
    Need("virtio_console", b"virtio_console\0", "CONFIG_VIRTIO_CONSOLE", ("qemu",)),
    Need("virtio_blk", b"virtio_blk\0", "CONFIG_VIRTIO_BLK"),
    Need("virtio_net", b"virtio_net\0", "CONFIG_VIRTIO_NET"),
    Need(
        "vmw_vsock_virtio_transport", b"vmw_vsock_virtio_transport\0", "CONFIG_VIRTIO_VSOCKETS",
        ("firecracker", "cloud-hypervisor"),
    ),
    Need("erofs", b"erofs\0", "CONFIG_EROFS_FS"),
    Need("overlay", b"overlay\0", "CONFIG_OVERLAY_FS"),
    Need("virtio_pci", b"virtio-pci\0", "CONFIG_VIRTIO_PCI", ("cloud-hypervisor",)),
)  # fmt: skip
ACPI_DEVICE = b"LNRO0005"
# Never a module, and with no name in the image to know them by. First what the agent comes up with, then what START asks for.
BUILT_IN = (
    "CONFIG_64BIT", "CONFIG_BLK_DEV_INITRD", "CONFIG_BINFMT_ELF", "CONFIG_DEVTMPFS", "CONFIG_TMPFS", "CONFIG_PROC_FS",
    "CONFIG_SYSFS", "CONFIG_EPOLL", "CONFIG_SIGNALFD", "CONFIG_INET",
    "CONFIG_PID_NS", "CONFIG_CGROUPS", "CONFIG_MEMCG", "CONFIG_CGROUP_PIDS", "CONFIG_CGROUP_SCHED", "CONFIG_UNIX98_PTYS",
    "CONFIG_SECCOMP_FILTER", "CONFIG_TMPFS_XATTR",
)  # fmt: skip


def lacking(image: bytes, modules: dict[str, bytes], vmm: str) -> list[str]:
    """The settings that the kernel was built without."""
    settings = kernelconfig.embedded(image)
    found = [
        need.setting
        for need in NEEDS
        if (vmm in need.only or not need.only)
        and need.module not in modules
        and not (settings.get(need.setting) == "y" if settings else need.mark in image)
    ]
    if settings:
        found += [name for name in BUILT_IN if settings.get(name) != "y"]
    if vmm == "qemu" and not any(ACPI_DEVICE in each for each in (*modules.values(), image)):
        found.append("CONFIG_ACPI")
    elif vmm == "qemu" and settings and settings.get("CONFIG_PCI") != "y":
        # ACPI has a handler for PCI's configuration space among those that it cannot do without: no table is loaded.
        found.append("CONFIG_PCI")
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
