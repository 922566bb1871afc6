"""Contract tests run once per implementation: a table of how to open one in a directory."""

import pytest

from sampan.store.sqlite import SQLiteStore


async def open_sqlite(directory):
    return await SQLiteStore.open(directory / "store" / "state.db")


IMPLEMENTATIONS = {"sqlite": open_sqlite}


@pytest.fixture(params=IMPLEMENTATIONS)
async def reopen(request, tmp_path):
    """Opens the store of this test; again after a close, it is the same one."""
    opened = []

    async def open_it():
        store = await IMPLEMENTATIONS[request.param](tmp_path)
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen):
    return await reopen()
