"""Two API servers, in one process each with its own caches, on one etcd: what one answers, the other shows."""

import asyncio
import random
import uuid

import orjson
import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import CONFIGMAPS, ENDPOINTS, ENDPOINTSLICES, LEASES, SERVICES
from sampan.client.transport import Request, User
from sampan.kube.errors import ApiError
from sampan.store.etcd import EtcdStore

ADMIN = User("admin", ("system:masters",))
DEADLINE = 30


class Pair:
    def __init__(self, directory, endpoints, **config):
        self.directory, self.endpoints, self.config = directory, endpoints, config
        self.root = f"/{uuid.uuid4()}"
        self.servers, self.stores, self.clients = [], [], []

    async def add(self, number):
        store = await EtcdStore.open(self.endpoints, root=self.root)
        config = ServerConfig(
            self.directory / "pki",
            self.directory / f"kubeconfig-{number}",
            address=f"127.0.9.{number}",
            port=6443,
            **{"authorization": False, **self.config},
        )
        server = APIServer(store, config)
        await server.start(serve=False)
        self.stores.append(store)
        self.servers.append(server)
        self.clients.append(Client(InProcess(server, ADMIN)))
        return server

    async def close(self):
        for server, store in zip(self.servers, self.stores, strict=True):
            await server.close()
            await store.close()


@pytest.fixture
async def pair(tmp_path, etcd):
    pair = Pair(tmp_path, etcd)
    # At the same moment, as after a power failure: both write what a cluster has from the start.
    await asyncio.gather(pair.add(1), pair.add(2))
    yield pair
    await pair.close()


