"""What every Store must hold, whatever is behind it (sampan/store/__init__.py).

Revisions are counted from the one that the store has when the test begins: `base`, which is 0 only for a new SQLite file.
"""

import asyncio
import random

import pytest

from sampan.store import Change, Closed, Compacted, Conflict, Record, StoreError

DEADLINE = 20


async def take(watch, count):
    """The next `count` changes."""
    changes = []
    async with asyncio.timeout(DEADLINE):
        while len(changes) < count:
            changes += await anext(watch)
    assert len(changes) == count
    return changes


async def test_every_write_counts_as_one_revision(store):
    base = store.revision
    assert await store.current() == base
    assert await store.put("/a", b"1", expect=0) == base + 1
    assert await store.put("/b", b"1", expect=None) == base + 2
    assert await store.put("/a", b"2", expect=base + 1) == base + 3
    assert await store.delete("/b", expect=base + 2) == base + 4
    assert store.revision == await store.current() == base + 4
    assert await store.get("/a") == Record("/a", b"2", base + 1, base + 3)
    assert await store.get("/b") is None
    assert await store.put("/b", b"again", expect=0) == base + 5
    assert await store.get("/b") == Record("/b", b"again", base + 5, base + 5)


async def test_expectations(store):
    first = store.revision + 1
    await store.put("/a", b"1", expect=0)
    for write in (
        store.put("/a", b"x", expect=0),
        store.put("/a", b"x", expect=first + 6),
        store.delete("/a", expect=first + 6),
    ):
        with pytest.raises(Conflict) as conflict:
            await write
        assert conflict.value.key == "/a"
        assert conflict.value.current == Record("/a", b"1", first, first)
    for write in (store.put("/b", b"x", expect=first), store.delete("/b", expect=None)):
        with pytest.raises(Conflict) as conflict:
            await write
        assert conflict.value.current is None
    assert store.revision == await store.current() == first


