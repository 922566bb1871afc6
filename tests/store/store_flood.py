"""Child of the crash test: floods a store with writes, and reports on stdout what was acknowledged, until it is killed.

Each line is one acknowledged write: `key revision sha256-of-value` (a dash for a deletion). The lines of one event loop step
go out in one write of less than PIPE_BUF, so none is torn by the kill.
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


async def flood(store: SQLiteStore, writer: int, chance: random.Random) -> None:
    mine = f"{writer:02}"
    present: dict[str, int] = {}
    while True:
        key = f"{chance.choice(PREFIXES)}{mine}/{chance.randrange(40)}"
        if key in present and chance.random() < 0.2:
            revision = await store.delete(key, expect=present.pop(key))
            digest = "-"
        else:
            size = chance.choice((20, 500, 500, 2000, 20000))
            value = chance.randbytes(size)
            # What an earlier life left behind is found by the Conflict-free expectation None.
            expect = present.get(key) if key in present else None
            revision = await store.put(key, value, expect=expect)
            present[key] = revision
            digest = hashlib.sha256(value).hexdigest()
        os.write(1, f"{key} {revision} {digest}\n".encode())


async def main(path: str, seed: int) -> None:
    store = await SQLiteStore.open(Path(path))
    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(flood(store, writer, random.Random(seed * 1000 + writer)))
        if seed % 3 == 0:  # compaction is killed, too
            group.create_task(compact_for_ever(store))


async def compact_for_ever(store: SQLiteStore) -> None:
    while True:
        await store.compact(store.revision - 3000)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
