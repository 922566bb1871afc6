"""The informer keeps its picture right through restarts, forgotten history and servers of every kind."""

import asyncio
import random

import pytest
import pytest_asyncio
from client_api import config_map

from sampan.client.backoff import Backoff
from sampan.client.informer import Informer
from sampan.client.resources import CONFIGMAPS

DEADLINE = 20


class Follower:
    """A handler that remembers, and wakes whoever waits for a condition."""

    def __init__(self):
        self.events = []
        self.changed = asyncio.Event()

    def __call__(self, kind, old, new):
        obj = new or old
        self.events.append((kind, obj["metadata"]["name"], (obj.get("data") or {}).get("k")))
        self.changed.set()

    async def until(self, *wanted):
        """Wait for exactly these events, in any order, and forget them."""
        async with asyncio.timeout(DEADLINE):
            while len(self.events) < len(wanted):
                self.changed.clear()
                await self.changed.wait()
        assert sorted(self.events) == sorted(wanted)
        self.events.clear()


async def own(informer):
    async with asyncio.TaskGroup() as group:
        informer.start(group)


@pytest_asyncio.fixture
async def make(client):
    """Starts informers, and cancels them at the end."""
    owners = []

    async def start(**options):
        quick = Backoff(0.01, 0.05, random.Random(1))
        informer = Informer(client, CONFIGMAPS, backoff=quick, **options)
        follower = Follower()
        informer.add_handler(follower)
        owners.append(asyncio.ensure_future(own(informer)))
        async with asyncio.timeout(DEADLINE):
            await informer.synced()
        return informer, follower

    yield start
    for owner in owners:
        owner.cancel()
    async with asyncio.timeout(DEADLINE):
        ended = await asyncio.gather(*owners, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


MODES = ["yes", "refused"]


@pytest.mark.parametrize("mode", MODES)
async def test_picture_follows_the_server(make, served, mode):
    served.api.streamed_lists = mode
    served.api.write(config_map("a", k="1"))
    informer, follower = await make()
    await follower.until(("ADDED", "a", "1"))
    assert informer.get("default", "a")["data"] == {"k": "1"}
    assert "managedFields" not in informer.get("default", "a")["metadata"]
    served.api.write(config_map("a", k="2"))
    served.api.write(config_map("b"))
    await follower.until(("MODIFIED", "a", "2"), ("ADDED", "b", None))
    served.api.remove("a")
    await follower.until(("DELETED", "a", "2"))
    assert [obj["metadata"]["name"] for obj in informer.list()] == ["b"]


@pytest.mark.parametrize("mode", MODES)
async def test_forgotten_history_is_read_again_and_compared(make, served, mode):
    served.api.streamed_lists = mode
    for name in "abcd":
        served.api.write(config_map(name, k="1"))
    informer, follower = await make()
    await follower.until(*(("ADDED", name, "1") for name in "abcd"))
    await served.stop()
    served.api.remove("a")
    served.api.write(config_map("b", k="2"))
    served.api.remove("c")
    served.api.write(config_map("c", k="new"))  # another object of the same name
    served.api.write(config_map("e", k="1"))
    served.api.compact()
    assert informer.get("default", "a") is not None  # still readable while the server is away
    await served.start()
    await follower.until(
        ("DELETED", "a", "1"),
        ("MODIFIED", "b", "2"),
        ("DELETED", "c", "1"),
        ("ADDED", "c", "new"),
        ("ADDED", "e", "1"),
    )
    served.api.write(config_map("d", k="2"))
    await follower.until(("MODIFIED", "d", "2"))


async def test_a_cut_connection_resumes_without_list(make, served):
    served.api.streamed_lists = "refused"
    served.api.write(config_map("a", k="1"))
    _, follower = await make()
    await follower.until(("ADDED", "a", "1"))
    served.api.write(config_map("a", k="2"))
    await follower.until(("MODIFIED", "a", "2"))
    before = len(served.api.requests)
    served.api.cut()
    served.api.write(config_map("a", k="3"))
    await follower.until(("MODIFIED", "a", "3"))
    after = [query for _, _, query, _, _ in served.api.requests[before:]]
    assert after
    assert all(query.get("watch") and "sendInitialEvents" not in query for query in after)


async def test_bookmarks_move_the_point_of_resumption(make, served):
    served.api.bookmarks = True
    informer, follower = await make(namespace="mine")
    served.api.write(config_map("a", namespace="other"))  # not ours: only its bookmark is
    served.api.write(config_map("b", namespace="mine"))
    await follower.until(("ADDED", "b", None))
    served.api.write(config_map("c", namespace="other"))
    served.api.write(config_map("d", namespace="mine"))
    await follower.until(("ADDED", "d", None))
    latest = int(informer.resource_version)
    assert latest == served.api.revision
    served.api.compact()  # all older history is gone, and not needed
    before = len(served.api.requests)
    served.api.cut()
    served.api.write(config_map("e", namespace="mine"))
    await follower.until(("ADDED", "e", None))
    assert int(served.api.requests[before][2]["resourceVersion"]) == latest


async def test_a_server_that_ignores_streamed_lists(make, served, monkeypatch):
    monkeypatch.setattr("sampan.client.informer.INITIAL_SILENCE", 0.05)
    served.api.streamed_lists = "ignored"
    served.api.write(config_map("a"))
    informer, follower = await make()
    await follower.until(("ADDED", "a", None))
    assert len(informer) == 1


async def test_long_lists_come_in_pages(make, served, monkeypatch):
    monkeypatch.setattr("sampan.client.informer.PAGE", 2)
    served.api.streamed_lists = "refused"
    for number in range(5):
        served.api.write(config_map(f"c{number}"))
    informer, _ = await make()
    assert len(informer) == 5
    limits = [query.get("limit") for _, _, query, _, _ in served.api.requests[1:4]]
    assert limits == ["2", "2", "2"]


async def test_indexes_and_owners_follow_changes(make, served):
    def by_color(obj):
        return (obj.get("data") or {}).get("color", "").split()

    owned = config_map("a", color="red blue")
    owned["metadata"]["ownerReferences"] = [{"uid": "o1"}, {"uid": "o2"}]
    served.api.write(owned)
    served.api.write(config_map("b", namespace="other", color="red"))
    informer, follower = await make(indexes={"color": by_color})

    def names(found):
        return sorted(obj["metadata"]["name"] for obj in found)

    assert names(informer.by_index("color", "red")) == ["a", "b"]
    assert names(informer.owned_by("o2")) == ["a"]
    assert names(informer.list("other")) == ["b"]
    follower.events.clear()
    owned["data"] = {"color": "green"}
    owned["metadata"]["ownerReferences"] = [{"uid": "o1"}]
    served.api.write(owned)
    served.api.remove("b", "other")
    async with asyncio.timeout(DEADLINE):
        while len(follower.events) < 2:
            follower.changed.clear()
            await follower.changed.wait()
    assert informer.by_index("color", "red") == []
    assert names(informer.by_index("color", "green")) == ["a"]
    assert informer.owned_by("o2") == []
    assert names(informer.owned_by("o1")) == ["a"]
    assert informer.list("other") == []


async def test_transform_and_late_handlers(make, served):
    served.api.write(config_map("a", k="1", long="x" * 1000))

    def shorten(obj):
        obj["data"].pop("long", None)
        return obj

    informer, follower = await make(transform=shorten)
    await follower.until(("ADDED", "a", "1"))
    assert informer.get("default", "a")["data"] == {"k": "1"}
    late = Follower()
    informer.add_handler(late)
    assert late.events == [("ADDED", "a", "1")]


async def test_a_failing_handler_stops_nobody(make, served, caplog):
    informer, follower = await make()
    informer._handlers.insert(0, lambda *_: 1 / 0)
    served.api.write(config_map("a"))
    await follower.until(("ADDED", "a", None))
    assert "default/a" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_errors_are_retried_with_growing_pauses(make, served):
    _, follower = await make()
    served.api.answers.extend([(500, {}, "boom"), (403, {}, "not you"), (500, {}, "boom")])
    served.api.cut()
    served.api.write(config_map("a"))
    await follower.until(("ADDED", "a", None))


def test_backoff_grows_to_its_limit_and_jitters_down():
    backoff = Backoff(1.0, 8.0, random.Random(3))
    pauses = [backoff.next() for _ in range(6)]
    for pause, full in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= pause <= full
    backoff.reset()
    assert backoff.next() <= 1.0
