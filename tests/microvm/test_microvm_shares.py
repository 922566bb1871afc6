"""Directories of the host in a guest: written on either side, seen on the other, owned as inside, and no way out of them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from runtime_fixture import Runtime

from sampan.runtime.microvm.facts import RECORD

pytestmark = pytest.mark.root
KIND = "microvm"


def mount(source: Path, target: str, *, readonly: bool = False) -> dict[str, Any]:
    return {"host_path": str(source), "container_path": target, "readonly": readonly}


async def test_a_directory_of_the_host_is_the_pod_s_own(runtime: Runtime, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "before").write_text("from the host\n")
    pod = await runtime.pod(KIND)
    first = await runtime.container(pod, "sleep", "1000", mounts=[mount(shared, "/data")])
    second = await runtime.container(
        pod, "sleep", "1000", mounts=[mount(shared, "/mine"), mount(shared, "/look", readonly=True)]
    )

    async def sh(container: str, script: str) -> str:
        answer = await runtime.exec(container, "sh", "-c", f"({script}) 2>&1")
        return str(answer.stdout.decode())

    assert await sh(first, "cat /data/before") == "from the host\n"
    await sh(first, "echo hello >/data/note; chown 1000:2000 /data/note; chmod 640 /data/note")
    assert (
        await sh(second, "cat /mine/note; stat -c '%u:%g %a' /look/note")
        == "hello\n1000:2000 640\n"
    )
    found = (shared / "note").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 2000, 0o640)
    (shared / "note").write_text("changed\n")
    assert await sh(first, "cat /data/note") == "changed\n", "what the host writes is seen at once"
    assert "Read-only" in await sh(second, "touch /look/x")

    # Files as programs use them.
    work = (
        "cd /data; mkdir -p a/b; echo 1 >a/b/f; ln a/b/f hard; ln -s a/b/f soft; mv a/b/f a/g; cat hard; readlink soft;"
        "echo 2 >>hard; truncate -s 3 hard; wc -c <a/g; rm hard; rmdir a/b; ls a; mkfifo pipe; test -p pipe && echo pipe;"
        "head -c 3000000 /dev/urandom >big; cp big copy; cmp big copy && echo same; touch -d @1000 big; stat -c %Y big;"
        "(exec 3<>open; rm open; echo kept >&3; wc -c </proc/self/fd/3); mknod dev c 1 3 || echo no device; df /data >/dev/null && echo df"
    )
    expected = "1\na/b/f\n3\ng\npipe\nsame\n1000\n5\n"
    text = await sh(first, work)
    assert text.startswith(expected) and text.endswith("no device\ndf\n"), text
    assert (shared / "big").read_bytes() == (shared / "copy").read_bytes()
    for number in range(500):
        (shared / f"many-{number}").touch()
    assert (
        await sh(second, "ls /mine | grep -c many; rm /mine/many-*; ls /mine | grep -c many")
        == "500\n0\n"
    )

    # A user of the container's, in a directory whose group hands itself down (fsGroup).
    group = tmp_path / "group"
    group.mkdir()
    os.chown(group, 0, 3000)
    group.chmod(0o2775)
    context = {
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 1000},
        "supplemental_groups": [3000],
    }
    user = await runtime.container(
        pod, "sleep", "1000", mounts=[mount(group, "/group"), mount(shared, "/data")], linux={"security_context": context}
    )  # fmt: skip
    assert await sh(user, "echo x >/group/f; mkdir /group/d; touch /data/mine || echo refused") == (
        "touch: /data/mine: Permission denied\nrefused\n"
    )
    made = (group / "f").stat()
    assert (made.st_uid, made.st_gid) == (1000, 3000)
    assert (group / "d").stat().st_mode & stat.S_ISGID


async def test_a_single_file_and_a_restart_of_the_runtime(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    file.write_text("one\n")
    pod = await runtime.pod(KIND)
    container = await runtime.container(
        pod, "sh", "-c", "exec 3>>/data/log; while sleep 0.05; do echo line >&3; done",
        mounts=[mount(file, "/etc/settings"), mount(tmp_path, "/data")],
    )  # fmt: skip
    answer = await runtime.exec(container, "sh", "-c", "cat /etc/settings; echo two >/etc/settings")
    assert answer.stdout == b"one\n" and file.read_text() == "two\n"
    await runtime.stop()
    size = (tmp_path / "log").stat().st_size
    await grown(tmp_path / "log", size)
    await runtime.start()
    other = await runtime.container(pod, "sleep", "1000", mounts=[mount(tmp_path, "/again")])
    answer = await runtime.exec(other, "cat", "/again/settings")
    assert answer.stdout == b"two\n"


async def grown(path: Path, size: int) -> None:
    async with asyncio.timeout(10):
        while path.stat().st_size <= size:
            await asyncio.sleep(0.02)


async def test_the_file_server_is_jailed_and_its_end_is_the_pod_s(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    pod = await runtime.pod(KIND)
    (tmp_path / "link").symlink_to("/etc/passwd")
    container = await runtime.container(pod, "sleep", "1000", mounts=[mount(tmp_path, "/data")])
    answer = await runtime.exec(
        container,
        "sh",
        "-c",
        "cat /data/link | grep -c sampan-nobody; cat /data/../../etc/hostname; ls /data/..",
    )
    assert "passwd" not in answer.stdout.decode()
    machine = Path(
        json.loads((home / "state" / "sandboxes" / pod / RECORD).read_bytes())["directory"]
    )
    pid = json.loads((machine / "share.json").read_bytes())["pid"]
    server = Path(f"/proc/{pid}")
    status = dict(
        line.split(":\t", 1)
        for line in (server / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert {int(uid) for uid in status["Uid"].split()} == {
        int(uid)
        for uid in dict(
            line.split(":\t", 1)
            for line in Path(
                f"/proc/{json.loads((machine / 'vmm.json').read_bytes())['pid']}/status"
            )
            .read_text()
            .splitlines()
            if ":\t" in line
        )["Uid"].split()
    }
    # CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID; nothing to gain any other by.
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0b11111
    assert (
        int(status["CapBnd"], 16) == 0 and status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    )
    assert os.listdir(server / "root") == ["proc"]
    assert os.readlink(server / "ns" / "net") != os.readlink("/proc/self/ns/net")
    os.kill(pid, 9)
    ended = await runtime.ended(container)
    assert ended.exit_code == 137 and "file server" in ended.message
