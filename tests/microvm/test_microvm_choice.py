"""Which VMM and which kernel: what the settings and a pod's annotation say, and what is said when it is not here."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import struct
from pathlib import Path
from typing import NoReturn

import pytest
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.image.build import build
from sampan.image.store import ImageStore
from sampan.runtime.microvm import (
    drivers,
    guestneeds,
    kernelconfig,
    kernels,
    ownkernels,
    presence,
    vmlinux,
)
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece, VMMError
from sampan.runtime.microvm.settings import Settings


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH, and no QEMU anywhere."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(presence, "qemu", lambda: None)
    return tmp_path


def install(path: Path, name: str) -> None:
    (path / name).write_text(f"#!/bin/sh\necho {name} v1.2.3\n")
    (path / name).chmod(0o755)


def test_what_is_installed_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPiece, match="qemu-system-x86_64 is not installed") as caught:
        drivers.chosen(Settings())
    assert "apt-get install" in caught.value.install
    install(path, "firecracker")
    assert drivers.chosen(Settings()) == "firecracker"
    install(path, "cloud-hypervisor")
    assert drivers.chosen(Settings()) == "cloud-hypervisor"
    assert drivers.chosen(Settings(driver="firecracker")) == "firecracker"
    with pytest.raises(MissingPiece, match="qemu-system-x86_64 is not installed"):
        drivers.chosen(Settings(driver="qemu"))
    monkeypatch.setattr(presence, "qemu", lambda: "/usr/bin/qemu-system-x86_64")
    assert drivers.chosen(Settings()) == "qemu"


def test_what_needs_kvm_is_refused_without(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path, "firecracker")
    monkeypatch.setattr(drivers, "kvm_opens", lambda: False)
    with pytest.raises(VMMError, match="firecracker needs KVM, and /dev/kvm cannot be opened"):
        drivers.candidates(Settings())
    with pytest.raises(VMMError, match="the setting `accelerator` is tcg"):
        drivers.candidates(Settings(driver="firecracker", accelerator="tcg"))
    monkeypatch.setattr(drivers, "kvm_opens", lambda: True)
    (driver,) = drivers.candidates(Settings())
    assert (driver.name, driver.accelerator) == ("firecracker", "kvm")


def test_what_was_proven_is_believed_until_the_choice_changes(path: Path) -> None:
    install(path, "firecracker")
    driver = drivers.named("firecracker")
    drivers.prove(path / "kind", driver)
    found = drivers.proven(path / "kind", Settings())
    assert found is not None and found.name == "firecracker"
    assert drivers.proven(path / "kind", Settings(accelerator="tcg")) is None
    install(path, "cloud-hypervisor")
    assert drivers.proven(path / "kind", Settings()) is None
    record = json.loads((path / "kind" / drivers.PROVEN).read_bytes())
    (path / "kind" / drivers.PROVEN).write_text(json.dumps({**record, "boot": "another"}))
    assert drivers.proven(path / "kind", Settings(driver="firecracker")) is None


def test_a_doctor_says_which_vmm_is_missing(path: Path) -> None:
    (path / "settings.json").write_text('{"driver": "cloud-hypervisor"}')
    found = presence.glance(path)
    assert not found.usable and found.why == "cloud-hypervisor is not installed"
    assert "github.com/cloud-hypervisor" in found.install


@pytest.mark.root
def test_kernels_that_are_out_of_reach_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root's are to a user where root ran first: its data directory has the kernels in it, and is its own."""

    def closed(self: Path, pattern: str) -> NoReturn:  # root itself may look anywhere
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "glob", closed)
    assert presence.records(tmp_path / "own") == []
    with pytest.raises(MissingPiece):
        kernels.find(tmp_path / "own")
    with pytest.raises(MissingPiece, match="it has: none"):
        kernels.named(tmp_path / "own", "9.9")


