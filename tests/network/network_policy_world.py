"""Run inside a network and mount namespace of its own (test_network_policy_kernel.py): nine pods on a bridge under policies.

Three namespaces x, y, z of three pods a, b, c each, as in Kubernetes' own tests of NetworkPolicy. Prints one JSON object: for each
case the pairs that did not get through. Not a test by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from network_world import ask, outside
from test_network_services import endpoints, service

from sampan.network import netns
from sampan.network.bridge import BridgeNetwork
from sampan.network.nft import NFTProxy
from sampan.network.pods import Attachment, PodRef
from sampan.network.policies import Pod
from sampan.network.policytable import PolicyTable
from sampan.network.rtnetlink import Netlink

Object = dict[str, Any]
INSTANCE, CIDR = "sppolicy", "10.42.8.0/24"
NAMES = [f"{space}/{name}" for space in "xyz" for name in "abc"]


def serve(place: Attachment, name: str) -> None:
    """TCP on 80 and 81, UDP on 80, in one thread: each says who answers."""
    ready = threading.Event()

    def run() -> None:
        netns.enter(place.namespace or "")
        asyncio.run(answer(name, ready.set))

    threading.Thread(target=run, daemon=True).start()
    ready.wait()


async def answer(name: str, ready: Callable[[], None]) -> None:
    async def tcp(_reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()

    class UDP(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, _data: bytes, address: Any) -> None:
            self.transport.sendto(name.encode(), address)

    for port in (80, 81):
        await asyncio.start_server(tcp, "0.0.0.0", port)
    await asyncio.get_running_loop().create_datagram_endpoint(UDP, local_addr=("0.0.0.0", 80))
    ready()
    await asyncio.Event().wait()


def policy(name: str, namespace: str, **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def pod_labels(name: str) -> Object:
    return {"podSelector": {"matchLabels": {"pod": name}}}


def space_labels(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"ns": name}}}


class World:
    def __init__(self, directory: Path) -> None:
        self.network = BridgeNetwork(directory, CIDR, INSTANCE)
        self.table = PolicyTable(INSTANCE)
        self.places: dict[str, Attachment] = {}
        self.labels = {name: {"pod": name[-1]} for name in NAMES}
        self.spaces = {space: {"ns": space} for space in "xyz"}

    async def start(self) -> None:
        for number, name in enumerate(NAMES):
            reference = PodRef(f"{number + 1:x}" * 64, name[0], name[-1])
            self.places[name] = await self.network.attach(reference)
            serve(self.places[name], name)

    def address(self, name: str) -> str:
        return self.places[name].addresses[0]

    def pods(self) -> list[Pod]:
        ports = {("serve-80", "tcp"): 80, ("serve-81", "tcp"): 81, ("serve-80-udp", "udp"): 80}
        return [Pod(name[0], self.labels[name], self.address(name), ports) for name in NAMES]

    async def apply(self, *policies: Object) -> None:
        spaces = [{"metadata": {"name": n, "labels": each}} for n, each in self.spaces.items()]
        await self.table.apply(list(policies), self.pods(), spaces)

    async def blocked(
        self, port: int = 80, sources: Iterable[str] = NAMES, targets: Iterable[str] = NAMES
    ) -> list[str]:
        """Pairs `source target` that do not get through by TCP."""

        async def one(source: str, target: str) -> str:
            answer = await asyncio.to_thread(ask, self.address(target), port, self.places[source])
            assert answer in (target, "ConnectionRefusedError"), (source, target, answer)
            return "" if answer == target else f"{source} {target}"

        found = await asyncio.gather(*(one(s, t) for s in sources for t in targets))
        return sorted(filter(None, found))


async def main(directory: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    far = Attachment(outside(INSTANCE), ("192.0.2.2",), "far")
    world = World(directory)
    await world.start()
    serve(far, "far")
    seen["no policy"] = await world.blocked()
    await world.apply(policy("deny", "x"))
    seen["deny ingress"] = await world.blocked()
    seen["from the node"] = ask(world.address("x/a"), 80)
    deny_egress = policy("deny", "x", policyTypes=["Egress"])
    await world.apply(deny_egress)
    seen["deny egress"] = await world.blocked()
    seen["egress outside"] = ask("192.0.2.2", 80, world.places["x/a"])
    seen["egress to the node"] = ask(world.network.gateway, 9999, world.places["x/a"])
    anywhere = {"ports": [{"port": 80}]}
    await world.apply(deny_egress, policy("some", "x", policyTypes=["Egress"], egress=[anywhere]))
    seen["policies add up"] = [await world.blocked(80), await world.blocked(81, ["x/a"], ["y/a"])]
    seen["egress outside again"] = ask("192.0.2.2", 80, world.places["x/a"])

    either = {"from": [space_labels("y"), pod_labels("b")]}
    both = {"from": [space_labels("y") | pod_labels("b")]}
    selected = {"podSelector": {"matchLabels": {"pod": "a"}}}
    await world.apply(policy("or", "x", **selected, ingress=[either]))
    seen["or"] = await world.blocked(targets=["x/a", "x/b"])
    await world.apply(policy("and", "x", **selected, ingress=[both]))
    seen["and"] = await world.blocked(targets=["x/a", "x/b"])
    world.labels["y/c"] = {"pod": "b"}  # a label changes
    await world.apply(policy("and", "x", **selected, ingress=[both]))
    seen["label of a pod"] = await world.blocked(targets=["x/a"])
    world.labels["y/c"] = {"pod": "c"}
    world.spaces["z"] = {"ns": "y"}
    await world.apply(policy("and", "x", **selected, ingress=[both]))
    seen["label of a namespace"] = await world.blocked(targets=["x/a"])
    world.spaces["z"] = {"ns": "z"}

    block = {"cidr": "0.0.0.0/0", "except": [f"{world.address('y/a')}/32"]}
    await world.apply(policy("block", "x", ingress=[{"from": [{"ipBlock": block}]}]))
    seen["block"] = await world.blocked(targets=["x/a"])
    named = {"ports": [{"port": "serve-81"}]}
    await world.apply(policy("named", "x", ingress=[named]))
    seen["named port"] = [await world.blocked(port, ["y/a"], ["x/a"]) for port in (80, 81)]
    await world.apply(policy("named", "x", policyTypes=["Egress"], egress=[named]))
    seen["named port of others"] = [
        await world.blocked(port, ["x/a"], ["y/a"]) for port in (80, 81)
    ]
    ranged = {"ports": [{"port": 81, "endPort": 90}]}
    await world.apply(policy("range", "x", ingress=[ranged]))
    seen["port range"] = [await world.blocked(port, ["y/a"], ["x/a"]) for port in (80, 81)]
    udp = {"ports": [{"port": 80, "protocol": "UDP"}]}
    await world.apply(policy("udp", "x", ingress=[udp]))
    seen["udp"] = [
        ask(world.address("x/a"), 80, world.places["y/a"], udp=True),
        *await world.blocked(80, ["y/a"], ["x/a"]),
    ]
    await world.apply(policy("tcp", "x", ingress=[{"ports": [{"port": 80}]}]))
    seen["no udp"] = ask(world.address("x/a"), 80, world.places["y/a"], udp=True)

    # services: the policy sees the pod behind the address, from pods and from outside
    proxy = NFTProxy(INSTANCE, CIDR)
    ports = [{"port": 80, "nodePort": 30080}]
    await proxy.apply([service(ports=ports)], [endpoints(world.address("x/a"), number=80)])
    await world.apply(
        policy("only-b", "x", ingress=[{"from": [space_labels("x") | pod_labels("b")]}])
    )
    seen["service"] = {
        name: ask("10.43.0.5", 80, world.places[name]) for name in ("x/a", "x/b", "y/b")
    }
    seen["node port from outside"] = ask("192.0.2.1", 30080, far)
    seen["service from the node"] = ask("10.43.0.5", 80)
    only_a = {"to": [space_labels("x") | pod_labels("a")]}
    await world.apply(policy("out", "z", policyTypes=["Egress"], egress=[only_a]))
    seen["egress to a service"] = [
        ask("10.43.0.5", 80, world.places["z/a"]),
        await world.blocked(80, ["z/a"], ["x/a", "x/b"]),
    ]

    # what is open stays open, and answers come back
    connection = await asyncio.to_thread(connect, world.places["x/c"], far)
    await world.apply(policy("deny", "x", policyTypes=["Ingress", "Egress"]))
    seen["an open connection goes on"] = await asyncio.to_thread(talk, *connection)
    # On a kernel without tables of bridges it is the policies' table alone that keeps IPv6 out.
    ports = f"table bridge {INSTANCE}-ports"
    subprocess.run(["nft", "delete", *ports.split()], check=True)
    seen["ipv6"] = ask6(world.places["y/a"], world.places["y/b"])
    await world.apply()
    seen["open again"] = await world.blocked(sources=["x/a", "y/a"])
    seen["ipv6 without policies"] = ask6(world.places["y/a"], world.places["y/b"])
    seen["table gone"] = "policy" not in subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout.replace(INSTANCE, "")
    await proxy.remove()
    await world.network.remove()
    return seen


def connect(client: Attachment, server: Attachment) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection from one place to the other."""
    ready: list[socket.socket] = []

    def listen() -> None:
        netns.enter(server.namespace or "")
        ready.append(socket.create_server(("0.0.0.0", 7000)))

    def dial() -> socket.socket:
        netns.enter(client.namespace or "")
        return socket.create_connection((server.addresses[0], 7000), 3)

    netns.in_thread(listen)
    left = netns.in_thread(dial)
    right, _ = ready[0].accept()
    ready[0].close()
    return left, right


