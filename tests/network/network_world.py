"""Run inside a network and mount namespace of its own (test_network_kernel.py): bridge, pods, services and DNS, for real.

Prints one JSON object of what was seen; the test asserts on it. Not a test by itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from dnslib import DNSRecord
from network_forgeries import arrived
from test_network_services import endpoints, service

from sampan.network import bridge, netns, zone
from sampan.network.bridge import BridgeNetwork
from sampan.network.dns import DNSServer, Upstream
from sampan.network.nft import NFTProxy
from sampan.network.pods import Attachment, PodRef
from sampan.network.rtnetlink import Netlink

INSTANCE, POD_CIDR, NEXT_CIDR = "spworld", "10.42.7.0/24", "10.77.0.0/26"


def pod(letter: str) -> PodRef:
    return PodRef(letter * 64, "default", letter)


def serve(place: Attachment, port: int, name: str) -> None:
    """In the pod: TCP and UDP servers that say their name and the address that they see."""
    ready = threading.Barrier(3)

    def tcp() -> None:
        netns.enter(place.namespace or "")
        with socket.create_server(("0.0.0.0", port)) as listener:
            ready.wait()
            while True:
                connection, client = listener.accept()
                connection.sendall(f"{name} {client[0]}".encode())
                connection.close()

    def udp() -> None:
        netns.enter(place.namespace or "")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", port))
            ready.wait()
            while True:
                _, client = server.recvfrom(100)
                server.sendto(f"{name} {client[0]}".encode(), client)

    for function in (tcp, udp):
        threading.Thread(target=function, daemon=True).start()
    ready.wait()


def answer_on_loopback(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"API")
            connection.close()


def ask(address: str, port: int, place: Attachment | None = None, *, udp: bool = False) -> str:
    def run() -> str:
        if place is not None:
            netns.enter(place.namespace or "")
        try:
            if udp:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.settimeout(3)
                    client.connect((address, port))
                    client.send(b"?")
                    return client.recv(100).decode()
            with socket.create_connection((address, port), 3) as connection:
                return connection.recv(100).decode()
        except OSError as error:
            return type(error).__name__

    return netns.in_thread(run)


def flow(place: Attachment, proxy: NFTProxy, of: Any, old: str, new: str, loop: Any) -> list[str]:
    """Who answers one UDP socket of the pod before and after the endpoint `old` made place for `new`."""

    def to(address: str) -> None:
        piece = endpoints(address, port="u")
        piece["ports"][0]["protocol"] = "UDP"
        asyncio.run_coroutine_threadsafe(proxy.apply([of], [piece]), loop).result()

    def open_socket() -> socket.socket:
        netns.enter(place.namespace or "")
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(3)
        client.connect(("10.43.0.5", 53))
        return client

    answers = []
    with netns.in_thread(open_socket) as client:
        for address in (old, new):
            to(address)
            client.send(b"?")
            answers.append(client.recv(100).decode().split()[0])
    return answers


async def names(count: int, *args: Any, only_one: bool = False, **options: Any) -> list[str]:
    """Who answered in `count` tries; four times as many, until two have, since the choice is random."""
    seen: set[str] = set()
    for number in range(count * 4):
        seen.add((await asyncio.to_thread(ask, *args, **options)).split()[0])
        if len(seen) > 1 or (number >= count and only_one):
            break
    return sorted(seen)


def settings_inside(place: Attachment) -> dict[str, Any]:
    def run() -> dict[str, Any]:
        netns.enter(place.namespace or "")
        with Netlink() as netlink:
            route = netlink.default_route()
            return {
                "up": sorted(link.name for link in netlink.links() if link.up),
                "gateway": route.gateway if route else "",
                "mtu": max(link.mtu for link in netlink.links() if link.name == "eth0"),
                "addresses": sorted(address for _, address, _ in netlink.addresses()),
            }

    return netns.in_thread(run)


def outside(instance: str = INSTANCE) -> str:
    """The world beyond the node: a namespace on a veth pair with the default route through it; its path."""
    path = netns.create(f"{instance}out", lambda: None)
    fd = path.open()
    with Netlink() as netlink:
        netlink.add_veth("uplink", "far", 1400, 0, fd.fileno())
        index = netlink.index("uplink")
        netlink.add_address(index, "192.0.2.1", 24)
        netlink.add_route("0.0.0.0/0", index, "192.0.2.2")
    fd.close()

    def far() -> None:
        netns.enter(path)
        with Netlink() as netlink:
            netlink.set_up(1)
            netlink.set_up(netlink.index("far"))
            netlink.add_address(netlink.index("far"), "192.0.2.2", 24)

    netns.in_thread(far)
    return str(path)


async def spares(network: BridgeNetwork, neighbour: str) -> dict[str, Any]:
    """Pods `d` and `e` come and go: what they get, what is told of the spares, and how a restarted runtime sees them."""
    async with asyncio.timeout(10):
        while len(network._spares) < bridge.SPARES:
            await asyncio.sleep(0.001)
    waiting = [network._pool.owners()[owner] for owner in network._spares]
    found: dict[str, Any] = {"waiting": len(waiting), "told": len(await network.owners())}
    after = BridgeNetwork(network._pool.directory.parent, POD_CIDR, INSTANCE)
    found["collected after a crash"] = len(set(await after.owners()) - set(await network.owners()))
    found["existing"] = len(await after.existing())
    given = [await network.attach(pod(name)) for name in "de"]
    found["given"] = [attachment.addresses[0] for attachment in given] == waiting
    found["answers"] = [ask(neighbour, 8080, each) for each in given]
    for name in "de":
        await network.detach(pod(name))
    return found


async def moved(network: BridgeNetwork, directory: Path, old: Attachment) -> dict[str, Any]:
    """The node's pods get other addresses while `old`, which serves as "A", goes on."""
    await network.move(NEXT_CIDR)
    new = await network.attach(pod("f"))
    serve(new, 8080, "F")
    there, here = new.addresses[0], old.addresses[0]
    found = {
        "new": there,
        "node to new": ask(there, 8080),
        "old to new": ask(there, 8080, old).replace(here, "old"),
        "new to old": ask(here, 8080, new).replace(there, "new"),
        "old to outside": ask("192.0.2.2", 8080, old),
        "new to outside": ask("192.0.2.2", 8080, new),
        "remembered": str(BridgeNetwork(directory, POD_CIDR, INSTANCE, follow=True).network),
        "configured": str(BridgeNetwork(directory, POD_CIDR, INSTANCE).network),
        "bridge": gateways(network),
    }
    await network.move(POD_CIDR)
    await network.detach(pod("f"))
    found["bridge without its pods"] = gateways(network)
    with Netlink() as netlink:  # its server has the namespace still
        netlink.delete_link(network._veth(there))
    return found


