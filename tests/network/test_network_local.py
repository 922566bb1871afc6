"""What needs no privilege: addresses, loopback network, the userspace balancer, resolv.conf."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network_services import endpoints, service

from sampan.network import resolv
from sampan.network.addresses import AddressPool
from sampan.network.errors import AddressesExhausted
from sampan.network.loopback import LoopbackNetwork
from sampan.network.pods import PodRef
from sampan.network.resolv import ResolvConf, for_pod
from sampan.network.userspace import UserspaceProxy


def pod(name: str) -> PodRef:
    return PodRef(name.ljust(64, "0"), "default", name)


async def test_loopback_addresses_survive_a_restart(tmp_path: Path) -> None:
    network = LoopbackNetwork(tmp_path)
    first, second = await network.attach(pod("a")), await network.attach(pod("b"))
    assert first.addresses != second.addresses and first.namespace is None
    again = LoopbackNetwork(tmp_path)
    assert await again.existing() == {pod("a").sandbox_id: first, pod("b").sandbox_id: second}
    assert await again.attach(pod("a")) == first
    await again.detach(pod("a"))
    await again.detach(pod("a"))
    assert list(await LoopbackNetwork(tmp_path).existing()) == [pod("b").sandbox_id]


async def test_a_released_address_is_used_again_last(tmp_path: Path) -> None:
    network = LoopbackNetwork(tmp_path, "127.42.0.0/29")  # six addresses
    taken = [(await network.attach(pod(str(i)))).addresses[0] for i in range(3)]
    await network.detach(pod("0"))
    later = [(await network.attach(pod(f"x{i}"))).addresses[0] for i in range(4)]
    assert taken[0] not in later[:3] and later[3] == taken[0]
    with pytest.raises(AddressesExhausted):
        await network.attach(pod("one too many"))


def _take(directory: Path, first: int, count: int) -> None:
    pool = AddressPool(directory, "127.42.0.0/24")
    for i in range(first, first + count):
        pool.take(f"{i:064d}")


def test_processes_never_take_the_same_address(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_take, args=(tmp_path, i * 50, 50)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    owners = AddressPool(tmp_path, "127.42.0.0/24").owners()
    assert len(owners) == 150 and len(set(owners.values())) == 150


def test_a_half_written_address_is_no_address(tmp_path: Path) -> None:
    (tmp_path / "127.42.0.1").touch()
    assert AddressPool(tmp_path, "127.42.0.0/29").owners() == {}


# The balancer


@asynccontextmanager
async def backend(address: str, port: int, name: str) -> AsyncIterator[None]:
    """Says its name, then echoes until the end of input."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, address, port)
    try:
        yield
    finally:
        server.close()


async def ask(address: tuple[str, int] | None, data: bytes = b"") -> str:
    assert address is not None
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer.decode()


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


async def test_tcp_balancing_affinity_and_removal() -> None:
    port = free_port("127.43.9.1")
    ports = [{"port": port}]
    plain = service(clusterIP="127.43.9.1", ports=ports)
    sticky = service(clusterIP="127.43.9.1", ports=ports, sessionAffinity="ClientIP")
    both = [endpoints("127.42.9.1", "127.42.9.2", number=port)]
    async with backend("127.42.9.1", port, "one"), backend("127.42.9.2", port, "two"):
        proxy = UserspaceProxy()
        await proxy.apply([plain], both)
        place = proxy.address_of("default/web", port)
        assert place == ("127.43.9.1", port)
        assert {await ask(place) for _ in range(4)} == {"one", "two"}
        big = b"x" * 3_000_000
        assert len(await ask(place, big)) == len(big) + 3
        await proxy.apply([sticky], both)
        assert len({await ask(place) for _ in range(6)}) == 1
        await proxy.apply([plain], [endpoints("127.42.9.2", number=port)])
        assert {await ask(place) for _ in range(3)} == {"two"}
        await proxy.apply([plain], [])
        with pytest.raises(ConnectionRefusedError):
            await ask(place)
        await proxy.apply([plain], [endpoints("127.42.9.9", number=port)])
        with pytest.raises(ConnectionResetError):
            await ask(place)
        await proxy.apply([], [])
        assert proxy.address_of("default/web", port) is None
        with pytest.raises(ConnectionRefusedError):
            await ask(place)
        await proxy.close()
        await proxy.close()


async def test_a_dead_endpoint_is_passed_over() -> None:
    port = free_port("127.43.9.2")
    async with backend("127.42.9.3", port, "alive"):
        proxy = UserspaceProxy()
        slices = [endpoints("127.42.9.3", "127.42.9.4", number=port)]
        await proxy.apply([service(clusterIP="127.43.9.2", ports=[{"port": port}])], slices)
        place = proxy.address_of("default/web", port)
        assert [await ask(place) for _ in range(4)] == ["alive"] * 4
        await proxy.close()


