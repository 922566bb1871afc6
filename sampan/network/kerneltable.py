"""One nftables table of ours in the kernel: brought from what was applied last to what is wanted, in one transaction.

`put` calls that arrive while nft runs are joined into one. A transaction that fails is tried once more as a replacement of the
whole table, since somebody else may have changed it. The table stays when its process ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sampan.network import nftables
from sampan.network.errors import NftError
from sampan.network.nftables import Table

log = logging.getLogger(__name__)


class KernelTable:
    def __init__(self, name: str, before: Callable[[], None] = lambda: None) -> None:
        """`name` with family: "inet sampan". `before` is called in the worker thread ahead of each transaction."""
        self.name = name
        self._before = before
        self._applied: Table | None = None  # None: not known, replace all
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="nft")
        self._lock = asyncio.Lock()
        self._wanted: Table | None = None

    async def put(self, table: Table) -> None:
        """The kernel holds `table`, or one that was put later, on return. Raises NftError."""
        self._wanted = table
        async with self._lock:
            wanted = self._wanted
            if wanted is None:  # a later call's table is in the kernel already
                return
            self._wanted = None
            try:
                # one worker, so that a cancelled call's transaction never runs beside the next one
                await asyncio.get_running_loop().run_in_executor(self._worker, self._write, wanted)
            except NftError:
                # those who waited must not believe it is applied
                self._wanted = self._wanted or wanted
                raise

    def _write(self, wanted: Table) -> None:
        self._before()
        script = nftables.transition(self._applied, wanted)
        if not script:
            return
        first = self._applied is None
        try:
            nftables.run(script)
        except NftError as error:
            self._applied = None
            if first:
                raise
            log.warning("nft table %s: changing it failed, replacing it: %s", self.name, error)
            nftables.run(nftables.transition(None, wanted))
        self._applied = wanted

    async def close(self) -> None:
        """End the worker; the table stays. Idempotent."""
        self._worker.shutdown(wait=False)

    async def remove(self) -> None:
        """Delete the table. Idempotent."""
        async with self._lock:
            self._wanted = None
            self._applied = None
            await asyncio.to_thread(
                nftables.run, f"add table {self.name}\ndelete table {self.name}\n"
            )