async def test_a_pod_s_own_kernel(runtime: Runtime, home: Path, tmp_path: Path) -> None:

    with pytest.raises(CRIError, match=r"no guest kernel 1\.2\.3 on this node; it has: "):
        await runtime.pod("microvm", annotations={"sampan.dev/vm-kernel": "1.2.3"})
    with pytest.raises(CRIError, match="no guest kernel"):
        await runtime.pod("microvm", annotations={"sampan.dev/vm-kernel": "../kernels"})
    # An image as Ignite's: the kernel in /boot, modules below /lib/modules, compressed or not.
    debian = kernels.find(home / "state" / "microvm" / "kernels")
    boot, below = tmp_path / "ignite/boot", tmp_path / "ignite/lib/modules/9.9/kernel"
    for each in (boot, below):
        each.mkdir(parents=True)
    shutil.copy(debian.image, boot / "vmlinux-9.9")
    for number, name in enumerate(debian.modules):
        data = (debian.directory / "modules" / f"{name}.ko").read_bytes()
        packed = gzip.compress(data, 1) if number % 2 else data
        (below / f"{name}.ko{'.gz' if number % 2 else ''}").write_bytes(packed)
    store = ImageStore(home / "images")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY ignite/ /\n")
    await asyncio.to_thread(build, tmp_path, "ignite-kernel:9.9", store)
    layers = (await store.unpack("ignite-kernel:9.9")).layers
    kernel = ownkernels.from_image(
        layers, home / "state/microvm/kernels", "qemu", "ignite-kernel:9.9"
    )
    assert kernel.modules == debian.modules and kernel.release.startswith(debian.release + "-")
    pod = await runtime.pod("microvm", annotations={"sampan.dev/vm-kernel": kernel.release})
    container = await runtime.container(pod, "sh", "-c", "uname -r")
    await runtime.ended(container)
    assert await runtime.log(container) == debian.release
    # The same without its modules would boot to silence: refused, and not used where it was kept all the same.
    lacks = "built without CONFIG_VIRTIO_MMIO, CONFIG_VIRTIO_CONSOLE"
    own = home / "state/microvm/kernels"
    with pytest.raises(BadArtifact, match=lacks):
        ownkernels.from_file(debian.image, own, "qemu")
    bare = kernels.store(own, "9.9-bare", debian.image.read_bytes(), {}, own=True)
    with pytest.raises(CRIError, match=lacks):
        await runtime.pod("microvm", annotations={"sampan.dev/vm-kernel": bare.release})
    # Two newer ones are here now that were brought by name: everybody's is the same as before.
    assert kernels.find(own, check=False) == debian


def test_what_is_built_in_is_found_by_its_name() -> None:
    marks = [need.mark for need in guestneeds.NEEDS]
    image = b"".join(marks)
    assert guestneeds.lacking(image + guestneeds.ACPI_DEVICE, {}, "qemu") == []
    assert guestneeds.lacking(image, {}, "qemu") == ["CONFIG_ACPI"]
    assert guestneeds.lacking(image, {"virtio_mmio": b"LNRO0005"}, "qemu") == []
    on_pci = image.replace(b"virtio-mmio\0", b"")
    assert guestneeds.lacking(on_pci, {}, "cloud-hypervisor") == []
    off_pci = image.replace(b"virtio-pci\0", b"")
    assert guestneeds.lacking(off_pci, {}, "cloud-hypervisor") == ["CONFIG_VIRTIO_PCI"]
    assert guestneeds.lacking(image.replace(marks[2], b""), {}, "firecracker") == [
        "CONFIG_VIRTIO_BLK"
    ]
    serial = image.replace(marks[4], b"") + guestneeds.ACPI_DEVICE
    assert guestneeds.lacking(serial, {}, "qemu") == []
    assert guestneeds.lacking(serial, {}, "cloud-hypervisor") == ["CONFIG_VIRTIO_VSOCKETS"]


