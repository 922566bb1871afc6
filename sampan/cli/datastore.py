"""Where the cluster's data is: a SQLite file in the data directory, or an etcd cluster (`--datastore-endpoint`).

Part of the server's start, so nothing is imported here that only commands need, and each engine only when it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cli.config import Config

if TYPE_CHECKING:
    from sampan.store import Store
    from sampan.store.etcd import EtcdStore


@dataclass(frozen=True)
class Place:
    """A store that can be named on the command line: a file, or the endpoints of an etcd cluster."""

    file: Path | None
    endpoints: tuple[str, ...] = ()
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""

    def __str__(self) -> str:
        return str(self.file) if self.file else ",".join(without_password(self.endpoints))

    async def open_etcd(self) -> EtcdStore:
        from sampan.store.etcd import EtcdStore
        from sampan.store.etcd_client import Access

        access = Access(self.cafile, self.certfile, self.keyfile)
        return await EtcdStore.open(self.endpoints, access)


def without_password(endpoints: Sequence[str]) -> list[str]:
    return [
        f"{scheme}://{rest.rpartition('@')[2]}"
        for scheme, _, rest in (endpoint.partition("://") for endpoint in endpoints)
    ]


def place_of(config: Config) -> Place:
    """Where this cluster keeps its data."""
    if not config.datastore_endpoint:
        return Place(config.store)
    files = (config.datastore_cafile, config.datastore_certfile, config.datastore_keyfile)
    return Place(None, config.datastore_endpoint, *files)


def staged(store: Path) -> Path:
    """Where a restore waits for the server to take it."""
    return store.with_name("restore.db")


async def open_store(config: Config) -> Store:
    """The cluster's store; what `sampan store restore` has laid down takes its place first. Raises StoreError."""
    place = place_of(config)
    if place.file is None:
        return await place.open_etcd()
    from sampan.store.sqlite import SQLiteStore

    waiting = staged(place.file)
    if waiting.exists():
        from sampan.store.snapshot import install

        await asyncio.to_thread(install, waiting, place.file)
        waiting.unlink()
    return await SQLiteStore.open(place.file)