async def test_of_concurrent_writers_with_one_expectation_one_wins(store):
    first = await store.put("/a", b"0", expect=0)
    writes = [store.put("/a", b"%d" % number, expect=first) for number in range(20)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    losers = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    won = Record("/a", b"%d" % winners[0], first, first + 1)
    assert all(isinstance(loser, Conflict) and loser.current == won for loser in losers)


async def test_concurrent_counters_lose_no_increment(store):
    await store.put("/n", b"0", expect=0)

    async def increment():
        for _ in range(10):
            current = await store.get("/n")
            while True:
                value = b"%d" % (int(current.value) + 1)
                try:
                    await store.put("/n", value, expect=current.revision)
                    break
                except Conflict as conflict:
                    current = conflict.current

    await asyncio.gather(*(increment() for _ in range(8)))
    assert (await store.get("/n")).value == b"80"


async def test_a_read_after_an_answered_write_sees_it(store):
    for number in range(50):
        await store.put("/a", b"%d" % number, expect=None)
        assert (await store.get("/a")).value == b"%d" % number
        page = await store.range("/a")
        assert page.records[0].value == b"%d" % number
        assert page.revision == store.revision


async def test_range_in_key_order_and_pages(store):
    keys = ["/a", "/a/1", "/a/10", "/a/2", "/a/é", "/a/\U0010ffff", "/b", "/a0"]
    for key in reversed(keys):
        await store.put(key, key.encode(), expect=0)
    under = sorted(key for key in keys if key.startswith("/a/"))
    page = await store.range("/a/")
    assert [record.key for record in page.records] == under
    assert not page.more
    found, after = [], ""
    while True:
        page = await store.range("/a/", after=after, limit=2)
        found += [record.key for record in page.records]
        if not page.more:
            break
        assert len(page.records) == 2
        after = page.records[-1].key
    assert found == under
    assert [r.key for r in (await store.range("")).records] == sorted(keys)
    assert (await store.range("/none")).records == []
    assert [r.key for r in (await store.range("/a/", after="/A")).records] == under


async def test_long_ranges_are_one_snapshot(store):
    await asyncio.gather(*(store.put(f"/k/{n:04}", b"0", expect=0) for n in range(1000)))
    stop = asyncio.Event()

    async def churn():
        number = 0
        while not stop.is_set():
            number += 1
            await asyncio.gather(
                *(store.put(f"/k/{n:04}", b"%d" % number, expect=None) for n in (0, 999))
            )

    churning = asyncio.ensure_future(churn())
    for _ in range(10):
        page = await store.range("/k/")
        assert len(page.records) == 1000
        newest = max(record.revision for record in page.records)
        assert newest <= page.revision
        past = await store.range("/k/", revision=page.revision)
        assert past.records == page.records
    stop.set()
    await churning


async def test_the_past_can_be_read_and_paged(store):
    """Against a model: every revision of a random history."""
    chance = random.Random(11)
    base = store.revision
    present, history = {}, {base: {}}
    for _ in range(300):
        key = f"/r/{chance.randrange(20):02}"
        if key in present and chance.random() < 0.3:
            revision = await store.delete(key, expect=None)
            del present[key]
        else:
            value = b"%d" % chance.randrange(1000)
            revision = await store.put(key, value, expect=None)
            created = present[key].created if key in present else revision
            present[key] = Record(key, value, created, revision)
        history[revision] = dict(present)
    for revision in chance.sample(range(base + 1, store.revision + 1), 60):
        wanted = [history[revision][key] for key in sorted(history[revision])]
        page = await store.range("/r/", revision=revision)
        assert (page.records, page.revision) == (wanted, revision)
        found, after, more = [], "", True
        while more:
            page = await store.range("/r/", after=after, limit=3, revision=revision)
            found, more = found + page.records, page.more
            after = found[-1].key if found else ""
        assert found == wanted
    with pytest.raises(StoreError, match="future"):
        await store.range("/r/", revision=store.revision + 1)


async def test_watch_shows_each_change_once_with_both_values(store):
    first = await store.put("/a/1", b"old", expect=0)
    watch = store.watch("/a/", store.revision)
    await store.put("/a/1", b"new", expect=first)
    await store.put("/b/1", b"other", expect=0)
    await store.put("/a/2", b"two", expect=0)
    await store.delete("/a/1", expect=None)
    assert await take(watch, 3) == [
        Change("/a/1", b"new", b"old", first + 1, first),
        Change("/a/2", b"two", None, first + 3, first + 3),
        Change("/a/1", None, b"new", first + 4, first),
    ]
    await watch.aclose()


async def test_watch_from_any_kept_revision(store):
    base = store.revision
    for number in range(30):
        await store.put(f"/a/{number % 7}", b"%d" % number, expect=None)
    everything = await take(store.watch("", base), 30)
    assert [change.revision - base for change in everything] == list(range(1, 31))
    for since in range(30):
        assert await take(store.watch("/a/", base + since), 30 - since) == everything[since:]
    third = [change for change in everything if change.key == "/a/3"]
    assert await take(store.watch("/a/3", base), len(third)) == third


async def test_watches_that_join_during_a_flood_miss_and_repeat_nothing(store):
    """The hand-over from log to live, at every possible moment."""
    total = 1500
    base = store.revision
    chance = random.Random(5)

    async def write(worker):
        for number in range(total // 15):
            await store.put(f"/p{worker % 3}/{worker}", b"%d" % number, expect=None)

    async def follow(prefix, since, last):
        seen = []
        async with asyncio.timeout(DEADLINE):
            async for changes in store.watch(prefix, since):
                seen += [change.revision for change in changes]
                assert all(change.key.startswith(prefix) for change in changes)
                if changes[-1].key == "/p0/end":
                    return since, seen
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
        raise AssertionError(last)

    followers = []

    async def join():
        # A stream of etcd costs more than a watch of SQLite's, and begins at a tenth of a second.
        most = 24 if store.shared else total
        while store.revision < base + total - 200 and len(followers) < most:
            for prefix in ("", "/p0"):
                since = chance.randrange(base, store.revision + 1)
                followers.append(asyncio.ensure_future(follow(prefix, since, total + 1)))
            await store.put("/p1/join", b"", expect=None)

    await asyncio.gather(join(), *(write(worker) for worker in range(15)))
    last = await store.put("/p0/end", b"", expect=0)
    changes = await take(store.watch("", base), last - base)
    everything = [change.revision for change in changes]
    p0 = [change.revision for change in await take(store.watch("/p0", base), total // 3 + 1)]
    assert everything == list(range(base + 1, last + 1))
    assert len(followers) > 20
    for number, (since, seen) in enumerate(await asyncio.gather(*followers)):
        wanted = p0 if number % 2 else everything
        assert seen == [revision for revision in wanted if revision > since]


async def test_a_reader_that_is_slow_gets_everything_and_holds_little(store):
    base = store.revision
    watch = store.watch("/a/", base)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await anext(watch)
    total = 3000
    for start in range(0, total, 100):
        await asyncio.gather(
            *(store.put(f"/a/{n}", b"x" * 2000, expect=0) for n in range(start, start + 100))
        )
    held = sum(len(batch) for batch in getattr(watch, "_batches", ()))
    assert held <= 1024
    seen = [change.revision - base for change in await take(watch, total)]
    assert seen == list(range(1, total + 1))


async def test_a_watch_waits_for_the_future(store):
    base = store.revision
    watch = store.watch("/a", base + 2)
    for number in range(3):
        await store.put("/a", b"%d" % number, expect=None)
    assert [change.revision for change in await take(watch, 1)] == [base + 3]


async def test_many_watches_of_nested_prefixes(store):
    prefixes = ["", "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d", "/z"]
    watches = {prefix: store.watch(prefix, store.revision) for prefix in prefixes}
    keys = ["/a", "/a/b", "/a/b/c", "/b"]
    for key in keys:
        await store.put(key, b"", expect=0)
    for prefix, watch in watches.items():
        wanted = [key for key in keys if key.startswith(prefix)]
        if wanted:
            assert [change.key for change in await take(watch, len(wanted))] == wanted
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(watches["/z"])


async def test_a_closed_watch_ends(store):
    watch = store.watch("", store.revision)
    waiting = asyncio.ensure_future(anext(watch, "ended"))
    await asyncio.sleep(0)
    await watch.aclose()
    await watch.aclose()
    async with asyncio.timeout(DEADLINE):
        assert await waiting == "ended"


async def test_compaction_keeps_the_present_and_what_is_newer(store):
    base = store.revision
    for number in range(10):
        await store.put("/a", b"a%d" % number, expect=None)
    await store.put("/b", b"b", expect=0)  # 11
    await store.put("/c", b"c", expect=0)  # 12
    await store.delete("/c", expect=None)  # 13
    await store.put("/a", b"last", expect=None)  # 14
    await store.compact(base + 12)
    await store.compact(base + 12)
    await store.compact(base + 3)  # older: nothing to do
    assert (await store.get("/b")).value == b"b"
    page = await store.range("", revision=base + 12)
    assert [(r.key, r.value) for r in page.records] == [("/a", b"a9"), ("/b", b"b"), ("/c", b"c")]
    assert await take(store.watch("", base + 12), 2) == [
        Change("/c", None, b"c", base + 13, base + 12),
        Change("/a", b"last", b"a9", base + 14, base + 1),
    ]
    with pytest.raises(Compacted) as compacted:
        await anext(store.watch("", base + 11))
    assert (compacted.value.asked, compacted.value.oldest) == (base + 11, base + 12)
    with pytest.raises(Compacted):
        await store.range("", revision=base + 11)


async def test_compaction_against_a_model(store, reopen):
    chance = random.Random(3)
    present, history = {}, {}
    floor = store.revision
    for step in range(1, 401):
        key = f"/{chance.randrange(8)}"
        if key in present and chance.random() < 0.4:
            revision = await store.delete(key, expect=None)
            del present[key]
        else:
            revision = await store.put(key, b"%d" % step, expect=None)
            present[key] = b"%d" % step
        history[revision] = dict(present)
        if step % 50 == 0:
            floor = chance.randrange(max(floor, min(history)), revision + 1)
            await store.compact(floor)
            for asked in {floor, (floor + revision) // 2, revision}:
                page = await store.range("", revision=asked)
                found = {record.key: record.value for record in page.records}
                assert found == history[asked]
            changes = (
                await take(store.watch("", floor), revision - floor) if floor < revision else []
            )
            before = dict(history[floor])
            for change in changes:
                assert change.previous == before.get(change.key)
                assert change.value == history[change.revision].get(change.key)
                before = history[change.revision]
    last = store.revision
    await store.compact(last)  # even when the last change was a deletion
    await store.delete(min(present), expect=None)
    await store.compact(last + 1)
    await store.close()
    again = await reopen()
    assert again.revision == last + 1


async def test_compaction_goes_on_beside_writes_and_watches(store):
    base = store.revision
    watch = store.watch("", base)
    seen = []

    async def follow():
        async for changes in watch:
            seen.extend(change.revision for change in changes)
            if changes[-1].key == "/end":
                return

    async def write(worker):
        for number in range(100):
            await store.put(f"/{worker}", b"%d" % number, expect=None)

    async def compact():
        while store.revision < base + 900:
            await store.compact(max(0, min(store.revision - 300, seen[-1] if seen else 0)))
            await asyncio.sleep(0)

    async with asyncio.timeout(DEADLINE):
        following = asyncio.ensure_future(follow())
        await asyncio.gather(compact(), *(write(worker) for worker in range(10)))
        last = await store.put("/end", b"", expect=0)
        await following
    assert seen == list(range(base + 1, last + 1))
    page = await store.range("")
    assert {record.key: record.value for record in page.records} == {
        **{f"/{worker}": b"99" for worker in range(10)},
        "/end": b"",
    }


async def test_everything_is_there_when_opened_again(store, reopen):
    base = store.revision
    await store.put("/a", b"1", expect=0)
    await store.put("/a", b"2", expect=None)
    await store.put("/b", b"3", expect=0)
    await store.delete("/b", expect=None)
    await store.close()
    again = await reopen()
    assert again.revision == base + 4
    assert await again.get("/a") == Record("/a", b"2", base + 1, base + 2)
    seen = [change.revision - base for change in await take(again.watch("", base + 1), 3)]
    assert seen == [2, 3, 4]
    assert await again.put("/c", b"", expect=0) == base + 5


async def test_close_finishes_writes_and_ends_watches(store, reopen):
    base = store.revision
    watch = store.watch("/a", base)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    writes = [asyncio.ensure_future(store.put(f"/b/{n}", b"", expect=0)) for n in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert sorted(await asyncio.gather(*writes)) == list(range(base + 1, base + 51))
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await anext(store.watch("/a", base))
    for call in (
        store.get("/a"),
        store.put("/a", b"", expect=0),
        store.range(""),
        store.compact(1),
    ):
        with pytest.raises(Closed):
            await call
    assert (await reopen()).revision == base + 50


async def test_a_cancelled_write_is_whole_or_not_at_all(store):
    base = store.revision
    writes = [asyncio.ensure_future(store.put(f"/{n}", b"v", expect=0)) for n in range(100)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, int):
            assert (await store.get(f"/{number}")).revision == outcome
    page = await store.range("")
    assert page.revision - base == len(page.records)
    assert store.revision <= page.revision


async def test_values_of_every_size_come_back_as_they_are(store):
    sizes = [0, 1, 4000, 4096, 100_000, 3_000_000]
    base = store.revision
    values = {f"/{size}": random.Random(size).randbytes(size) for size in sizes}
    await asyncio.gather(*(store.put(key, value, expect=0) for key, value in values.items()))
    for key, value in values.items():
        assert (await store.get(key)).value == value
    changes = await take(store.watch("", base), len(values))
    assert {change.key: change.value for change in changes} == values


async def test_a_key_that_is_not_text_harms_nobody_else(store):
    writes = [store.put("/a", b"1", expect=0), store.put("/\ud800", b"2", expect=0)]
    base = store.revision
    fine, refused = await asyncio.gather(*writes, return_exceptions=True)
    assert fine == base + 1
    assert isinstance(refused, StoreError)
    assert await store.put("/b", b"3", expect=0) == base + 2
