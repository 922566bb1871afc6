"""Sizes, settings, the command line of a machine, and frames that may leave it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sampan.network.pods import Attachment
from sampan.runtime.microvm import (
    kernels,
    presence,
    qemu,
    settings,
    templates,
    wiring,
)
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece
from sampan.runtime.microvm.kind import refuse_host_namespaces, size_of
from sampan.runtime.microvm.qemu import Qemu, command
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.settings import Settings
from sampan.runtime.microvm.templates import Template, Templates
from sampan.runtime.microvm.vmm import DISKS, SLOTS, MachineSpec
from sampan.runtime.sandbox import CannotStart, Resources, SandboxSpec


def pod(**fields: Any) -> SandboxSpec:
    return SandboxSpec(
        "a" * 64, "p", "n", "u", 0, "p", Path("/x"), Path("/x"), "", Attachment(None, ()), **fields
    )


@pytest.mark.parametrize(
    ("limits", "annotations", "wanted"),
    [
        (Resources(), {}, (256, 1)),
        (Resources(memory=64 << 20), {}, (128, 1)),
        (Resources(memory=300 << 20), {}, (384, 1)),
        (Resources(memory=300 << 20), {"overhead": "300"}, (576, 1)),
        (Resources(), {"sampan.dev/vm-memory": "1Gi"}, (1024, 1)),
        (Resources(cpu_quota=50_000, cpu_period=100_000), {}, (256, 1)),
        (Resources(cpu_quota=10_000_000, cpu_period=100_000), {}, (256, os.cpu_count())),
    ],
)
def test_the_size_of_a_machine(
    limits: Resources, annotations: dict[str, str], wanted: tuple[int, int]
) -> None:
    overhead = Resources(memory=int(annotations.pop("overhead", 0)) << 20)
    made = pod(resources=limits, annotations=annotations, overhead=overhead)
    assert size_of(made, Settings()) == wanted


@pytest.mark.parametrize("field", ["host_network", "host_pid", "host_ipc"])
def test_no_part_in_the_hosts_namespaces(field: str) -> None:
    with pytest.raises(CannotStart, match="no part in the host's"):
        refuse_host_namespaces(pod(**{field: True}))


def test_settings_are_checked(tmp_path: Path) -> None:
    assert Settings.load(tmp_path) == Settings()
    path = tmp_path / settings.NAME
    path.write_text(json.dumps({"pool": 3, "accelerator": "tcg"}))
    assert Settings.load(tmp_path) == Settings(pool=3, accelerator="tcg")
    for wrong, why in (
        ({"pool": "3"}, "not a int"),
        ({"pol": 1}, "unknown setting"),
        ({"driver": "bochs"}, "not one of"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadArtifact, match=why):
            Settings.load(tmp_path)


def test_no_kernel_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "places", lambda own: [own])
    with pytest.raises(MissingPiece) as caught:
        kernels.find(tmp_path)
    assert caught.value.install == kernels.FETCH


def test_a_clone_has_the_devices_of_its_template() -> None:
    base = {"agent": 3, "files": 12, "control": 4, "empty": 5, "kernel": 6, "initial_files": 7}
    made = MachineSpec(
        "a" * 64,
        Path("/x"),
        128,
        kernel=Path("/k"),
        initial_files=Path("/i"),
        ram=8,
        ram_shared=True,
    )
    clone = MachineSpec("b" * 64, Path("/y"), 128, ram=8, state=9, tap=10)

    def devices(argv: list[str]) -> list[str]:
        return [value for option, value in itertools.pairwise(argv) if option == "-device"]

    first, second = command("qemu", "tcg", made, base), command("qemu", "tcg", clone, base)
    assert devices(first) == devices(second)
    assert len([name for name in devices(first) if name.startswith("virtio-blk")]) == SLOTS + DISKS
    assert "-kernel" in first and "-kernel" not in second
    assert not [
        word
        for word in second
        if word.startswith("/") and not word.startswith(("/proc/self/fd/", "/dev/fdset/"))
    ]
    assert "share=off" in " ".join(second)
    assert "-sandbox" in second


def matches(frame: bytes, wanted: tuple[wiring.Match, ...]) -> bool:
    return all(
        int.from_bytes(frame[14 + match.offset :][:4].ljust(4, b"\0"), "big") & match.mask
        == match.value & match.mask
        for match in wanted
    )


def test_only_own_frames_may_leave() -> None:
    mac, other = bytes.fromhex("0242ac110002"), bytes.fromhex("0242ac110003")
    own = wiring.Identity(mac, "10.42.0.7", 24, "10.42.0.1", 1500)
    filters = wiring.own_frames(own)
    ours, theirs = bytes([10, 42, 0, 7]), bytes([10, 42, 0, 8])

    def ip(hardware: bytes, address: bytes) -> bytes:
        return bytes(6) + hardware + b"\x08\x00" + b"\x45" + bytes(11) + address + bytes(4)

    def arp(hardware: bytes, sender: bytes, address: bytes) -> bytes:
        return (
            b"\xff" * 6
            + hardware
            + b"\x08\x06"
            + bytes.fromhex("0001080006040002")
            + sender
            + address
            + bytes(10)
        )

    assert matches(ip(mac, ours), filters[wiring.ETH_P_IP])
    assert not matches(ip(mac, theirs), filters[wiring.ETH_P_IP])
    assert not matches(ip(other, ours), filters[wiring.ETH_P_IP])
    assert matches(arp(mac, mac, ours), filters[wiring.ETH_P_ARP])
    for forged in (arp(mac, mac, theirs), arp(other, mac, ours), arp(mac, other, ours)):
        assert not matches(forged, filters[wiring.ETH_P_ARP])
    assert set(filters) == {wiring.ETH_P_IP, wiring.ETH_P_ARP}


class Shelf(Templates):
    """Templates that are made without a guest."""

    async def _load(self, key: str, *_: Any) -> Template:
        return Template(key, 128, 1, -1, self.directory / key, 0.0)


async def test_a_template_is_of_one_qemu_kernel_agent_processor_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(name: str, version: str) -> None:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
        program.chmod(0o755)
        monkeypatch.setattr(qemu, "path", lambda: str(program))

    shelf = Shelf(tmp_path, tmp_path, Rehearsal(tmp_path))
    kernel = kernels.Kernel(tmp_path, "6.1", "digest", ())
    files = BootFiles(kernel, b"agent")
    install("first", "7.2.22")
    known = [await shelf.get(Qemu("tcg"), files, 128, 1)]
    assert await shelf.get(Qemu("tcg"), BootFiles(kernel, b"agent"), 128, 1) is known[0]
    another = kernels.Kernel(tmp_path, "6.1", "another", ())
    known += [
        await shelf.get(Qemu("kvm"), files, 128, 1),
        await shelf.get(Qemu("tcg"), BootFiles(another, b"agent"), 128, 1),
        await shelf.get(Qemu("tcg"), BootFiles(kernel, b"another"), 128, 1),
        await shelf.get(Qemu("tcg"), files, 192, 1),
        await shelf.get(Qemu("tcg"), files, 128, 2),
    ]
    install("second", "7.2.23")
    known.append(await shelf.get(Qemu("tcg"), files, 128, 1))
    install("first", "7.2.22")
    monkeypatch.setattr(templates, "processor", lambda: "with other flags")
    known.append(await shelf.get(Qemu("tcg"), files, 128, 1))
    assert len({template.key for template in known}) == len(known)
