"""An image whose program is an init: what it is given, and Debian's systemd for real (SAMPAN_SOAK)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from runtime_fixture import Runtime

from sampan.cli.vmsnapshot import describe
from sampan.image.reference import parse
from sampan.image.store import ImageStore
from sampan.runtime.microvm import inits

KIND = "microvm"
PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,iproute2"


def test_what_an_init_is(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/systemd").touch()
    (tmp_path / "usr/sbin").mkdir()
    (tmp_path / "sbin").symlink_to("usr/sbin")
    (tmp_path / "usr/sbin/init").symlink_to("/lib/systemd/systemd")
    (tmp_path / "lib").symlink_to("usr/lib")
    layers = [tmp_path]
    for program in ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd"):
        assert inits.init_of([program], layers) == "systemd", program
    assert inits.init_of(["/bin/init"], layers) == "init"
    assert inits.init_of(["/bin/sh", "init"], layers) == inits.init_of([], layers) == ""
    assert inits.stop_signal("systemd", signal.SIGTERM) == signal.SIGRTMIN + 3
    assert inits.stop_signal("systemd", signal.SIGHUP) == signal.SIGHUP
    assert inits.stop_signal("init", signal.SIGTERM) == signal.SIGTERM


@pytest.mark.root
async def test_an_init_has_a_machine_s_cgroups_and_memory_file_systems(
    runtime: Runtime, tmp_path: Path
) -> None:
    pod = await runtime.pod(KIND)
    init = tmp_path / "init"
    init.write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
    init.chmod(0o755)
    mounts = [{"host_path": str(init), "container_path": "/sbin/init", "readonly": True}]
    container = await runtime.container(pod, "/sbin/init", mounts=mounts)
    script = """
        tr '\\0' '\\n' </proc/1/environ | grep container=
        for at in /run /run/lock /tmp; do grep -c " $at tmpfs rw" /proc/mounts; done
        cd /sys/fs/cgroup && mkdir init.scope && for pid in $(cat cgroup.procs); do echo $pid >init.scope/cgroup.procs; done
        echo +pids >cgroup.subtree_control && mkdir -p system.slice/a.service && cat cgroup.subtree_control
    """
    answer = await runtime.exec(container, "sh", "-c", script)
    assert answer.stdout.decode().split() == ["container=oci", "1", "1", "1", "pids"], answer
    # Its own group takes no process any more; one that is executed joins process 1 where that has gone.
    answer = await runtime.exec(container, "cat", "/proc/self/cgroup")
    assert answer.stdout == b"0::/init.scope\n", answer
    await runtime.client.stop_container(container_id=container, timeout=0)
    await runtime.client.remove_container(container_id=container)
    again = await runtime.container(
        pod, "sh", "-c", "test -w /sys/fs/cgroup/cgroup.procs || echo locked; sleep 100"
    )
    assert (await runtime.exec(again, "true")).exit_code == 0


@pytest.mark.root
@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("SAMPAN_SOAK"), reason="long; set SAMPAN_SOAK=1")
async def test_systemd_boots_to_its_target_and_powers_off(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    debootstrap = shutil.which("debootstrap")
    if debootstrap is None:
        pytest.skip("needs debootstrap; to have it: apt-get install debootstrap")
    root = tmp_path / "root"
    command = [debootstrap, "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
    await asyncio.to_thread(subprocess.run, [*command, "http://deb.debian.org/debian"], check=True)
    add_image(home, root)
    pod = await runtime.pod(KIND, annotations={"sampan.dev/vm-memory": "512Mi"})
    container = await runtime.container(pod, start=False, image={"image": "systemd:1"})
    await runtime.client.start_container(container_id=container)
    # Until process 1 answers, systemctl says `offline`, or nothing.
    wait = (
        'until s=$(systemctl is-system-running --wait); [ running = "$s" -o degraded = "$s" ];'
        " do sleep 1; done; echo $s"
    )
    answer = await runtime.exec(container, "sh", "-c", wait, timeout=600)
    failed = await runtime.exec(container, "systemctl", "--failed", "--no-pager", timeout=120)
    assert answer.stdout.strip() == b"running", failed.stdout.decode()
    answer = await runtime.exec(
        container, "systemctl", "is-active", "ssh", "dbus", "multi-user.target"
    )
    assert answer.stdout.split() == [b"active"] * 3
    await runtime.client.stop_container(container_id=container, timeout=120)
    assert (await runtime.status(container)).exit_code == 0, "it was shut down, not killed"


def add_image(home: Path, root: Path) -> None:
    """The image `systemd:1` of a root file system: one layer, with owners and modes as they are."""
    store = ImageStore(home / "images")
    packed = subprocess.run(
        ["tar", "-C", str(root), "-cf", "-", "."], check=True, capture_output=True
    )
    with store.adding():
        layer = store.content.put(packed.stdout)
        config = {"Cmd": ["/sbin/init"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
        made = describe(store, config, "linux", "amd64", layer, len(packed.stdout), {})
        store.add(made, [parse("systemd:1").key])
