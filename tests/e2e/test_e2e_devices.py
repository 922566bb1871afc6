"""A device plug-in and CDI from end to end: a vendor's plug-in names a device, its specification says what that needs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import pod
from cluster import wait_for
from differences import documented
from space import Space

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from node_plugin import BoatPlugin

RESOURCE = f"harbour.example/boat{os.getpid()}"


@pytest.fixture
def specification(tmp_path: Path) -> Iterator[str]:
    """What a vendor's installer writes (CDI 0.6.0); the device's qualified name up to its own."""
    kind = f"harbour{os.getpid()}.example/boat"
    driver = tmp_path / "driver"
    driver.write_text("anchor\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    device = {
        "env": ["BOAT=afloat"],
        "deviceNodes": [{"path": "/dev/boat0", "hostPath": "/dev/full"}],
        "mounts": [
            {"hostPath": str(driver), "containerPath": "/lib/driver", "options": ["ro", "bind"]}
        ],
    }
    devices = [{"name": f"boat-{name}", "containerEdits": device} for name in "abc"]
    place = Path("/var/run/cdi")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    file = place / f"{kind.replace('/', '-')}.json"
    file.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": devices}))
    yield kind
    file.unlink()
    if made:
        place.rmdir()


@pytest.mark.root
async def test_a_container_gets_the_device_that_its_plug_in_names(
    space: Space, specification: str
) -> None:
    assert documented("devices")  # of the host, which a machine has none of
    plugin = BoatPlugin(space.cluster.data / "node" / "device-plugins", cdi=specification)
    await plugin.start("boats-e2e.sock")
    try:
        await plugin.register(resource=RESOURCE)

        def offered() -> bool:
            (node,) = space.cluster.read("/api/v1/nodes")["items"]
            return node["status"]["allocatable"].get(RESOURCE) == "3"

        await asyncio.to_thread(wait_for, offered, 20, "the node's devices")
        script = "echo $BOAT $BOATS; cat /lib/driver; echo x >/dev/boat0; echo y >/lib/driver"
        made = pod(
            "container", "sailor", command=["sh", "-c", f"({script}) 2>&1; sleep 1000"],
            resources={"limits": {RESOURCE: "1"}},
        )  # fmt: skip
        await asyncio.to_thread(space.apply, made)
        said = await asyncio.to_thread(space.says, "sailor", "Read-only file system")
        (taken,) = plugin.allocated
        assert said.splitlines()[:2] == [f"afloat {taken[0]}", "anchor"]
        assert "No space left on device" in said  # /dev/full, which it may write to
        await asyncio.to_thread(
            space.kubectl, "delete", "pod", "sailor", "--grace-period=0", "--wait=false"
        )
    finally:
        await plugin.stop()
