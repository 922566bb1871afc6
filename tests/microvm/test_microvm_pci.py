"""A guest on a PCI bus, as Cloud Hypervisor's are: QEMU's `pc` machine has such a bus too, and plugs disks in by ACPI.

So this much of that driver's guest is seen here: the modules and the command line that it is given boot to the agent, and
disks that are plugged in, in any order, are found by their serial numbers, and can be taken out again.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from runtime_kinds import missing_for_microvms

from sampan.runtime.microvm import (
    boot,
    channel,
    erofs,
    kernels,
    modules,
    presence,
    protocol,
    qmp,
    sockets,
)
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.images import PLACES
from sampan.runtime.microvm.protocol import Key, Type

LIMIT = 60.0


def kernel() -> kernels.Kernel | None:
    with suppress(Exception):
        found = kernels.find(presence.default_place(), check=False)
        if "virtio_pci" in found.modules:
            return found
    return None


def drive(place: Path, text: str) -> Path:
    root = place / f"root-{text}"
    root.mkdir()
    (root / "said").write_text(text)
    erofs.build([root], place / text, PLACES)
    return place / text


async def plug(control: qmp.Control, link: channel.Channel, slot: int, file: Path) -> None:
    """The guest has mounted that file as that drive."""
    node = f"{file.name}-node"
    await control.command(
        "blockdev-add", driver="file", node_name=node, filename=str(file), read_only=True
    )
    await control.command(
        "device_add", driver="virtio-blk-pci", drive=node, id=f"drive{slot}", serial=f"drive{slot}"
    )
    await link.call(Type.IMAGE, [(Key.SLOT, slot)])
    answer = await link.call(Type.GET, [(Key.PATH, f"/run/image/{slot}/said")])
    assert protocol.decode(answer)[Key.CONTENT] == file.name.encode()


@pytest.mark.skipif("SAMPAN_SOAK" not in os.environ, reason="15 s: SAMPAN_SOAK=1")
@pytest.mark.skipif(bool(missing_for_microvms()), reason="no microVMs here")
async def test_a_guest_on_pci_finds_plugged_disks_by_their_numbers(tmp_path: Path) -> None:
    found = kernel()
    if found is None:
        pytest.skip("the guest kernel was unpacked without virtio_pci")
    initial = tmp_path / "initial"
    initial.write_bytes(BootFiles(found, boot.agent()).initial_files("pci"))
    assert "virtio_mmio" not in modules.for_bus(found.modules, "pci")
    listeners = {name: sockets.listen(tmp_path / name) for name in ("agent", "control")}
    argv = [str(presence.qemu()), "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "192", "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", f"file:{tmp_path / 'console'}", "-kernel", str(found.image), "-initrd", str(initial),
            "-append", boot.command_line("tcg", "cloud-hypervisor"), "-device", "virtio-serial-pci"]  # fmt: skip
    for name, item in listeners.items():
        argv += ["-chardev", f"socket,id={name},fd={item.fileno()},server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=agent,nr=1", "-mon", "chardev=control,mode=control"]
    vmm = subprocess.Popen(argv, pass_fds=[item.fileno() for item in listeners.values()])
    try:
        for item in listeners.values():
            item.close()
        gone = asyncio.Event()

        def note(name: str, data: Any) -> None:
            if name == "DEVICE_DELETED" and data.get("device") == "drive7":
                gone.set()

        control = await qmp.connect(tmp_path / "control", note)
        async with asyncio.timeout(LIMIT):
            link = await channel.connect(sockets.connect(tmp_path / "agent"), "pci")
            await link.ready.wait()
            await link.hello()
            await plug(
                control, link, 7, drive(tmp_path, "first")
            )  # the rehearsal's: it is /dev/vda
            await plug(control, link, 0, drive(tmp_path, "second"))
            await link.call(Type.REMOVE, [(Key.TARGET, 99), (Key.SLOT, 7)])
            await control.command("device_del", id="drive7")
            await gone.wait()
            await plug(control, link, 7, drive(tmp_path, "third"))
        link.close()
        await link.closed.wait()
        control.close()
    finally:
        vmm.kill()
        vmm.wait()
