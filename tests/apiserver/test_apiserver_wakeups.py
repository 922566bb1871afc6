"""Events and Leases are cheap: their writes wake nobody who watches something else, and Events go after their time."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from apiserver_harness import MAPS, Harness, api, config_map, open_server

from sampan.apiserver.expiry import SLOT, EventExpiry
from sampan.apiserver.watchcache import Watcher
from sampan.store.sqlite import SQLiteStore

__all__ = ["api"]

EVENTS = "/api/v1/namespaces/default/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
OTHERS = (
    "/api/v1/pods",
    "/api/v1/nodes",
    "/api/v1/configmaps",
    "/api/v1/secrets",
    "/api/v1/services",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/namespaces/default/replicasets",
    "/apis/discovery.k8s.io/v1/endpointslices",
)
WRITES = 40
DEADLINE = 20


def event(name: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Tested",
        "message": "x",
        "type": "Normal",
    }


def lease(name: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"holderIdentity": "me"}}


class Follower:
    """One watch that is read all the time, as a client does."""

    def __init__(self, api: Harness, path: str) -> None:
        self.events = api.watch(f"{path}?watch=1&resourceVersion=0")
        self.seen = 0
        self.task = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        async for _ in self.events:
            self.seen += 1

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def watching(api: Harness) -> int:
    kinds = ("core", "apps", "discovery.k8s.io", "coordination.k8s.io")
    caches = api.server.caches.caches
    return sum(len(each.watchers) for name, each in caches.items() if name.startswith(kinds))


async def test_a_lease_or_event_wakes_only_those_who_watch_them(
    api: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: Counter[str] = Counter()
    wake = Watcher._wake

    def counted(watcher: Watcher) -> None:
        woken[watcher._cache.resource.storage] += 1
        wake(watcher)

    await api.call("POST", MAPS, config_map("there"))
    followers = [Follower(api, path) for path in OTHERS for _ in range(3)]
    mine = [Follower(api, EVENTS), Follower(api, LEASES)]
    async with asyncio.timeout(DEADLINE):
        while watching(api) < len(followers) + len(mine):
            await asyncio.sleep(0)
        monkeypatch.setattr(Watcher, "_wake", counted)
        for number in range(WRITES):
            await api.call("POST", EVENTS, event(f"e{number}"))
            await api.call("POST", LEASES, lease(f"l{number}"))
        while [each.seen for each in mine] != [WRITES, WRITES]:
            await asyncio.sleep(0)
    assert woken == {"core/events": WRITES, "coordination.k8s.io/leases": WRITES}
    # The same watchers do wake for what they watch.
    async with asyncio.timeout(DEADLINE):
        before = sum(each.seen for each in followers)
        await api.call("POST", MAPS, config_map("new"))
        while sum(each.seen for each in followers) < before + 3:
            await asyncio.sleep(0)
    assert woken["core/configmaps"] >= 3
    for follower in (*followers, *mine):
        await follower.stop()


async def test_a_watch_of_the_store_is_woken_for_its_prefix_alone(tmp_path: Path) -> None:
    store = await SQLiteStore.open(tmp_path / "state.db")
    watches = {kind: store.watch(f"/registry/core/{kind}/", 0) for kind in ("pods", "events")}
    tasks = {kind: asyncio.ensure_future(anext(watch)) for kind, watch in watches.items()}
    await asyncio.sleep(0)
    for number in range(WRITES):
        await store.put(f"/registry/core/events/n/{number}", b"{}", expect=0)
        await store.put(f"/registry/coordination.k8s.io/leases/n/{number}", b"{}", expect=0)
    assert len(await tasks["events"]) >= 1
    assert not tasks["pods"].done()
    tasks["pods"].cancel()
    await asyncio.gather(tasks["pods"], return_exceptions=True)
    for watch in watches.values():
        await watch.aclose()
    await store.close()


async def test_events_go_after_their_time_and_stay_when_written_again(tmp_path: Path) -> None:
    harness = await open_server(tmp_path, event_ttl=120.0)
    await harness.server.start(serve=False)
    expiry: EventExpiry = harness.server.expiry
    now = [expiry.clock()]
    expiry.clock = lambda: now[0]
    first = await harness.call("POST", EVENTS, event("first"))
    await harness.call("POST", EVENTS, event("again"))
    now[0] += 100
    found = await harness.call("GET", f"{EVENTS}/again")
    await harness.call("PUT", f"{EVENTS}/again", {**found, "count": 2})
    now[0] += 50 + SLOT
    gone = asyncio.ensure_future(deleted(harness, "first", first))
    await asyncio.sleep(0)
    await harness.call("POST", EVENTS, event("later"))  # the wheel looks at the clock again
    async with asyncio.timeout(DEADLINE):
        await gone
    names = {each["metadata"]["name"] for each in (await harness.call("GET", EVENTS))["items"]}
    assert names == {"again", "later"}
    await harness.server.close()
    await harness.store.close()


async def deleted(api: Harness, name: str, since: dict[str, dict[str, str]]) -> None:
    version = since["metadata"]["resourceVersion"]
    path = f"{EVENTS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name={name}"
    async for each in api.watch(path):
        if each["type"] == "DELETED":
            return
