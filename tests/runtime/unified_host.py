"""Tests of a host with cgroup v2 alone; `test_runtime_unified.py` runs them."""

from __future__ import annotations

import pytest
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError, Unimplemented
from sampan.linux.cgroups import TOP, layout

pytestmark = pytest.mark.root
HUGE = "hugetlb.2MB.max"


async def test_a_container_sees_its_own_group_alone(runtime: Runtime) -> None:
    pod = await runtime.pod()
    one = await runtime.container(pod, "sleep", "1000")
    await runtime.container(pod, "sleep", "2000")
    script = "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/*/; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/out"
    said = await runtime.exec(one, "sh", "-c", script)
    lines = said.stdout.decode().splitlines()
    assert "0::/" in lines and "1" in lines, said
    assert not any(runtime.config.instance in line for line in lines)
    assert b"Read-only" in said.stderr or b"not found" in said.stderr
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    assert runtime.groups() == []
    assert not (TOP / runtime.config.instance).exists()


async def test_the_groups_of_a_shared_process_namespace_go_with_it(runtime: Runtime) -> None:
    pods = {"security_context": {"namespace_options": {"pid": 0}}}
    pod = await runtime.pod(linux=pods)
    linux = {"security_context": {"namespace_options": {"pid": 0}}}
    container = await runtime.container(pod, "sleep", "1000", linux=linux)
    assert b"/pause" in (await runtime.exec(container, "ps")).stdout
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    assert runtime.groups() == []
    assert not (TOP / runtime.config.instance).exists()


async def test_limits(runtime: Runtime) -> None:
    """Of a controller that is here: set, changed, refused by name where it is not."""
    pod = await runtime.pod()
    limit = {"hugepage_limits": [{"page_size": "2MB", "limit": 4 << 20}]}
    if not layout().governs("hugetlb"):
        refused = await runtime.container(pod, "true", linux={"resources": limit}, start=False)
        with pytest.raises(CRIError, match="huge pages"):
            await runtime.client.start_container(container_id=refused)
    else:
        container = await runtime.container(pod, "sleep", "1000", linux={"resources": limit})
        shown = await runtime.exec(container, "cat", f"/sys/fs/cgroup/{HUGE}")
        assert shown.stdout == b"4194304\n"
        limit["hugepage_limits"][0]["limit"] = 6 << 20
        await runtime.client.update_container_resources(container_id=container, linux=limit)
        shown = await runtime.exec(container, "cat", f"/sys/fs/cgroup/{HUGE}")
        assert shown.stdout == b"6291456\n"
    plain = await runtime.container(pod, "sleep", "1000")
    change = {"memory_limit_in_bytes": 64 << 20}
    if layout().governs("memory"):
        await runtime.client.update_container_resources(container_id=plain, linux=change)
        shown = await runtime.exec(plain, "cat", "/sys/fs/cgroup/memory.max")
        assert shown.stdout == b"67108864\n"
        unified = {"memory.oom.group": "1", "memory.swap.max": "0"}
        small = {"resources": {"memory_limit_in_bytes": 24 << 20, "unified": unified}}
        greedy = "sh -c 'x=abcdefgh; while :; do x=$x$x; done'; sleep 1000"
        hog = await runtime.ended(await runtime.container(pod, "sh", "-c", greedy, linux=small))
        assert (hog.reason, hog.exit_code) == ("OOMKilled", 137)
    else:
        with pytest.raises(Unimplemented, match=r"memory.max = 67108864"):
            await runtime.client.update_container_resources(container_id=plain, linux=change)


async def test_what_resources_say_is_in_the_files(runtime: Runtime) -> None:
    """Of processors and numbers of processes, when a container starts and after a change; CRI has weights in v1's scale."""
    if not all(layout().governs(name) for name in ("cpu", "pids", "memory")):
        return  # v1 has them here: tests/linux/test_linux_cgroups.py has the files by name
    pod = await runtime.pod()
    resources = {
        "cpu_shares": 512, "cpu_quota": 30_000, "cpu_period": 100_000,
        "memory_limit_in_bytes": 48 << 20, "unified": {"pids.max": "23"},
    }  # fmt: skip
    container = await runtime.container(pod, "sleep", "1000", linux={"resources": resources})
    assert await limits(runtime, pod, container) == ["20", "30000 100000", str(48 << 20), "23"]
    change = {**resources, "cpu_shares": 2048, "cpu_quota": 50_000, "unified": {"pids.max": "9"}}
    await runtime.client.update_container_resources(container_id=container, linux=change)
    assert await limits(runtime, pod, container) == ["79", "50000 100000", str(48 << 20), "9"]
    forks = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait"
    refused = await runtime.exec(container, "sh", "-c", forks)
    assert refused.exit_code and b"fork" in refused.stderr


async def limits(runtime: Runtime, pod: str, container: str) -> list[str]:
    """As the host has them; the container sees the same."""
    files = ("cpu.weight", "cpu.max", "memory.max", "pids.max")
    group = TOP / runtime.config.instance / pod / container
    found = [(group / name).read_text().strip() for name in files]
    shown = await runtime.exec(container, "cat", *(f"/sys/fs/cgroup/{name}" for name in files))
    assert shown.stdout.decode().splitlines() == found
    return found
