"""Backups of both engines, put back into both: nothing is lost, and no client is taken back in time."""

import asyncio
import json
import random
import stat
import uuid

import pytest

from sampan.store import Compacted, StoreError
from sampan.store.etcd import EtcdStore
from sampan.store.snapshot import copy, examine, install, pour, records, take
from sampan.store.sqlite import SQLiteStore


def objects(count, chance):
    """Keys and values of a small cluster: pods that ReplicaSets own, those by Deployments, all in a namespace."""
    found = {"/registry/core/namespaces/n": {"metadata": {"uid": "ns"}}}
    for number in range(count):
        chain = [("apps", "deployments"), ("apps", "replicasets"), ("core", "pods")]
        owner = None
        for group, plural in chain:
            metadata = {"uid": f"{plural}-{number}", "salt": chance.random()}
            if owner:
                metadata["ownerReferences"] = [{"uid": owner}]
            owner = metadata["uid"]
            found[f"/registry/{group}/{plural}/n/{number:03}"] = {"metadata": metadata}
    return {key: json.dumps(value).encode() for key, value in found.items()}


async def fill(store, wanted):
    """Some history: each is written twice, and something is deleted."""
    for key in wanted:
        await store.put(key, b"{}", expect=0)
    for key, value in wanted.items():
        await store.put(key, value, expect=None)
    await store.put("/registry/core/secrets/n/gone", b"{}", expect=0)
    await store.delete("/registry/core/secrets/n/gone", expect=None)


async def contents(store):
    return {each.key: each.value for each in (await store.range("")).records}


@pytest.fixture
def wanted():
    return objects(30, random.Random(4))


async def test_a_sqlite_store_is_copied_while_it_is_written(tmp_path, wanted):
    store = await SQLiteStore.open(tmp_path / "state.db")
    await fill(store, wanted)
    stop = asyncio.Event()

    async def churn():
        number = 0
        while not stop.is_set():
            number += 1
            await store.put("/registry/core/events/n/e", b"%d" % number, expect=None)

    churning = asyncio.ensure_future(churn())
    backup = tmp_path / "backup.db"
    steps = []
    revision = await asyncio.to_thread(
        copy, tmp_path / "state.db", backup, lambda *step: steps.append(step)
    )
    stop.set()
    await churning
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert examine(backup)[0] == revision <= store.revision
    assert steps[-1][1] == steps[-1][2] > 0
    held = {each.key: each.value for each in records(backup)}
    held.pop("/registry/core/events/n/e", None)
    assert held == wanted
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("backup")] == [
        "backup.db"
    ]
    await store.close()


async def test_what_is_restored_goes_on_above_both_revisions(tmp_path, wanted):
    path, backup = tmp_path / "state.db", tmp_path / "backup.db"
    store = await SQLiteStore.open(path)
    await fill(store, wanted)
    await asyncio.to_thread(copy, path, backup)
    before = {each.key: each for each in (await store.range("")).records}
    for number in range(50):
        await store.put("/registry/core/pods/n/later", b"%d" % number, expect=None)
    high = store.revision
    with pytest.raises(StoreError, match="another process"):
        install(backup, path)
    await store.close()
    went_on = install(backup, path)
    assert went_on == high + 1
    again = await SQLiteStore.open(path)
    assert again.revision == went_on
    assert {each.key: each for each in (await again.range("")).records} == before
    with pytest.raises(Compacted):
        await anext(again.watch("", high))
    key = next(iter(wanted))
    assert await again.put(key, b"new", expect=before[key].revision) == went_on + 1
    change = (await anext(again.watch("", went_on)))[0]
    assert (change.value, change.previous) == (b"new", wanted[key])
    await again.close()
    assert not path.with_name("state.db.new").exists()


async def test_from_sqlite_to_etcd_and_back(tmp_path, etcd, wanted):
    source = await SQLiteStore.open(tmp_path / "state.db")
    await fill(source, wanted)
    # A cluster that has lived longer than the etcd that it moves to.
    target = await EtcdStore.open(etcd, root=f"/{uuid.uuid4()}")
    ahead = await target.current()
    while source.revision < ahead + 700:
        await asyncio.gather(
            *(source.put("/registry/core/events/n/e", b"x", expect=None) for _ in range(200))
        )
    await source.delete("/registry/core/events/n/e", expect=None)
    last = source.revision
    await source.close()
    snapshot = tmp_path / "snapshot.db"
    copy(tmp_path / "state.db", snapshot)
    watch = target.watch("/registry/", ahead)
    written = []
    moved = await pour(snapshot, target, forget=True)
    assert moved > last
    assert await contents(target) == wanted
    async with asyncio.timeout(20):
        with pytest.raises(Compacted):
            async for changes in watch:  # unread until now: history was forgotten at the end
                written += changes
    with pytest.raises(Compacted):
        await anext(target.watch("", last))
    back, other = tmp_path / "back.db", tmp_path / "other" / "state.db"
    revision = await take(target, back)
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    assert examine(back) == (revision, len(wanted))
    here = {each.key: each for each in (await target.range("")).records}
    await target.close()
    assert install(back, other) == revision + 1
    again = await SQLiteStore.open(other)
    assert {each.key: each for each in (await again.range("")).records} == here
    await again.close()


async def test_restoring_into_a_live_etcd_puts_owners_first_and_leaves_leases(
    tmp_path, etcd, wanted
):
    store = await EtcdStore.open(etcd, root=f"/{uuid.uuid4()}")
    lease = "/registry/coordination.k8s.io/leases/kube-system/leader"
    await fill(store, wanted)
    await store.put(lease, b"then", expect=0)
    await take(store, tmp_path / "b.db")
    stays = "/registry/apps/deployments/n/000"
    for key in wanted:
        if key != stays:
            await store.delete(key, expect=None)
    await store.put("/registry/core/pods/n/new", b"{}", expect=0)
    await store.put(lease, b"now", expect=None)
    since = store.revision
    watch = store.watch("/registry/", since)
    first = asyncio.ensure_future(anext(watch))
    await pour(tmp_path / "b.db", store)
    assert await contents(store) == {**wanted, lease: b"now"}
    order = []
    async with asyncio.timeout(20):
        changes = await first
        while True:
            order += [each.key for each in changes]
            if "/registry/core/pods/n/new" in order:
                break
            changes = await anext(watch)
    assert stays not in order
    assert order[0] == "/registry/core/namespaces/n"
    for number in range(1, 30):
        places = [
            order.index(f"/registry/{kind}/n/{number:03}")
            for kind in ("apps/deployments", "apps/replicasets", "core/pods")
        ]
        assert places == sorted(places)
    await watch.aclose()
    await store.close()


@pytest.mark.parametrize("content", [b"", b"not a store", b"SQLite format 3\0" + b"x" * 5000])
async def test_what_is_no_backup_is_refused(tmp_path, content):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        install(path, tmp_path / "state.db")
    with pytest.raises(StoreError, match="no such file"):
        examine(tmp_path / "none")
