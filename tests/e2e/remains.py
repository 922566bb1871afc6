"""What a cluster has in the kernel and on disk, as one sees it from outside: processes, mounts, namespaces, cgroups, links.

A stopped cluster has nothing. Everything is found by the data directory and by the instance's name, not by asking Sampan.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster import AS_ROOT, Cluster

from sampan.cli.config import instance_of


def remains(boat: Cluster) -> dict[str, list[str]]:
    """By sort, what there is of the cluster. All empty after `sampan down`."""
    instance = instance_of(boat.data)
    found = {
        "processes": [text for _, text in processes(boat)],
        "mounts": mounts(boat),
        # Unlike rglob, walk passes over a directory that goes away meanwhile.
        "sockets": [
            str(path)
            for base, _, names in os.walk(boat.data)
            for path in (Path(base) / name for name in names)
            if path.is_socket()
        ],
    }
    if AS_ROOT:
        found |= {
            "namespaces": names(Path("/run/netns"), instance),
            "cgroups": [str(path) for path in cgroups(instance)],
            "links": links(boat),
            "tables": tables(boat),
        }
    return found


def processes(boat: Cluster) -> Iterator[tuple[int, str]]:
    """(pid, description) of every process that names the data directory or lives in a cgroup of the instance."""
    directory, instance = str(boat.data).encode(), instance_of(boat.data).encode()
    spared = {os.getpid(), boat.namespace.pid if boat.namespace else 0}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if not command:
                continue  # a zombie is its parent's, or a kernel thread
            groups = (entry / "cgroup").read_bytes()
            opened = b"\n".join(
                os.readlink(link).encode()
                for link in (entry / "exe", entry / "cwd", entry / "fd" / "1", entry / "fd" / "2")
                if os.path.lexists(link)
            )
        except OSError:
            continue
        if directory in command or directory in opened or b"/" + instance + b"/" in groups:
            yield int(entry.name), command.replace(b"\0", b" ").decode(errors="replace")[:200]


def mounts(boat: Cluster) -> list[str]:
    return [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4].startswith(str(boat.directory))
    ]


def cgroups(instance: str) -> Iterator[Path]:
    for top in Path("/sys/fs/cgroup").iterdir():
        for path in (top, top / instance):
            if path.name == instance and path.is_dir() and not top.is_symlink():
                yield path
                yield from (Path(base) / name for base, found, _ in os.walk(path) for name in found)


def names(directory: Path, instance: str) -> list[str]:
    if not directory.is_dir():
        return []
    return [path.name for path in directory.iterdir() if path.name.startswith(instance)]


def links(boat: Cluster) -> list[str]:
    return [
        line.split()[0]
        for line in boat.run("ip", "-brief", "link").stdout.splitlines()
        if not line.startswith("lo ")
    ]


def tables(boat: Cluster) -> list[str]:
    instance = instance_of(boat.data)
    listed = boat.run("nft", "list", "tables", check=False)
    return [line for line in listed.stdout.splitlines() if instance in line]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_memory(pid: int) -> int:
    """KiB that only this process has: what grows when it leaks."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Dirty:", "Private_Clean:", "Swap:")):
            total += int(line.split()[1])
    return total


def unmount_all(boat: Cluster) -> None:
    for path in sorted(mounts(boat), reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False)


def remove_kernel_objects(boat: Cluster) -> None:
    """What is gone after a reboot, or is in the way after a failed test: pinned namespaces and cgroups."""
    instance = instance_of(boat.data)
    for name in names(Path("/run/netns"), instance):
        subprocess.run(["umount", "--lazy", f"/run/netns/{name}"], check=False)
        Path("/run/netns", name).unlink()
    for path in sorted(cgroups(instance), reverse=True):
        path.rmdir()