def test_a_kernel_that_carries_its_settings_is_judged_by_them() -> None:
    def image(*without: str) -> bytes:
        others = (need.setting for need in guestneeds.NEEDS)
        names = (*others, *guestneeds.BUILT_IN, "CONFIG_PCI")
        lines = [f"# {each} is not set" if each in without else f"{each}=y" for each in names]
        packed = gzip.compress("\n".join(lines).encode())
        return b"text IKCFG_ST" + packed + b"IKCFG_ED" + guestneeds.ACPI_DEVICE

    assert guestneeds.lacking(image(), {}, "qemu") == []
    assert guestneeds.lacking(image("CONFIG_PCI"), {}, "qemu") == ["CONFIG_PCI"]
    assert guestneeds.lacking(image("CONFIG_PCI"), {}, "firecracker") == []
    # A name that stands there for another reason deceives only where there are no settings to read.
    without = image("CONFIG_EROFS_FS", "CONFIG_DEVTMPFS") + b"erofs\0"
    assert guestneeds.lacking(without, {}, "qemu") == ["CONFIG_EROFS_FS", "CONFIG_DEVTMPFS"]
    assert guestneeds.lacking(without, {"erofs": b""}, "qemu") == ["CONFIG_DEVTMPFS"]
    assert kernelconfig.embedded(image()[:60]) == {}
    damaged = image().replace(b"\x1f\x8b\x08", b"\x1f\x8b\x09")
    assert kernelconfig.embedded(damaged) == {}


def test_a_kernel_with_its_file_server_built_in_shares_directories(tmp_path: Path) -> None:
    note = struct.pack("<III", 4, 8, vmlinux.PHYS32_ENTRY) + b"Xen\0" + bytes(8)
    elf = bytearray(b"\x7fELF\x02".ljust(120, b"\0"))
    struct.pack_into("<Q", elf, 32, 64)
    struct.pack_into("<HH", elf, 54, 56, 1)
    struct.pack_into("<IIQQQQ", elf, 64, 4, 0, 120, 0, 0, len(note))
    drivers_ = b"".join(need.mark for need in guestneeds.NEEDS) + guestneeds.ACPI_DEVICE
    image = bytes(elf) + note + b"\0Linux version 9.8 (me)\0" + drivers_
    (tmp_path / "without").write_bytes(image)
    (tmp_path / "with").write_bytes(image + b"\x016fuse: init (API version %i.%i)\n\0")
    without = ownkernels.from_file(tmp_path / "without", tmp_path / "kernels", "qemu")
    assert without.release.startswith("9.8-") and not without.shares_files
    shares = ownkernels.from_file(tmp_path / "with", tmp_path / "kernels", "qemu")
    assert shares.shares_files and kernels.load(shares.directory).shares_files
    (tmp_path / "old").write_bytes(image.replace(b"version 9.8 ", b"version 5.10.1 "))
    with pytest.raises(BadArtifact, match=r"it is Linux 5\.10\.1, and guests need 5\.12 or newer"):
        ownkernels.from_file(tmp_path / "old", tmp_path / "kernels", "qemu")


def test_a_kernel_brought_by_name_is_everybodys_only_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "places", lambda own: [own])
    mine = kernels.store(tmp_path, "9.8-mine", b"mine", {}, own=True)
    assert kernels.find(tmp_path) == mine
    shared = kernels.store(tmp_path, "9.7-shared", b"shared", {})
    os.utime(shared.directory / presence.KERNEL_RECORD, (1, 1))
    assert kernels.find(tmp_path) == shared and kernels.named(tmp_path, "9.8-mine") == mine


def test_a_kernel_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    layer, place = tmp_path / "layer", tmp_path / "kernels"
    (layer / "boot").mkdir(parents=True)
    with pytest.raises(BadArtifact, match="web:1: no kernel in this image"):
        ownkernels.from_image([layer], place, "qemu", "web:1")
    # A link of an image leads nowhere outside it.
    outside = tmp_path / "secret"
    outside.write_bytes(b"of the host")
    (layer / "boot" / "vmlinux").symlink_to(outside)
    with pytest.raises(BadArtifact, match="no kernel in this image"):
        ownkernels.from_image([layer], place, "qemu", "web:1")
    with pytest.raises(BadArtifact, match="secret: not a Linux boot image"):
        ownkernels.from_file(outside, place, "qemu")
    with pytest.raises(BadArtifact, match="nowhere: there is no such file"):
        ownkernels.from_file(tmp_path / "nowhere", place, "qemu")
    assert not place.exists()