def config_map(name, **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


async def test_a_read_at_one_server_sees_what_the_other_has_answered(pair):
    chance = random.Random(1)
    names = set()
    for number in range(40):
        writer, reader = chance.sample(pair.clients, 2)
        name = f"m{number}"
        made = await writer.create(CONFIGMAPS, config_map(name, n="0"))
        names.add(name)
        assert (await reader.get(CONFIGMAPS, name, "default")) == made
        made["data"]["n"] = "1"
        changed = await reader.update(CONFIGMAPS, made)  # its cache is as fresh as what it is sent
        listed = await writer.list(CONFIGMAPS, "default")
        found = {each["metadata"]["name"]: each for each in listed.items}
        assert found[name] == changed
        assert set(found) - {"kube-root-ca.crt"} == names
        if number % 3 == 0:
            await writer.delete(CONFIGMAPS, name, "default")
            names.discard(name)
            with pytest.raises(ApiError, match="not found"):
                await reader.get(CONFIGMAPS, name, "default")


async def test_of_two_servers_writers_one_wins(pair):
    for number in range(20):
        made = await pair.clients[0].create(CONFIGMAPS, config_map(f"r{number}"))
        writes = [
            client.update(CONFIGMAPS, {**made, "data": {"by": str(who)}})
            for who, client in enumerate(pair.clients)
        ]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        won = [each for each in outcomes if isinstance(each, dict)]
        lost = [each for each in outcomes if isinstance(each, ApiError)]
        assert (len(won), len(lost)) == (1, 1)
        assert lost[0].reason == "Conflict"
        assert (await pair.clients[1].get(CONFIGMAPS, f"r{number}", "default")) == won[0]


async def test_a_list_begun_at_one_server_is_continued_at_the_other(pair):
    first, second = pair.clients
    for number in range(7):
        await first.create(CONFIGMAPS, config_map(f"p{number}"))
    page = await first.list(CONFIGMAPS, "default", limit=3)
    await first.delete(CONFIGMAPS, "p5", "default")
    rest = await second.list(CONFIGMAPS, "default", limit=10, continue_=page.continue_)
    names = [each["metadata"]["name"] for each in page.items + rest.items]
    assert [name for name in names if name.startswith("p")] == [f"p{n}" for n in range(7)]
    assert rest.resource_version == page.resource_version


async def test_a_watch_goes_on_at_the_other_server(pair):
    first, second = pair.clients
    made = await first.create(CONFIGMAPS, config_map("w0"))
    await second.create(CONFIGMAPS, config_map("w1"))
    async with asyncio.timeout(DEADLINE):
        seen = []
        since = made["metadata"]["resourceVersion"]
        async for event in second.watch(CONFIGMAPS, "default", resource_version=since):
            if event.type == "BOOKMARK":
                continue
            seen.append(event.object["metadata"]["name"])
            if len(seen) == 3:
                break
            await pair.clients[len(seen) % 2].create(CONFIGMAPS, config_map(f"w{len(seen) + 1}"))
    assert seen == ["w1", "w2", "w3"]


async def test_reads_do_not_wait_for_revisions_of_others(pair, etcd):
    """Another program's keys in the same etcd move its revision; no watch of ours shows that."""
    async with asyncio.timeout(DEADLINE):
        stranger = await EtcdStore.open(etcd, root="/stranger")
        await stranger.put("/x", b"", expect=None)
        await pair.clients[0].create(CONFIGMAPS, config_map("here"))
        await stranger.put("/x", b"", expect=None)
        reads = [pair.clients[1].get(CONFIGMAPS, "here", "default") for _ in range(10)]
        assert len(await asyncio.gather(*reads)) == 10
        await stranger.close()


async def test_services_get_different_addresses_and_ports(pair):
    def service(name):
        spec = {"type": "NodePort", "ports": [{"port": 80}]}
        metadata = {"name": name, "namespace": "default"}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    made = await asyncio.gather(
        *(pair.clients[n % 2].create(SERVICES, service(f"s{n}")) for n in range(30))
    )
    assert len({each["spec"]["clusterIP"] for each in made}) == 30
    assert len({each["spec"]["ports"][0]["nodePort"] for each in made}) == 30
    taken = made[0]["spec"]["clusterIP"]
    again = service("thief")
    again["spec"]["clusterIP"] = taken
    with pytest.raises(ApiError, match="already allocated"):
        await pair.clients[1].create(SERVICES, again)


async def addresses(client):
    endpoints = await client.get(ENDPOINTS, "kubernetes", "default")
    pieces = await client.get(ENDPOINTSLICES, "kubernetes", "default")
    found = [each["addresses"][0] for each in pieces["endpoints"]]
    assert found == [each["ip"] for each in endpoints["subsets"][0]["addresses"]]
    return found


async def test_the_endpoints_of_kubernetes_are_the_servers_that_live(pair):
    first, second = pair.clients
    for server in pair.servers:
        await server.peers.join()  # the two started at once; each has seen the other now
    assert await addresses(first) == ["127.0.9.1", "127.0.9.2"]
    leases = await first.list(
        LEASES, "kube-system", label_selector="apiserver.kubernetes.io/identity=kube-apiserver"
    )
    assert len(leases.items) == 2
    assert second is not first
    await pair.servers[1].close()
    assert await addresses(first) == [pair.servers[0].config.address]


async def test_events_expire_once_and_not_before_their_time(tmp_path, etcd):
    pair = Pair(tmp_path, etcd, event_ttl=3600.0)
    one, other = await pair.add(1), await pair.add(2)
    now = [1_000_000_000.0]
    for server in (one, other):
        server.expiry.clock = lambda: now[0]
    store = pair.stores[0]

    def event(name, at):
        return {"metadata": {"name": name}, "lastTimestamp": at}

    old, young = "/registry/core/events/default/old", "/registry/core/events/default/young"
    await store.put(old, orjson.dumps(event("old", "2001-09-09T00:00:00Z")), expect=0)
    await store.put(young, orjson.dumps(event("young", "2001-09-09T01:46:00Z")), expect=0)
    for server in (
        one,
        other,
    ):  # each believes that both are due: another server wrote the young one again
        for key in (old, young):
            server.expiry.due[key] = 1
        server.expiry.slots[1] = [old, young]
        await server.expiry._empty(1)
    assert await store.get(old) is None
    assert await store.get(young) is not None
    assert young in one.expiry.due
    await pair.close()


async def test_a_flood_of_reads_shares_questions_to_etcd(pair):
    server, store = pair.servers[0], pair.stores[0]
    await pair.clients[0].create(CONFIGMAPS, config_map("hot"))
    asked = 0
    read = store._read_revision

    async def counted():
        nonlocal asked
        asked += 1
        return await read()

    store._read_revision = counted
    path = "/api/v1/namespaces/default/configmaps/hot"
    answers = await asyncio.gather(
        *(server.handle(Request("GET", path, user=ADMIN)) for _ in range(200))
    )
    assert {answer.status for answer in answers} == {200}
    assert 1 <= asked <= 4
