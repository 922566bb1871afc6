"""The pod's address moves into the guest: reached from outside, reaching out, and unable to be anybody else."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harbour import GATEWAY, Harbour, ip
from runtime_fixture import Runtime

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]
ADMIN = {"linux": {"security_context": {"capabilities": {"add_capabilities": ["NET_ADMIN"]}}}}
BUSYBOX = "/bin/busybox"
FORGED = "02:66:66:66:66:66"


@pytest.fixture
async def harbour(home: Path, tmp_path: Path) -> AsyncIterator[tuple[Runtime, Harbour]]:
    network = Harbour(tmp_path / "harbour")
    await network.open()
    runtime = Runtime(home, home / "images", kinds=("microvm",))
    runtime.config.network = network
    await runtime.start()
    try:
        yield runtime, network
    finally:
        await runtime.clean()
        await runtime.stop()
        await runtime.client.close()
        await network.close()


async def address_of(runtime: Runtime, pod: str) -> str:
    return str((await runtime.client.pod_sandbox_status(pod_sandbox_id=pod)).status.network.ip)


async def test_a_guest_has_the_pods_address(harbour: tuple[Runtime, Harbour]) -> None:
    runtime, network = harbour
    one, two = await asyncio.gather(runtime.pod("microvm"), runtime.pod("microvm"))
    served = await runtime.container(
        one,
        "sh",
        "-c",
        "mkdir /www; head -c 300000 /dev/zero >/www/big; echo up; httpd -f -p 80 -h /www",
    )
    asking = await runtime.container(two, "sleep", "1000")
    address = await address_of(runtime, one)
    answer = await runtime.exec(served, BUSYBOX, "ip", "-o", "-4", "addr", "show", "eth0")
    assert f"inet {address}/16".encode() in answer.stdout

    def listening() -> socket.socket:
        deadline = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection((address, 80), timeout=10)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "the server does not listen"

    def fetch() -> int:
        with listening() as connection:
            connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            total = 0
            while data := connection.recv(65536):
                total += len(data)
            return total

    assert await network.inside(fetch) > 300_000
    answer = await runtime.exec(asking, BUSYBOX, "wget", "-q", "-O", "-", f"http://{address}/big")
    assert len(answer.stdout) == 300_000
    answer = await runtime.exec(asking, BUSYBOX, "ping", "-c", "1", "-W", "5", GATEWAY)
    assert answer.exit_code == 0, answer
    namespace = network.directory / one
    assert address not in ip(namespace, "-o -4 addr"), (
        "the namespace itself must not answer for the guest"
    )


async def test_a_guest_cannot_be_somebody_else(harbour: tuple[Runtime, Harbour]) -> None:
    runtime, network = harbour
    one, two = await asyncio.gather(runtime.pod("microvm"), runtime.pod("microvm"))
    victim, forger = await address_of(runtime, one), await address_of(runtime, two)
    await runtime.container(one, "sleep", "1000")
    bad = await runtime.container(two, "sleep", "1000", **ADMIN)
    assert (await runtime.exec(bad, BUSYBOX, "ping", "-c", "1", "-W", "5", GATEWAY)).exit_code == 0
    own = (await runtime.exec(bad, "cat", "/sys/class/net/eth0/address")).stdout.decode().strip()

    # The victim's address from its own card: nothing that it says arrives.
    await runtime.exec(bad, BUSYBOX, "ip", "addr", "add", f"{victim}/32", "dev", "eth0")
    answer = await runtime.exec(bad, BUSYBOX, "ping", "-c", "1", "-W", "1", "-I", victim, GATEWAY)
    assert answer.exit_code != 0
    await runtime.exec(bad, BUSYBOX, "arping", "-U", "-c", "2", "-I", "eth0", victim)
    assert own not in ip(network.hub, f"neigh show {victim}")

    # Another card: the bridge never hears of it.
    await runtime.exec(
        bad,
        "sh",
        "-c",
        f"for word in down 'address {FORGED}' up; do busybox ip link set eth0 $word; done",
    )
    answer = await runtime.exec(bad, BUSYBOX, "ping", "-c", "1", "-W", "1", GATEWAY)
    assert answer.exit_code != 0
    await runtime.exec(bad, BUSYBOX, "arping", "-U", "-c", "1", "-I", "eth0", forger)
    assert FORGED not in ip(network.hub, "neigh") and FORGED not in fdb(network)


def fdb(network: Harbour) -> str:
    import subprocess

    command = ["nsenter", f"--net={network.hub}", "bridge", "fdb", "show", "br", "br0"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def test_the_hosts_loopback_is_not_the_guests(harbour: tuple[Runtime, Harbour]) -> None:
    runtime, network = harbour
    pod = await runtime.pod("microvm")
    container = await runtime.container(pod, "sleep", "1000")

    def listen() -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 5999))
        listener.settimeout(0.1)
        return listener

    for path in (network.hub, network.directory / pod):
        listener = await network.inside(listen, path)
        with listener:
            for target in ("127.0.0.1", "10.0.2.2"):
                answer = await runtime.exec(container, BUSYBOX, "nc", "-w", "1", target, "5999")
                assert answer.exit_code != 0
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(listener.accept)
