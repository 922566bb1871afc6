"""A container whose surroundings were made before its pod was known is as any other, and holds nothing of the agent's."""

from __future__ import annotations

import pytest
from runtime_fixture import Runtime

pytestmark = pytest.mark.root
# The shell's own descriptors, then its mounts.
LOOK = "ls /proc/$$/fd; echo; cat /proc/self/mountinfo"
OWN_MASKS = {"linux": {"security_context": {"masked_paths": ["/proc/uptime"]}}}


async def look(runtime: Runtime, pod: str, script: str, **fields: object) -> list[str]:
    container = await runtime.container(pod, "sh", "-c", script, **fields)
    await runtime.ended(container)
    return (await runtime.log(container)).splitlines()


async def test_a_prepared_container_holds_nothing_of_the_agents(runtime: Runtime) -> None:
    pod = await runtime.pod("microvm")
    for fields in ({}, OWN_MASKS):
        found = await look(runtime, pod, LOOK, **fields)
        assert found[:4] == ["0", "1", "2", ""]
        mounts = [line.split() for line in found[4:]]
        places = {mount[4] for mount in mounts}
        assert {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/etc/hosts"} <= places
        assert not any(place.startswith(("/run", "/modules", "/root")) for place in places)
        # Neither shared with the agent's mounts nor following them (proc(5): optional fields end at the hyphen).
        assert not [mount for mount in mounts if mount[6] != "-"]
        assert ("/proc/uptime" in places) == (fields is OWN_MASKS)
