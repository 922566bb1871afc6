"""What feeds the policy table: watches only while there is a policy, pods held back until it is applied, the cache without an API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import NETWORKPOLICIES, PODS, SERVICEACCOUNTS
from sampan.client.transport import User
from sampan.network.errors import NftError
from sampan.network.policies import Pod
from sampan.node.cache import ObjectCache
from sampan.node.errors import ContainerError
from sampan.node.policies import Policies
from sampan.store.sqlite import SQLiteStore

Object = dict[str, Any]
DEADLINE = 10.0
ADMIN = User("admin", ("system:masters", "system:authenticated"))
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "default"},
    "spec": {"podSelector": {}},
}


class Table:
    """Stands where the kernel's table does: keeps what was applied, refuses when told to."""

    def __init__(self) -> None:
        self.applied: list[tuple[list[Object], list[Pod], list[Object]]] = []
        self.changed = asyncio.Event()
        self.refuses = False

    async def apply(self, policies: list[Object], pods: list[Pod], spaces: list[Object]) -> None:
        if self.refuses:
            raise NftError("nft: no")
        self.applied.append((policies, pods, spaces))
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def close(self) -> None:
        pass

    async def until(self, holds: Any) -> tuple[list[Object], list[Pod], list[Object]]:
        async with asyncio.timeout(DEADLINE):
            while not (self.applied and holds(*self.applied[-1])):
                await self.changed.wait()
        return self.applied[-1]


class Recorder:
    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()

    def event(self, obj: Object, kind: str, reason: str, message: str) -> None:
        self.told.put_nowait((obj["metadata"]["name"], reason, message))


def pod(name: str, address: str = "", uid: str = "") -> Object:
    made: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": "boat", "containers": [{"name": "c", "image": "i"}]},
    }
    if uid:
        made["metadata"]["uid"] = uid
        made["status"] = {"podIP": address}
    return made


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    store = await SQLiteStore.open(tmp_path / "state.db")
    server = APIServer(store, ServerConfig(tmp_path / "pki", tmp_path / "k.yaml", port=0))
    await server.start(serve=False)
    client = Client(InProcess(server, ADMIN))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await client.create(SERVICEACCOUNTS, account, "default")
    yield client
    await server.close()
    await store.close()


@asynccontextmanager
async def running(policies: Policies) -> AsyncIterator[None]:
    task = asyncio.ensure_future(policies.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    cache = ObjectCache(tmp_path / "cache.db")
    yield cache
    cache.close()


async def test_pods_are_looked_at_only_while_a_policy_is(client: Client, cache: Any) -> None:
    await client.create(PODS, pod("a"), "default")
    stored = await client.patch(
        PODS, "a", {"status": {"podIP": "10.0.0.2"}}, "default", subresource="status"
    )
    table = Table()
    policies = Policies(client, "boat", cache, table, dns="10.43.0.10")
    async with running(policies):
        await table.until(lambda found, *_: not found)
        await policies.admit(stored, ["10.0.0.2"])  # nothing to wait for
        await client.create(NETWORKPOLICIES, POLICY, "default")
        _, pods, spaces = await table.until(lambda found, *_: found)
        assert [(p.address, p.local) for p in pods] == [("10.0.0.2", True), ("10.43.0.10", False)]
        assert "default" in {space["metadata"]["name"] for space in spaces}
        await client.patch(PODS, "a", {"metadata": {"labels": {"app": "b"}}}, "default")
        await table.until(lambda _, pods, __: {"app": "b"} in [p.labels for p in pods])
        await client.delete(NETWORKPOLICIES, "deny", "default")
        await table.until(lambda found, *_: not found)
        count = len(table.applied)
        await client.create(PODS, pod("later"), "default")
        await policies.admit(pod("other", uid="u"), ["10.0.0.9"])
        assert len(table.applied) == count


async def test_a_policy_deleted_while_nobody_looked_is_not_kept(client: Client, cache: Any) -> None:
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(cache.run())
        old = {**POLICY, "metadata": {"name": "old", "namespace": "default"}}
        cache.put("networkpolicy", "default", "old", old)
        await cache.flush()
        await client.create(NETWORKPOLICIES, POLICY, "default")
        table = Table()
        async with running(Policies(client, "boat", cache, table)):
            await table.until(lambda found, *_: found)
            await cache.flush()
        writer.cancel()
    assert [kept["metadata"]["name"] for kept in cache.load("networkpolicy")] == ["deny"]


async def test_a_pod_waits_for_the_table_that_knows_it(client: Client, cache: Any) -> None:
    await client.create(NETWORKPOLICIES, POLICY, "default")
    table = Table()
    policies = Policies(client, "boat", cache, table)
    async with running(policies):
        await table.until(lambda found, *_: found)
        new = pod("new", uid="u")
        await policies.admit(new, ["10.0.0.7"])
        assert [p.address for p in table.applied[-1][1]] == ["10.0.0.7"]
        await policies.admit(new, ["10.0.0.8"])  # a new sandbox
        assert [p.address for p in table.applied[-1][1]] == ["10.0.0.8"]
        table.refuses = True
        with pytest.raises(ContainerError, match="network policies cannot be enforced: nft: no"):
            await policies.admit(pod("refused", uid="v"), ["10.0.0.9"])
        policies.forget("u")
        policies.forget("v")


async def test_without_an_api_what_was_known_counts(cache: Any) -> None:
    space = {"metadata": {"name": "default", "labels": {"n": "d"}}}
    cache.put("networkpolicy", "default", "deny", POLICY)
    cache.put("namespace", "", "default", space)
    cache.put("pod", "default", "w", pod("before", "10.0.0.2", "w"))
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(cache.run())
        await cache.flush()
        writer.cancel()
    table = Table()
    policies = Policies(None, "boat", cache, table)
    async with running(policies):
        await policies.admit(pod("new", uid="u"), ["10.0.0.7"])
        found, pods, spaces = table.applied[-1]
        assert found == [POLICY] and spaces == [space]
        assert {p.address for p in pods} == {"10.0.0.7", "10.0.0.2"}


async def test_a_node_that_cannot_says_so_at_the_policy(client: Client, cache: Any) -> None:
    recorder = Recorder()
    policies = Policies(client, "boat", cache, None, recorder)  # type: ignore[arg-type]
    async with running(policies):
        await client.create(NETWORKPOLICIES, POLICY, "default")
        async with asyncio.timeout(DEADLINE):
            name, reason, message = await recorder.told.get()
        assert (name, reason) == ("deny", "NotEnforced") and "without root" in message
        await policies.admit(pod("any", uid="u"), ["127.42.0.2"])