def talk(left: socket.socket, right: socket.socket) -> str:
    with left, right:
        for each in (left, right):
            each.settimeout(3)
        left.sendall(b"?")
        assert right.recv(1) == b"?"
        right.sendall(b"still here")
        return left.recv(100).decode()


def ask6(source: Attachment, target: Attachment) -> str:
    """UDP between the link-local addresses that the kernel gives pods."""

    def six(place: Attachment) -> tuple[str, int]:
        def run() -> tuple[str, int]:
            netns.enter(place.namespace or "")
            text = Path("/proc/thread-self/net/if_inet6").read_text()
            line = next(each for each in text.splitlines() if each.startswith("fe80"))
            packed = bytes.fromhex(line.split()[0])
            return socket.inet_ntop(socket.AF_INET6, packed), int(line.split()[1], 16)

        return netns.in_thread(run)

    address, index = six(target)

    def bind() -> socket.socket:
        netns.enter(target.namespace or "")
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.bind((address, 7001, 0, index))
        server.settimeout(0.5)
        return server

    def send() -> None:
        netns.enter(source.namespace or "")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.sendto(b"six", (address, 7001, 0, six(source)[1]))

    with contextlib.closing(netns.in_thread(bind)) as server:
        netns.in_thread(send)
        try:
            return server.recv(10).decode()
        except TimeoutError:
            return ""


if __name__ == "__main__":
    with Netlink() as loopback:
        loopback.set_up(1)
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
