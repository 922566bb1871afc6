"""Tests of a host whose mounts are all shared, as systemd has them; `test_runtime_unified.py` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_fixture import Runtime
from test_runtime_users import CONTAINER, options

from sampan.runtime.sandbox import USER_NAMESPACES

pytestmark = pytest.mark.root


async def test_nothing_that_a_container_mounts_is_mounted_on_the_host(runtime: Runtime) -> None:
    """Of a pod with users of its own, whose mounts are taken from the host: a group that is mounted there cannot go."""
    before = Path("/proc/self/mountinfo").read_text().splitlines()
    status = await runtime.client.status()
    features = {handler.name: handler.features for handler in status.runtime_handlers}
    if not getattr(features["container"], USER_NAMESPACES):
        pytest.skip("this kernel and engine have no user namespaces")
    pod = await runtime.pod(**options(pid=CONTAINER))
    container = await runtime.container(pod, "sleep", "1000")
    assert (await runtime.exec(container, "ls", "/sys/fs/cgroup")).stdout
    after = Path("/proc/self/mountinfo").read_text().splitlines()
    strange = [line for line in after if line not in before and str(runtime.base) not in line]
    assert strange == []
    within = f"{runtime.base}/state/containers/{container}/rootfs/"
    assert not [line for line in after if within in line]
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    assert runtime.groups() == []
