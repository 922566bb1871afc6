"""Drives that a guest may write to: a disk that outlives its machine, and block devices of the host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.runtime.microvm import disks
from sampan.runtime.sandbox import CannotStart

KIND = "microvm"


def test_sizes_of_disks() -> None:
    assert disks.wanted_size("1Gi") == 1 << 30
    for text, says in (("1Mi", "less than 32Mi"), ("much", "must match"), ("", "vm-disk-size")):
        with pytest.raises(CannotStart, match=says):
            disks.wanted_size(text)


async def machine(
    runtime: Runtime, place: Path, *, size: str = "32Mi"
) -> tuple[str, dict[str, Any]]:
    annotations = {disks.PLACE: "/run/disk", disks.SIZE: size}
    pod = await runtime.pod(KIND, annotations=annotations)
    return pod, {"mounts": [{"host_path": str(place), "container_path": "/run/disk"}]}


@pytest.mark.root
async def test_files_on_a_disk_outlive_the_machine(runtime: Runtime, tmp_path: Path) -> None:
    pod, fields = await machine(runtime, tmp_path)
    container = await runtime.container(pod, "sleep", "1000", **fields)
    script = "echo kept >/root-file; mkdir -p /srv/deep && head -c 2000000 /dev/urandom >/srv/deep/big; md5sum </srv/deep/big; df -m / | tail -1; ls /run/disk"
    answer = await runtime.exec(container, "sh", "-c", script)
    digest, size = answer.stdout.split()[0], int(answer.stdout.split(b"\n")[1].split()[1])
    assert 20 < size < 32, answer
    other, again = await machine(runtime, tmp_path)
    with pytest.raises(CRIError, match="another machine uses this disk"):
        await runtime.container(other, "true", **again)
    # The machine goes without a word to its programs: what they wrote is on the disk all the same.
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    assert [path.name for path in tmp_path.iterdir()] == [disks.FILE]
    container = await runtime.container(other, "sleep", "1000", **again)
    answer = await runtime.exec(
        container, "sh", "-c", "cat /root-file; md5sum </srv/deep/big; rm /srv/deep/big"
    )
    assert answer.stdout.split()[:2] == [b"kept", digest]
    # Full is full, and nobody else's memory.
    answer = await runtime.exec(
        container, "sh", "-c", "cat /dev/zero >/full; rm /full; echo on >/on; cat /on"
    )
    assert b"No space left" in answer.stderr and answer.stdout == b"on\n"


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "device"
    file.write_bytes(bytes(8 << 20))
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    made = losetup and subprocess.run(
        [losetup, "--show", "-f", str(file)], capture_output=True, text=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("needs losetup and a loop device")
    device = made.stdout.strip()
    yield device
    subprocess.run([str(losetup), "-d", device], check=True)


@pytest.mark.root
async def test_a_block_device_of_the_host(runtime: Runtime, loop: str) -> None:
    pod = await runtime.pod(KIND)
    devices = [{"host_path": loop, "container_path": "/dev/data", "permissions": "rwm"}]
    container = await runtime.container(pod, "sleep", "1000", devices=devices)
    answer = await runtime.exec(
        container,
        "sh",
        "-c",
        "test -b /dev/data && blockdev --getsize64 /dev/data; echo hello | dd of=/dev/data conv=fsync; ls /dev/vd*",
    )
    assert answer.stdout == f"{8 << 20}\n".encode(), answer
    assert Path(loop).read_bytes()[:6] == b"hello\n"
