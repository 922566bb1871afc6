"""Cluster DNS over real sockets: records, negative answers, truncation, forwarding, rubbish."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord

from sampan.network.dns import DNSServer, Upstream
from sampan.network.zone import Zone, build

SERVICES = [
    {
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 80}]},
    },
    {"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}},
    {"metadata": {"namespace": "shop", "name": "crowd"}, "spec": {"clusterIP": "None"}},
    {
        "metadata": {"namespace": "shop", "name": "away"},
        "spec": {"type": "ExternalName", "externalName": "Example.org."},
    },
]


def piece(service: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "pg", "port": 5432}],
        "endpoints": entries,
    }


SLICES = [
    piece(
        "db",
        [
            {"addresses": ["10.42.0.2"], "hostname": "db-0"},
            {"addresses": ["10.42.0.3"]},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": False}},
        ],
    ),
    piece("crowd", [{"addresses": [f"10.42.1.{i}"]} for i in range(1, 200)]),
]


class FakeWorld(asyncio.DatagramProtocol):
    """An upstream resolver that knows one address for every name; counts its questions."""

    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def reply(self, data: bytes) -> bytes:
        FakeWorld.asked += 1
        request = DNSRecord.parse(data)
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=60, rdata=A("192.0.2.80")))
        return bytes(reply.pack())

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(self.reply(data), addr)  # type: ignore[attr-defined]


@pytest.fixture
async def server() -> AsyncIterator[DNSServer]:
    FakeWorld.asked = 0
    zone = build(SERVICES, SLICES, namespaces=["shop", "empty"])
    loop = asyncio.get_running_loop()

    async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = FakeWorld().reply(await reader.readexactly(size))
        writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()

    stream = await asyncio.start_server(tcp, "127.77.0.1", 0)
    port = stream.sockets[0].getsockname()[1]
    world, _ = await loop.create_datagram_endpoint(FakeWorld, local_addr=("127.77.0.1", port))
    found = DNSServer(["127.0.0.1"], 0, lambda: zone, [Upstream("127.77.0.1", port)])
    await found.start()
    yield found
    await found.close()
    stream.close()
    world.close()


async def query(
    server: DNSServer, name: str, kind: str = "A", *, tcp: bool = False, edns: int = 0
) -> DNSRecord:
    request = DNSRecord(DNSHeader(rd=1), q=DNSQuestion(name, getattr(QTYPE, kind)))
    if edns:
        request.add_ar(EDNS0(udp_len=edns))
    return DNSRecord.parse(await send(server, bytes(request.pack()), tcp=tcp))


async def send(server: DNSServer, data: bytes, *, tcp: bool = False) -> bytes:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        if tcp:
            reader, writer = await asyncio.open_connection(*server.bound[0])
            writer.write(len(data).to_bytes(2, "big") + data)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            writer.close()
            return answer
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(server.bound[0])
            client.send(data)
            return await loop.sock_recv(client, 65535)


def texts(reply: DNSRecord) -> list[str]:
    return sorted(str(record.rdata) for record in reply.rr)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.shop.svc.cluster.local", "A", ["10.43.0.7"]),
        ("WEB.Shop.svc.cluster.LOCAL.", "A", ["10.43.0.7"]),
        ("_http._tcp.web.shop.svc.cluster.local", "SRV", ["0 100 80 web.shop.svc.cluster.local."]),
        ("7.0.43.10.in-addr.arpa", "PTR", ["web.shop.svc.cluster.local."]),
        ("db.shop.svc.cluster.local", "A", ["10.42.0.2", "10.42.0.3"]),
        ("db-0.db.shop.svc.cluster.local", "A", ["10.42.0.2"]),
        ("10-42-0-3.db.shop.svc.cluster.local", "A", ["10.42.0.3"]),
        (
            "_pg._tcp.db.shop.svc.cluster.local",
            "SRV",
            [
                "0 100 5432 10-42-0-3.db.shop.svc.cluster.local.",
                "0 100 5432 db-0.db.shop.svc.cluster.local.",
            ],
        ),
        ("2.0.42.10.in-addr.arpa", "PTR", ["db-0.db.shop.svc.cluster.local."]),
        ("10-42-9-9.shop.pod.cluster.local", "A", ["10.42.9.9"]),
        ("dns-version.cluster.local", "TXT", ['"1.1.0"']),
        ("away.shop.svc.cluster.local", "CNAME", ["example.org."]),
        ("away.shop.svc.cluster.local", "A", ["192.0.2.80", "example.org."]),
    ],
)
async def test_records(server: DNSServer, name: str, kind: str, expected: list[str]) -> None:
    for tcp in (False, True):
        reply = await query(server, name, kind, tcp=tcp)
        assert reply.header.rcode == RCODE.NOERROR
        assert texts(reply) == expected
        assert all(record.ttl <= 60 for record in reply.rr)


@pytest.mark.parametrize(
    "name",
    [
        "nope.shop.svc.cluster.local",
        "web.nope.svc.cluster.local",
        "www.python.org.shop.svc.cluster.local",  # a search domain: resolvers must go on
        "10-42-9-9.nope.pod.cluster.local",
        "10-42-999-9.shop.pod.cluster.local",
    ],
)
async def test_nxdomain(server: DNSServer, name: str) -> None:
    reply = await query(server, name)
    assert reply.header.rcode == RCODE.NXDOMAIN and not reply.rr
    assert reply.auth[0].rtype == QTYPE.SOA and reply.header.aa
    assert FakeWorld.asked == 0  # names of the cluster are never asked outside


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web.shop.svc.cluster.local", "AAAA"),
        ("shop.svc.cluster.local", "A"),
        ("empty.svc.cluster.local", "A"),
        ("_tcp.web.shop.svc.cluster.local", "SRV"),
        ("10-42-9-9.shop.pod.cluster.local", "AAAA"),
        ("away.shop.svc.cluster.local", "MX"),
    ],
)
async def test_a_name_without_such_a_record_is_no_error(
    server: DNSServer, name: str, kind: str
) -> None:
    reply = await query(server, name, kind)
    assert reply.header.rcode == RCODE.NOERROR
    assert [record for record in reply.rr if record.rtype != QTYPE.CNAME] == []


def test_pods_of_any_namespace_unless_they_are_named() -> None:
    assert build([], []).pod_address("1-2-3-4.any.pod.cluster.local") == "1.2.3.4"
    assert build([], [], namespaces=["x"]).pod_address("1-2-3-4.any.pod.cluster.local") is None


async def test_truncation_and_tcp(server: DNSServer) -> None:
    name = "crowd.shop.svc.cluster.local"
    short = await query(server, name)
    assert short.header.tc == 1
    assert (await query(server, name, edns=1232)).header.tc == 1
    whole = await query(server, name, tcp=True)
    assert whole.header.tc == 0 and len(whole.rr) == 199


async def test_forwarding_and_cache(server: DNSServer) -> None:
    for _ in range(3):
        assert texts(await query(server, "python.org")) == ["192.0.2.80"]
    assert FakeWorld.asked == 1


async def test_dead_upstream_is_servfail_and_none_is_nxdomain() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for upstreams, code in (
        ([Upstream("127.0.0.1", port)], RCODE.SERVFAIL),
        ([], RCODE.NXDOMAIN),
    ):
        server = DNSServer(["127.0.0.1"], 0, lambda: Zone("cluster.local"), upstreams)
        await server.start()
        assert (await query(server, "python.org")).header.rcode == code
        await server.close()
        await server.close()


async def test_own_address_is_no_upstream() -> None:
    server = DNSServer(["127.0.0.1"], 0, lambda: Zone("cluster.local"), None)
    server._given = [Upstream("127.0.0.1", 53), Upstream("192.0.2.53")]
    await server.start()
    assert server.upstreams == (Upstream("192.0.2.53"),)
    await server.close()


async def test_an_address_in_use_is_named_and_nothing_stays() -> None:
    first = DNSServer(["127.0.0.1"], 0, lambda: Zone("cluster.local"), [])
    await first.start()
    port = first.bound[0][1]
    second = DNSServer(["127.0.0.2", "127.0.0.1"], port, lambda: Zone("cluster.local"), [])
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await second.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.2", port))
    await first.close()


async def test_rubbish_is_survived(server: DNSServer) -> None:
    """Random bytes, and valid questions with random damage: the server goes on answering."""
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    noise = random.Random(seed)
    good = bytes(DNSRecord.question("web.shop.svc.cluster.local", "A").pack())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(server.bound[0])
        for _ in range(1500):
            if noise.random() < 0.4:
                data = noise.randbytes(noise.randrange(1, 80))
            else:
                damaged = bytearray(good)
                for _ in range(noise.randrange(1, 4)):
                    damaged[noise.randrange(len(damaged))] = noise.randrange(256)
                data = bytes(damaged[: noise.randrange(1, len(damaged) + 1)])
            client.send(data)
            await asyncio.sleep(0)
    for _ in range(30):
        _, writer = await asyncio.open_connection(*server.bound[0])
        writer.write(noise.randbytes(noise.randrange(1, 40)))
        writer.close()
    assert texts(await query(server, "web.shop.svc.cluster.local")) == ["10.43.0.7"]
