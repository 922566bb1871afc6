"""A watch on etcd: a stream of whichever member answers, and `position`, from which the next one goes on.

Every change up to `position` has been delivered. The stream is asked from `position` itself, not from the next revision,
so that a compaction in between shows as one; what was seen before is left out. What the reader has not taken waits at
etcd: HTTP/2's flow control bounds what is held here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.store import Change, Closed, Compacted, StoreError
from sampan.store import etcd_pb2 as pb
from sampan.store.etcd_client import Refused, Unclear, WatchStream

if TYPE_CHECKING:
    from sampan.store.etcd import EtcdStore


class EtcdWatch:
    """The iterator given out by `EtcdStore.watch`. One reader at a time."""

    def __init__(self, store: EtcdStore, prefix: str, since: int) -> None:
        self.store = store
        self.prefix = prefix
        self.position = since
        self.failure: StoreError | None = None
        self._ended = False
        self._stream: WatchStream | None = None
        self._lost = 0  # streams in a row that gave nothing

    def __aiter__(self) -> EtcdWatch:
        return self

    async def __anext__(self) -> list[Change]:
        while True:
            self._check()
            try:
                if self._stream is None:
                    await self._open()
                    continue
                response = await self._stream.read()
            except Unclear:
                self._stream = None
                await self.store.client.pause(self._lost)
                self._lost += 1
                continue
            except (asyncio.CancelledError, Closed):
                # A read that is cancelled ends its stream; ours is the cancellation when the watch was closed.
                self._stream = None
                self._check()
                raise
            except StoreError as error:
                self.fail(error)
                raise
            if response.compact_revision:
                self.store.compacted(response.compact_revision)
                raise self._too_old(response.compact_revision)
            if response.canceled:
                self._stream = None  # "no leader" at this member: the next may know one
                continue
            if changes := [await self._change(each) for each in self._fresh(response)]:
                self._lost = 0
                self.position = changes[-1].revision
                self.store.saw(self.position)
                return changes

    def _check(self) -> None:
        if self._ended:
            raise StopAsyncIteration
        if self.failure is not None:
            raise self.failure

    async def _open(self) -> None:
        key, end = self.store.bounds(self.prefix)
        create = pb.WatchCreateRequest(
            key=key,
            range_end=end,
            start_revision=max(self.position, 1),  # 0 would be: from now on
            prev_kv=True,
            fragment=True,
        )
        stream = await self.store.client.watch(create)
        if self._ended or self.failure is not None:
            stream.cancel()
        else:
            self._stream = stream

    def _fresh(self, response: pb.WatchResponse) -> list[pb.Event]:
        return [event for event in response.events if event.kv.mod_revision > self.position]

    async def _change(self, event: pb.Event) -> Change:
        kv = event.kv
        before = event.prev_kv if event.HasField("prev_kv") else None
        deleted = event.type == pb.Event.DELETE
        if before is None and (deleted or kv.create_revision != kv.mod_revision):
            before = await self._before(kv)
        created = before.create_revision if deleted and before else kv.create_revision
        value = None if deleted else kv.value
        previous = before.value if before else None
        return Change(self.store.text(kv.key), value, previous, kv.mod_revision, created)

    async def _before(self, kv: pb.KeyValue) -> pb.KeyValue:
        """What the change replaced. etcd leaves it out when it sends the first events before it has noted that we want it."""
        request = pb.RangeRequest(key=kv.key, revision=kv.mod_revision - 1)
        try:
            found = (await self.store.client.call("range", request)).kvs
        except Refused:
            found = []
        if not found:
            raise self._too_old(kv.mod_revision)  # it was compacted meanwhile
        return found[0]

    def _too_old(self, oldest: int) -> Compacted:
        error = Compacted(self.position, oldest)
        self.fail(error)
        return error

    def fail(self, error: StoreError) -> None:
        """The reader sees `error` from now on."""
        self.failure = error
        self._release()

    async def aclose(self) -> None:
        """Free what the watch holds. Idempotent; a reader that waits sees the end."""
        self._ended = True
        self._release()

    def _release(self) -> None:
        self.store.forget(self)
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