def gateways(network: BridgeNetwork) -> list[str]:
    with Netlink() as netlink:
        index = netlink.index(network.bridge)
        return sorted(
            f"{address}/{prefix}" for at, address, prefix in netlink.addresses() if at == index
        )


async def main(directory: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    far = Attachment(outside(), ("192.0.2.2",), "far")
    network = BridgeNetwork(directory, POD_CIDR, INSTANCE)
    first, second = await asyncio.gather(network.attach(pod("a")), network.attach(pod("b")))
    seen["same again"] = await network.attach(pod("a")) == first
    restarted = BridgeNetwork(directory, POD_CIDR, INSTANCE)
    seen["existing"] = await restarted.existing() == {"a" * 64: first, "b" * 64: second}
    seen["same after restart"] = await restarted.attach(pod("a")) == first
    await restarted.close()
    await asyncio.to_thread(restarted._worker.shutdown)
    seen["inside"] = settings_inside(first)
    serve(first, 8080, "A")
    serve(second, 8080, "B")
    serve(far, 8080, "FAR")
    a, b = first.addresses[0], second.addresses[0]
    seen["node to pod"] = ask(a, 8080)
    seen["pod to pod"] = ask(b, 8080, first)
    seen["pod to outside"] = ask("192.0.2.2", 8080, first)

    seen["spares"] = await spares(network, a)
    seen["moved"] = await moved(network, directory, first)

    proxy = NFTProxy(INSTANCE, POD_CIDR)
    ports = [{"port": 80, "nodePort": 30080}]
    udp_ports = [*ports, {"port": 53, "protocol": "UDP", "name": "u"}]
    udp_slice = endpoints(a, b, port="u")
    udp_slice["ports"][0]["protocol"] = "UDP"
    both = [endpoints(a, b), udp_slice]
    await proxy.apply([service(ports=udp_ports, externalIPs=["192.0.2.77"])], both)
    seen["cluster ip from node"] = await names(12, "10.43.0.5", 80)
    seen["cluster ip from pod"] = await names(12, "10.43.0.5", 80, first)
    seen["udp from pod"] = await names(8, "10.43.0.5", 53, second, udp=True)
    seen["node port on localhost"] = await names(12, "127.0.0.1", 30080)
    seen["node port from pod"] = await names(12, network.gateway, 30080, second)
    seen["node port from outside"] = await names(12, "192.0.2.1", 30080, far)
    seen["udp flow of an endpoint that goes"] = await asyncio.to_thread(
        flow, first, proxy, service(ports=udp_ports), b, a, asyncio.get_running_loop()
    )
    one = [endpoints(a), udp_slice]
    await proxy.apply([service(ports=udp_ports)], one)
    seen["hairpin"] = ask("10.43.0.5", 80, first)
    seen["one endpoint left"] = await names(6, "10.43.0.5", 80, only_one=True)
    local = service(ports=ports, externalTrafficPolicy="Local")
    await proxy.apply([local], both)
    seen["local policy keeps the client"] = {
        ask("192.0.2.1", 30080, far).split()[-1] for _ in range(3)
    } == {"192.0.2.2"}
    sticky = service(ports=ports, sessionAffinity="ClientIP")
    await proxy.apply([sticky], both)
    seen["affinity"] = len(await names(10, "10.43.0.5", 80, only_one=True))
    kept = ask("10.43.0.5", 80).split()[0]
    await proxy.apply([sticky, service("other", clusterIP="10.43.0.6")], both)
    seen["affinity survives another change"] = await names(8, "10.43.0.5", 80, only_one=True) == [
        kept
    ]
    await asyncio.gather(*(proxy.apply([sticky], both) for _ in range(5)))
    await proxy.apply([service(ports=ports)], [endpoints()])
    seen["refused"] = [
        ask("10.43.0.5", 80),
        ask("10.43.0.5", 80, first),
        ask("127.0.0.1", 30080),
        ask("192.0.2.1", 30080, far),
    ]
    fresh = NFTProxy(INSTANCE, POD_CIDR)  # another process takes over
    await fresh.apply([service(ports=ports)], both)
    seen["taken over"] = await names(12, "10.43.0.5", 80)

    # the cluster DNS has a Service without endpoints: the node answers at its address itself
    dns_service = service(
        "kube-dns", clusterIP="10.43.0.10", ports=[{"port": 53, "protocol": "UDP"}]
    )
    await fresh.apply([service(ports=ports), dns_service], both)
    # the API server listens on 127.0.0.1 only, and pods reach it by the service `kubernetes`
    own = threading.Thread(target=answer_on_loopback, args=(6443,), daemon=True)
    own.start()
    api = service("kubernetes", clusterIP="10.43.0.1", ports=[{"port": 443}])
    api_slice = endpoints("127.0.0.1", name="kubernetes", number=6443)
    await fresh.apply([service(ports=ports), dns_service, api], [*both, api_slice])
    seen["loopback endpoint from pod"] = ask("10.43.0.1", 443, first)
    seen["loopback endpoint from node"] = ask("10.43.0.1", 443)
    seen["loopback is not reachable directly"] = ask("127.0.0.1", 6443, first)
    records = zone.build([service()], both)
    await network.serve_address("10.43.0.10")
    dns = DNSServer(["10.43.0.10"], 53, lambda: records, [Upstream("192.0.2.2")])
    await dns.start()

    def lookup() -> str:
        netns.enter(first.namespace or "")
        question = DNSRecord.question("web.default.svc.cluster.local")
        return str(DNSRecord.parse(question.send("10.43.0.10", 53, timeout=3)).short())

    seen["dns from pod"] = await asyncio.to_thread(netns.in_thread, lookup)
    await dns.close()

    with Netlink() as netlink:  # somebody removes the bridge: the next pod has it made again
        netlink.delete_link(network.bridge)
    third = await network.attach(pod("c"))
    seen["pods are put back"] = [await network.attach(pod(x)) for x in "ab"] == [first, second]
    seen["pod to pod over the new bridge"] = ask(b, 8080, first)
    seen["frames that arrive"] = arrived(first, second, network.gateway)
    subprocess.run(["nft", "delete", "table", "bridge", f"{INSTANCE}-ports"], check=True)
    seen["frames that arrive unguarded"] = arrived(first, second, network.gateway)
    serve(third, 8080, "C")
    seen["bridge made again"] = ask(third.addresses[0], 8080)
    await network.detach(pod("c"))
    await network.detach(pod("a"))
    await network.detach(pod("a"))
    seen["detached"] = sorted(await network.existing()) == ["b" * 64]
    await fresh.remove()
    await network.remove()
    await network.remove()
    seen["namespaces left"] = netns.names(f"{INSTANCE}-")
    with Netlink() as netlink:
        seen["links left"] = sorted(link.name for link in netlink.links())
    seen["tables left"] = subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout.split()
    seen["addresses left"] = sorted(p.name for p in directory.glob("bridge/10.*"))
    netns.delete(f"{INSTANCE}out")
    return seen


if __name__ == "__main__":
    with Netlink() as loopback:
        loopback.set_up(1)
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
