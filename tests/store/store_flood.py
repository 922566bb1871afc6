"""Child of the crash test: floods a store with writes, and reports on a pipe what was acknowledged, until it is killed.

Each line is one acknowledged write: `key revision sha256-of-value` (a dash for a deletion), in one write of less than
PIPE_BUF, so none is torn by the kill.
"""

import asyncio
import hashlib
import os
import random
import sys
from pathlib import Path

from sampan.store.sqlite import SQLiteStore

PREFIXES = ("/pods/", "/leases/", "/events/", "/secrets/")
WRITERS = 24


async def flood(store: SQLiteStore, writer: int, chance: random.Random, out: int) -> None:
    mine = f"{writer:02}"
    present: dict[str, int] = {}
    while True:
        key = f"{chance.choice(PREFIXES)}{mine}/{chance.randrange(12)}"
        if key in present and chance.random() < 0.2:
            revision = await store.delete(key, expect=present.pop(key))
            digest = "-"
        else:
            size = chance.choice((20, 500, 500, 2000, 9000))
            value = chance.randbytes(size)
            expect = present.get(key)  # None: an earlier life may have left something behind
            revision = await store.put(key, value, expect=expect)
            present[key] = revision
            digest = hashlib.sha256(value).hexdigest()
        os.write(out, f"{key} {revision} {digest}\n".encode())


async def main(path: Path, seed: int, out: int) -> None:
    store = await SQLiteStore.open(path)
    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(flood(store, writer, random.Random(seed * 1000 + writer), out))
        if seed % 3 == 0:  # compaction is killed, too
            group.create_task(compact_for_ever(store))


async def compact_for_ever(store: SQLiteStore) -> None:
    while True:
        await store.compact(store.revision - 3000)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
