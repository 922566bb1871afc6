"""Lists and watches: consistency, pages, selectors, and every rule about resourceVersion."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from apiserver_harness import DEPLOYMENTS, MAPS, Harness, api, config_map, deployment, open_server

__all__ = ["api"]


def names(listed: dict[str, Any]) -> list[str]:
    return [each["metadata"]["name"] for each in listed["items"]]


async def collect(api: Harness, path: str, count: int) -> list[tuple[str, str]]:
    """(type, name or revision) of the first `count` events."""
    found = []
    async with asyncio.timeout(5):
        async for event in api.watch(path):
            metadata = event["object"].get("metadata") or {}
            found.append((event["type"], metadata.get("name") or event["object"].get("reason", "")))
            if len(found) == count:
                break
    return found


async def test_pages_show_one_moment(api: Harness) -> None:
    for index in range(7):
        await api.call("POST", MAPS, config_map(f"m{index}"))
    first = await api.call("GET", f"{MAPS}?limit=3")
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["m0", "m1", "m2"], 4)
    await api.call("DELETE", f"{MAPS}/m4")
    await api.call("POST", MAPS, config_map("m33"))
    token = first["metadata"]["continue"]
    second = await api.call("GET", f"{MAPS}?limit=10&continue={token}")
    assert names(second) == ["m3", "m4", "m5", "m6"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await api.store.compact(api.store.revision)
    gone = await api.call("GET", f"{MAPS}?limit=10&continue={token}", status=410)
    assert gone["reason"] == "Expired"
    rest = await api.call("GET", f"{MAPS}?limit=10&continue={gone['metadata']['continue']}")
    assert names(rest) == ["m3", "m33", "m5", "m6"]


async def test_exact_and_future_versions(api: Harness) -> None:
    one = await api.call("POST", MAPS, config_map("one"))
    await api.call("POST", MAPS, config_map("two"))
    revision = one["metadata"]["resourceVersion"]
    exact = await api.call("GET", f"{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")
    assert (names(exact), exact["metadata"]["resourceVersion"]) == (["one"], revision)
    assert names(await api.call("GET", f"{MAPS}?resourceVersion=0")) == ["one", "two"]
    late = await api.call("GET", f"{MAPS}?resourceVersion=99999", status=504)
    assert late["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_selectors(api: Harness) -> None:
    for name, tier in (("a", "x"), ("b", "y"), ("c", "x")):
        body = config_map(name)
        body["metadata"]["labels"] = {"tier": tier}
        await api.call("POST", MAPS, body)
    assert names(await api.call("GET", f"{MAPS}?labelSelector=tier%3Dx".replace("%3D", "="))) == [
        "a",
        "c",
    ]
    assert names(await api.call("GET", f"{MAPS}?fieldSelector=metadata.name=b")) == ["b"]
    assert names(
        await api.call("GET", "/api/v1/configmaps?fieldSelector=metadata.namespace!=default")
    ) == ["extension-apiserver-authentication"]


async def test_tables_and_partial_objects(api: Harness) -> None:
    await api.call("POST", DEPLOYMENTS, deployment("web"))
    table = await api.call(
        "GET", DEPLOYMENTS, accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    )
    assert table["kind"] == "Table"
    assert table["rows"][0]["cells"][0] == "web"
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    partial = await api.call("GET", DEPLOYMENTS, accept=accept)
    assert partial["kind"] == "PartialObjectMetadataList"
    assert set(partial["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_watch_sees_each_change_once(api: Harness) -> None:
    start = (await api.call("GET", MAPS))["metadata"]["resourceVersion"]
    task = asyncio.create_task(collect(api, f"{MAPS}?watch=true&resourceVersion={start}", 3))
    await asyncio.sleep(0)
    await api.call("POST", MAPS, config_map("one"))
    await api.patch("merge", f"{MAPS}/one", {"data": {"x": "y"}})
    await api.call("DELETE", f"{MAPS}/one")
    expected = [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]
    assert await task == expected
    # Again, from the past: the same story out of the ring, or out of the store's log.
    path = f"{MAPS}?watch=true&resourceVersion={start}"
    assert await collect(api, path, 3) == expected
    api.server.caches.caches["core/configmaps"].ring_start = api.store.revision
    assert await collect(api, path, 3) == expected


async def test_watch_shows_selector_transitions(api: Harness) -> None:
    body = config_map("one")
    body["metadata"]["labels"] = {"on": "yes"}
    start = (await api.call("POST", MAPS, body))["metadata"]["resourceVersion"]
    await api.patch("merge", f"{MAPS}/one", {"metadata": {"labels": {"on": "no"}}})
    await api.patch("merge", f"{MAPS}/one", {"data": {"unseen": "x"}})
    await api.patch("merge", f"{MAPS}/one", {"metadata": {"labels": {"on": "yes"}}})
    path = f"{MAPS}?watch=true&labelSelector=on=yes&resourceVersion={start}"
    assert await collect(api, path, 2) == [("DELETED", "one"), ("ADDED", "one")]


async def test_watch_list(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    path = f"{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    events = []
    async with asyncio.timeout(5):
        async for event in api.watch(path):
            events.append(event)
            if event["type"] == "BOOKMARK":
                break
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    bookmark = events[-1]["object"]["metadata"]
    assert bookmark["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(bookmark["resourceVersion"]) == api.store.revision
    await api.call("GET", f"{MAPS}?watch=true&sendInitialEvents=true", status=422)


async def test_watch_from_compacted_history(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    await api.call("POST", MAPS, config_map("two"))
    await api.store.compact(api.store.revision)
    events = [event async for event in api.watch(f"{MAPS}?watch=true&resourceVersion=1")]
    assert [
        (event["type"], event["object"]["code"], event["object"]["reason"]) for event in events
    ] == [("ERROR", 410, "Expired")]


async def test_watch_ends_with_a_bookmark(api: Harness) -> None:
    path = f"{MAPS}?watch=true&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=1"
    events = [event async for event in api.watch(path)]
    assert [event["type"] for event in events] == ["BOOKMARK"]


async def test_a_closed_watch_leaves_nothing(api: Harness) -> None:
    await collect_one(api)
    assert not api.server.caches.caches["core/configmaps"].watchers


async def collect_one(api: Harness) -> None:
    response = await api.send("GET", f"{MAPS}?watch=true")
    assert not isinstance(response.body, bytes)
    reading = asyncio.ensure_future(anext(response.body))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await api.call("POST", MAPS, config_map("one"))
    assert orjson.loads(await reading)["type"] == "ADDED"
    await response.aclose()


async def test_a_slow_watcher_is_cut_off(api: Harness) -> None:
    cache = await api.server.caches.get(api.server.table.rows["", "v1", "configmaps"])
    watcher = cache.subscribe(cache.resource.prefix, None, api.store.revision)
    assert watcher is not None
    await api.call("POST", MAPS, config_map("one"))
    await api.call("GET", MAPS)
    (kind, event), *_ = watcher.take()
    for _ in range(10000):
        event.revision += 1
        watcher.offer(event)
    assert kind == "ADDED" and await watcher.next(0.0) is None


async def test_immediate_gives_the_same_bytes(api: Harness) -> None:
    from apiserver_harness import ADMIN

    from sampan.client.transport import Request

    await api.call("POST", MAPS, config_map("one"))
    for path in (MAPS, f"{MAPS}/one"):
        slow = await api.send("GET", path)
        fast = api.server.immediate(Request("GET", path, user=ADMIN))
        assert fast is not None
        assert (fast.status, fast.body) == (slow.status, slow.body)
    assert api.server.immediate(Request("GET", f"{MAPS}/none", user=ADMIN)) is None


async def test_state_survives_a_restart(tmp_path: Path) -> None:
    first = await open_server(tmp_path)
    await first.server.start(serve=False)
    made = await first.call("POST", MAPS, config_map("one"))
    await first.server.close()
    await first.store.close()
    second = await open_server(tmp_path)
    before = second.store.revision
    await second.server.start(serve=False)
    assert await second.call("GET", f"{MAPS}/one") == made
    assert second.store.revision == before  # bootstrap found all that it wants
    await second.server.close()
    await second.store.close()


async def test_events_expire(tmp_path: Path) -> None:
    harness = await open_server(tmp_path, event_ttl=0.1)
    harness.server.expiry.clock = lambda: 0.0
    await harness.server.start(serve=False)
    path = "/api/v1/namespaces/default/events"
    involved = {"kind": "Pod", "namespace": "default", "name": "p"}
    await harness.call(
        "POST", path, {"metadata": {"name": "e"}, "involvedObject": involved, "reason": "R"}
    )
    assert (await harness.call("GET", path))["items"]
    slot = next(iter(harness.server.expiry.slots))
    await harness.server.expiry._empty(slot)
    assert not (await harness.call("GET", path))["items"]
    await harness.server.close()
    await harness.store.close()
