"""Run inside a network and mount namespace of its own (test_network_cni.py): pods attached by Debian's CNI plugins, for real.

Prints one JSON object of what was seen; the test asserts on it. Not a test by itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from network_world import pod

from sampan.network import netns
from sampan.network.cni import CNINetwork
from sampan.network.errors import CNIError
from sampan.network.rtnetlink import Netlink

CONFIGURATION = {
    "cniVersion": "1.0.0",
    "name": "harbour",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni-world0",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.77.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "tuning", "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"}},
    ],
}


def answer(namespace: str) -> None:
    """In the pod: a server that says ahoy once."""
    ready = threading.Barrier(2)

    def serve() -> None:
        netns.enter(namespace)
        with socket.create_server(("0.0.0.0", 80)) as listener:
            ready.wait()
            connection, _ = listener.accept()
            connection.sendall(b"ahoy")
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    ready.wait()


def hear(namespace: str, address: str) -> str:
    def ask() -> str:
        netns.enter(namespace)
        with socket.create_connection((address, 80), timeout=5) as connection:
            return connection.recv(100).decode()

    return netns.in_thread(ask)


async def see(directory: Path) -> dict[str, Any]:
    ipam = Path("/var/lib/cni")
    settings = directory / "net.d"
    settings.mkdir()
    network = CNINetwork(directory, "spcni", configuration=settings)
    seen: dict[str, Any] = {}
    try:
        await network.attach(pod("a"))
    except CNIError as error:
        seen["without a configuration"] = str(error)
    (settings / "10-harbour.conflist").write_text(json.dumps(CONFIGURATION))
    (settings / "20-later.conf").write_text("not read: the first counts")
    one, other = await network.attach(pod("a")), await network.attach(pod("b"))
    seen["addresses"] = [*one.addresses, *other.addresses]
    seen["same again"] = await network.attach(pod("a")) == one
    assert one.namespace and other.namespace
    answer(one.namespace)
    seen["heard"] = hear(other.namespace, one.addresses[0])
    await network.check(pod("a"))
    again = CNINetwork(directory, "spcni", configuration=settings)
    seen["existing"] = await again.existing() == {
        pod("a").sandbox_id: one,
        pod("b").sandbox_id: other,
    }
    broken = {**CONFIGURATION, "plugins": [*CONFIGURATION["plugins"], {"type": "no-such-plugin"}]}
    (settings / "10-harbour.conflist").write_text(json.dumps(broken))
    try:
        await again.attach(pod("c"))
    except CNIError as error:
        seen["a missing plugin"] = str(error)
    await again.detach(pod("a"))
    await again.detach(pod("a"))
    seen["owners"] = await again.owners()
    await again.remove()
    seen["left"] = {
        "owners": await again.owners(),
        "namespaces": netns.names("spcni-"),
        "addresses": [p.name for p in (ipam / "networks" / "harbour").glob("10.*")],
        "links": [],
    }
    with Netlink() as netlink:
        seen["left"]["links"] = [each.name for each in netlink.links() if each.kind == "veth"]
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(see(Path(sys.argv[1])))))
