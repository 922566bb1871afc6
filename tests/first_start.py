"""What an API server makes at its first start, made once for all tests: certificates, and the objects that every cluster has.

A server that finds both starts as one does that was stopped: without 18 keys and certificates and 270 writes, each on disk
before it is answered. Tests of a first start open their servers in empty directories.
"""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def make(directory: Path) -> None:
    """`pki/` and `state.db`, by a server that starts and ends. In a thread, since its loop is no test's."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _start(directory)).result()


async def _start(directory: Path) -> None:
    from sampan.apiserver.config import ServerConfig
    from sampan.apiserver.server import APIServer
    from sampan.store.sqlite import SQLiteStore

    store = await SQLiteStore.open(directory / "state.db")
    config = ServerConfig(directory / "pki", directory / "kubeconfig.yaml", port=0)
    server = APIServer(store, config)
    await server.start(serve=False)
    await server.close()
    await store.close()


def lend(made: Path, pki: Path, database: Path) -> None:
    """Copies, where a new server will look for them."""
    shutil.copytree(made / "pki", pki)
    database.parent.mkdir(exist_ok=True)
    shutil.copyfile(made / "state.db", database)
