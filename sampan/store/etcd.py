"""EtcdStore: an etcd v3 cluster as the store, shared by several API servers. Revisions are etcd's own.

Every write is one transaction that compares the key's last revision, so two servers can never overwrite each other.
Reads are linearizable (etcd confirms with a quorum). A watch is a stream of one member; it names the revision that it has
reached when it goes on at another, so the loss of a member costs neither gap nor repeat.

What this store relies on: each revision below its prefix carries one change. That holds because only this file writes there.
A watch asks from its own revision, which it has seen, and not from the next: etcd then says whether history was compacted
in between, and what it sends again is left out.

A write whose answer was lost is sent again, which is safe because of the comparison; when the second finds that the key has
moved on, the key's history tells whether it was ours that moved it (`_settle`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc

from sampan.store import Closed, Compacted, Conflict, Page, Record, StoreError
from sampan.store import etcd_pb2 as pb
from sampan.store.etcd_client import PATIENCE, Access, EtcdClient, Refused, Unclear
from sampan.store.etcd_watch import EtcdWatch
from sampan.store.files import upper_bound

ROOT = "/sampan"  # what our keys begin with, so that others can live in the same cluster
PAGE = 500  # records asked for at once
SETTLE = 5.0  # seconds to find out what became of a write
MARK = "/registry/-/marks/watch"  # written by `mark`; no kind is stored there

FUTURE = "required revision is a future revision"
COMPACTED = "required revision has been compacted"


class EtcdStore:
    """See `sampan.store.Store`, whose contract this keeps. Made by `open`."""

    shared = True

    def __init__(self, client: EtcdClient, root: str) -> None:
        self.client = client
        self.root = root
        self._revision = 0
        self._floor = 0
        self._watches: set[EtcdWatch] = set()
        self._writing = 0
        self._written = asyncio.Event()  # set when the last write has ended while closing
        self._closing = False
        self._questions: list[asyncio.Future[int]] = []
        self._asking: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, endpoints: Sequence[str], access: Access | None = None, *, root: str = ROOT
    ) -> EtcdStore:
        """Connect; return when a quorum has answered. Raises StoreError."""
        store = cls(EtcdClient(endpoints, access), root)
        try:
            store._revision = await store._read_revision()
        except BaseException:
            await store.client.close()
            raise
        return store

    # Revisions

    @property
    def size(self) -> int | None:
        return None  # each member tells its own

    @property
    def revision(self) -> int:
        """The last revision that this process knows to be durable: its own writes, and what its watches have shown."""
        return self._revision

    def saw(self, revision: int) -> None:
        self._revision = max(self._revision, revision)

    def compacted(self, revision: int) -> None:
        self._floor = max(self._floor, revision)

    async def current(self) -> int:
        """See the contract. Calls that wait at the same time share one question, asked after the last of them came."""
        self._check_open()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions.append(answer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="etcd revision")
        return await answer

    async def _ask(self) -> None:
        """Answer all questions; one that comes while etcd is asked waits for the next round."""
        while self._questions:
            asked, self._questions = self._questions, []
            try:
                revision = await self._read_revision()
            except Exception as error:  # it belongs to those who asked
                for answer in asked:
                    if not answer.done():
                        answer.set_exception(StoreError(str(error)))
            else:
                for answer in asked:
                    if not answer.done():
                        answer.set_result(revision)
        self._asking = None

    async def _read_revision(self) -> int:
        request = pb.RangeRequest(key=self._bytes(MARK), count_only=True)
        return int((await self.client.call("range", request)).header.revision)

    async def mark(self) -> int:
        return await self.put(MARK, b"", expect=None)

    # Reading

    async def get(self, key: str) -> Record | None:
        self._check_open()
        answer = await self.client.call("range", pb.RangeRequest(key=self._bytes(key)))
        return self._record(answer.kvs[0]) if answer.kvs else None

    async def range(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        self._check_open()
        records: list[Record] = []
        start, end = self.bounds(prefix)
        if after:
            start = max(start, self._bytes(after) + b"\0")
        shown = revision
        while True:
            size = min(PAGE, limit - len(records)) if limit else PAGE
            request = pb.RangeRequest(key=start, range_end=end, limit=size, revision=shown)
            try:
                answer = await self.client.call("range", request)
            except Refused as error:
                raise await self._explain(error, shown) from None
            shown = shown or answer.header.revision
            records += [self._record(kv) for kv in answer.kvs]
            if not answer.more or (limit and len(records) >= limit):
                return Page(records, shown, answer.more)
            start = answer.kvs[-1].key + b"\0"

    async def _explain(self, error: Refused, revision: int) -> StoreError:
        if error.code == grpc.StatusCode.OUT_OF_RANGE:
            if COMPACTED in error.details:
                return Compacted(revision, await self._oldest(revision))
            if FUTURE in error.details:
                return StoreError(f"revision {revision} is in the future")
        return error

    async def _oldest(self, revision: int) -> int:
        """The compaction's revision, which etcd tells only to a watch that it refuses."""
        watch = self.watch(MARK, revision)
        try:
            async with asyncio.timeout(SETTLE):
                await anext(watch)
        except (TimeoutError, StoreError):
            pass
        finally:
            await watch.aclose()
        return self._floor

    # Writing

    async def put(self, key: str, value: bytes, *, expect: int | None) -> int:
        return await self._counted(key, bytes(value), expect)

    async def delete(self, key: str, *, expect: int | None) -> int:
        return await self._counted(key, None, expect)

    async def _counted(self, key: str, value: bytes | None, expect: int | None) -> int:
        """A write that `close` waits for."""
        self._check_open()
        self._writing += 1
        try:
            revision = await self._write(key, value, expect)
        finally:
            self._writing -= 1
            if not self._writing:
                self._written.set()
        self.saw(revision)
        return revision

    async def _write(self, key: str, value: bytes | None, expect: int | None) -> int:
        request = transaction(self._bytes(key), value, expect)
        known, attempt = self._revision, 0
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = await self.client.call("txn", request, repeat=False)
            except Unclear:
                # Without a comparison, a second writing could undo what somebody else wrote meanwhile.
                if expect is None or time.monotonic() > deadline:
                    raise
                await self.client.pause(attempt)
                attempt += 1
                continue
            if answer.succeeded:
                return int(answer.header.revision)
            found = answer.responses[0].response_range.kvs
            current = self._record(found[0]) if found else None
            if attempt:
                revision = await self._settle(key, value, expect or known, current)
                if revision:
                    return revision
            raise Conflict(key, current)

    async def _settle(
        self, key: str, value: bytes | None, since: int, current: Record | None
    ) -> int:
        """An answer was lost, and the key is not as expected: was that us? The revision of our write, or 0.

        Ours could only apply to the state that was expected, so it is the first change after it or was never made.
        """
        if current is not None and current.revision <= since:
            return 0
        watch = self.watch(key, since)
        try:
            async with asyncio.timeout(SETTLE):
                async for changes in watch:
                    for change in changes:
                        if change.key == key:
                            return change.revision if change.value == value else 0
        except (TimeoutError, Compacted):
            raise Unclear(f"{key}: the connection to etcd broke while it was written") from None
        finally:
            await watch.aclose()
        return 0

    # Watching

    def watch(self, prefix: str, since: int) -> EtcdWatch:
        watch = EtcdWatch(self, prefix, since)
        if self._closing:
            watch.failure = Closed("the store is closed")
        else:
            self._watches.add(watch)
        return watch

    def forget(self, watch: EtcdWatch) -> None:
        self._watches.discard(watch)

    # Compaction and ending

    async def compact(self, before: int) -> None:
        self._check_open()
        before = min(before, await self._read_revision())
        if before <= self._floor:
            return
        try:
            await self.client.call("compact", pb.CompactionRequest(revision=before))
        except Refused as error:
            if error.code != grpc.StatusCode.OUT_OF_RANGE:  # else another server was quicker
                raise
        self.compacted(before)

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._writing:
                self._written.clear()
                await self._written.wait()
            for watch in list(self._watches):
                watch.fail(Closed("the store is closed"))
            await self.client.close()
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def _check_open(self) -> None:
        if self._closing:
            raise Closed("the store is closed")

    # Keys

    def _bytes(self, key: str) -> bytes:
        try:
            return (self.root + key).encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"the key is not text: {key!r}") from error

    def text(self, key: bytes) -> str:
        return key.decode()[len(self.root) :]

    def bounds(self, prefix: str) -> tuple[bytes, bytes]:
        """First key and the end of the range, as etcd wants them; "\\0" as the end means that there is none."""
        end = upper_bound(self.root + prefix)
        return self._bytes(prefix), b"\0" if end is None else end.encode()

    def _record(self, kv: pb.KeyValue) -> Record:
        return Record(self.text(kv.key), kv.value, kv.create_revision, kv.mod_revision)


def transaction(key: bytes, value: bytes | None, expect: int | None) -> pb.TxnRequest:
    """The write if the key is as expected, else a read of how it is."""
    compare = []
    if expect is not None:  # the last revision of an absent key is 0
        compare = [pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=expect)]
    if value is None:
        compare.append(pb.Compare(target=pb.Compare.VERSION, result=pb.Compare.GREATER, key=key))
        write = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    else:
        write = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))
    read = pb.RequestOp(request_range=pb.RangeRequest(key=key))
    return pb.TxnRequest(compare=compare, success=[write], failure=[read])
