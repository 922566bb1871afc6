"""`sampan doctor` names each piece of a microVM that is not here, and the command that brings it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sampan.cli import doctor
from sampan.runtime import kinds
from sampan.runtime.microvm import presence
from sampan.runtime.microvm import qemu as qemu_driver
from sampan.runtime.microvm.settings import Settings


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node that has a VMM, an agent and a kernel, all of them empty files."""
    programs, agents, own = tmp_path / "bin", tmp_path / "agent", tmp_path / "kernels"
    kernel = own / "9.9"
    for path in (programs, agents, kernel):
        path.mkdir(parents=True)
    qemu = programs / presence.QEMU
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 9.9.9\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(presence, "qemu", lambda: shutil.which(presence.QEMU))
    monkeypatch.setattr(qemu_driver, "path", presence.qemu)
    monkeypatch.setattr(presence, "AGENTS", agents)
    monkeypatch.setattr(presence, "places", lambda _: [own])
    monkeypatch.setattr(kinds, "KINDS", {"microvm": kinds.KINDS["microvm"]})
    monkeypatch.setattr(doctor, "probe_network", list)
    for name in ("agent", "rehearsal"):
        presence.agent_file(name).write_bytes(b"")
    (kernel / "vmlinux").write_bytes(b"")
    record = {"release": "9.9", "digest": "0", "modules": []}
    (kernel / presence.KERNEL_RECORD).write_text(json.dumps(record))
    return tmp_path


def said(node: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert doctor.examine(node / "data") == 1
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("hidden", "why", "remedy"),
    [
        ("bin/qemu-system-x86_64", "qemu-system-x86_64 is not installed", "apt-get install"),
        ("agent/agent-x86_64.bin", "the guest agent was not built", "native/build.py"),
        ("agent/rehearsal-x86_64.bin", "the guest agent was not built", "native/build.py"),
        ("kernels/9.9/kernel.json", "no guest kernel has been downloaded", "kernels fetch"),
    ],
)
def test_a_missing_piece(
    node: Path, capsys: pytest.CaptureFixture[str], hidden: str, why: str, remedy: str
) -> None:
    (node / hidden).unlink()
    told = said(node, capsys)
    assert f"missing  {why}" in told and f"to have it: {remedy}" in told.replace("sampan vm ", "").replace("python ", "")  # fmt: skip


@pytest.mark.parametrize(("name", "project"), [("firecracker", "firecracker-microvm/firecracker"), ("cloud-hypervisor", "cloud-hypervisor/cloud-hypervisor")])  # fmt: skip
def test_a_vmm_that_was_chosen(
    node: Path, capsys: pytest.CaptureFixture[str], name: str, project: str
) -> None:
    Settings.change(node / "data" / "runtime" / "microvm", driver=name)
    told = said(node, capsys)
    assert f"{name} is not installed" in told and f"github.com/{project}/releases" in told


def test_a_vmm_that_is_too_old(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (node / "bin" / presence.QEMU).write_text("#!/bin/sh\necho QEMU emulator version 5.2.0\n")
    told = said(node, capsys)
    assert "QEMU 5.2.0 is older than 7.2" in told and "apt-get install" in told


def test_pieces_that_are_here_and_do_not_boot(
    node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(node, capsys)
    assert "the kernel has changed on disk" in told and "kernels fetch" in told