async def test_an_open_connection_outlives_its_service() -> None:
    port = free_port("127.43.9.3")
    async with backend("127.42.9.5", port, "hello "):
        proxy = UserspaceProxy()
        slices = [endpoints("127.42.9.5", number=port)]
        await proxy.apply([service(clusterIP="127.43.9.3", ports=[{"port": port}])], slices)
        reader, writer = await asyncio.open_connection("127.43.9.3", port)
        assert await reader.readexactly(6) == b"hello "
        await proxy.apply([], [])
        writer.write(b"still here")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"still here"
        writer.close()
        await proxy.close()


async def test_privileged_ports_move_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.network.userspace.first_free_port", lambda: 1024)
    told: list[tuple[str, str, str]] = []
    proxy = UserspaceProxy(unbound=lambda *what: told.append(what))
    web = service(clusterIP="127.43.9.4")
    await proxy.apply([web], [endpoints("127.42.9.8")])
    await proxy.apply([web], [endpoints("127.42.9.8")])
    assert proxy.address_of("default/web", 80) == ("127.43.9.4", 10080)
    assert len(told) == 1 and told[0][:2] == ("default/web", "PortNotBound")
    assert "127.43.9.4:10080" in told[0][2]
    await proxy.close()


async def test_udp() -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.transport.sendto(b"echo " + data, addr)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    port = free_port("127.43.9.5")
    server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.42.9.6", port))
    slices = endpoints("127.42.9.6", number=port)
    slices["ports"][0]["protocol"] = "UDP"
    proxy = UserspaceProxy()
    ports = [{"port": port, "protocol": "UDP"}]
    await proxy.apply([service(clusterIP="127.43.9.5", ports=ports)], [slices])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.43.9.5", port))
        for text in (b"a", b"b"):
            client.send(text)
            answer = await asyncio.wait_for(loop.sock_recv(client, 100), 10)
            assert answer == b"echo " + text
    await proxy.close()
    server.close()


# resolv.conf

HOST = ResolvConf(("192.0.2.1",), ("example.org",), ("timeout:1",))


def test_cluster_first() -> None:
    config, cut = for_pod({}, "shop", cluster_dns=["10.43.0.10"], host=HOST)
    searches = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org")
    assert config == ResolvConf(("10.43.0.10",), searches, ("ndots:5",))
    assert cut == []


@pytest.mark.parametrize(
    ("spec", "servers"),
    [
        ({"dnsPolicy": "Default"}, ("192.0.2.1",)),
        ({"hostNetwork": True}, ("192.0.2.1",)),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, ("10.43.0.10",)),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"]}}, ("192.0.2.9",)),
        ({"dnsConfig": {"nameservers": ["192.0.2.9"]}}, ("10.43.0.10", "192.0.2.9")),
    ],
)
def test_policies(spec: dict, servers: tuple[str, ...]) -> None:
    config, _ = for_pod(spec, "shop", cluster_dns=["10.43.0.10"], host=HOST)
    assert config.nameservers == servers


def test_options_of_the_pod_win() -> None:
    spec = {
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}, {"name": "rotate", "value": ""}]}
    }
    config, _ = for_pod(spec, "shop", cluster_dns=["10.43.0.10"], host=HOST)
    assert config.options == ("ndots:1", "rotate")


@given(
    st.lists(st.sampled_from([f"192.0.2.{i}" for i in range(9)])),
    st.lists(st.text("abc.", min_size=1, max_size=200), max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_limits_hold(servers: list[str], searches: list[str]) -> None:
    spec = {"dnsConfig": {"nameservers": servers, "searches": searches}}
    config, cut = for_pod(spec, "shop", cluster_dns=["10.43.0.10"], host=HOST)
    assert len(config.nameservers) <= resolv.MAX_NAMESERVERS
    assert len(config.searches) <= resolv.MAX_SEARCHES
    assert len(" ".join(config.searches)) <= resolv.MAX_SEARCH_LENGTH
    whole = len({"10.43.0.10", *servers}) > resolv.MAX_NAMESERVERS
    assert any("Nameserver" in sentence for sentence in cut) == whole


def test_parse_reads_the_last_search_and_ignores_comments() -> None:
    text = "# c\nnameserver 1.1.1.1 ; x\ndomain a\nsearch b c\noptions ndots:2\nnameserver\n"
    assert resolv.parse(text) == ResolvConf(("1.1.1.1",), ("b", "c"), ("ndots:2",))
