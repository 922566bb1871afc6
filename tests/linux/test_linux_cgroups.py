"""Where control groups are on a host, and which file says a limit in which version."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.linux import cgroups
from sampan.linux.cgroups import Limits, read_layout, settings

MOUNT = "{n} 24 0:{n} / {path} rw,nosuid shared:1 - {kind} {source} rw{options}\n"


def mounts(*rows: tuple[str, str, str]) -> str:
    lines = ["20 1 8:1 / / rw - ext4 /dev/vda rw\n"]
    for number, (path, kind, options) in enumerate(rows, 30):
        extra = f",{options}" if options else ""
        lines.append(MOUNT.format(n=number, path=path, kind=kind, source="cgroup", options=extra))
    return "".join(lines)


def test_pure_v2() -> None:
    found = read_layout(mounts(("/sys/fs/cgroup", "cgroup2", "nsdelegate")))
    assert found.unified and found.root("memory") == Path("/sys/fs/cgroup") == found.root("cpu")
    assert found.every("/a/b") == found.everywhere("a/b") == [Path("/sys/fs/cgroup/a/b")]


def test_hybrid() -> None:
    text = mounts(
        ("/sys/fs/cgroup", "tmpfs", "mode=755"),
        ("/sys/fs/cgroup/unified", "cgroup2", ""),
        ("/sys/fs/cgroup/systemd", "cgroup", "xattr,name=systemd"),
        ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
        ("/sys/fs/cgroup/memory", "cgroup", "memory"),
        ("/elsewhere/memory", "cgroup", "memory"),
    )
    found = read_layout(text)
    assert not found.unified
    assert found.root("cpuacct") == found.root("cpu") == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found.root("memory") == Path("/sys/fs/cgroup/memory")
    assert found.root("pids") is None
    assert [str(path) for path in found.everywhere("/x")] == [
        "/sys/fs/cgroup/cpu,cpuacct/x",
        "/sys/fs/cgroup/memory/x",
        "/sys/fs/cgroup/unified/x",
        "/sys/fs/cgroup/systemd/x",
    ]


CASES: list[tuple[Limits, dict[str, str], dict[str, str]]] = [
    (Limits(), {}, {}),
    (Limits(cpu_shares=1024), {"cpu.weight": "39"}, {"cpu.shares": "1024"}),
    (
        Limits(cpu_quota=50_000, cpu_period=100_000),
        {"cpu.max": "50000 100000"},
        {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"},
    ),
    (Limits(cpu_quota=-1), {"cpu.max": "max 100000"}, {"cpu.cfs_quota_us": "-1"}),
    (Limits(memory=-1), {"memory.max": "max"}, {"memory.limit_in_bytes": "-1"}),
    (
        Limits(memory=1 << 20, memory_swap=3 << 20),
        {"memory.max": "1048576", "memory.swap.max": "2097152"},
        {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "3145728"},
    ),
    (Limits(memory_swap=-1), {"memory.swap.max": "max"}, {"memory.memsw.limit_in_bytes": "-1"}),
    (Limits(pids=7), {"pids.max": "7"}, {"pids.max": "7"}),
    (
        Limits(cpuset_cpus="0-1", cpuset_mems="0"),
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
    ),
]


@pytest.mark.parametrize(("limits", "v2", "v1"), CASES)
def test_settings(limits: Limits, v2: dict[str, str], v1: dict[str, str]) -> None:
    assert {name: value for _, name, value in settings(limits, unified=True)} == v2
    assert {name: value for _, name, value in settings(limits, unified=False)} == v1


def test_shares_as_weights() -> None:
    assert [cgroups.weight_of(value) for value in (0, 2, 1024, 262144, 1 << 30)] == [
        1, 1, 39, 10000, 10000,
    ]  # fmt: skip


def test_the_root_of_a_hierarchy_is_nobodys_to_remove() -> None:
    assert cgroups.remove("") and cgroups.remove("/")
    cgroups.remove_if_empty("/")
    assert all(path.is_dir() for path in cgroups.layout().every("/"))
