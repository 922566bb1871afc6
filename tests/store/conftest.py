"""Contract tests run once per implementation: a table of how to open one for a test."""

import base64
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from etcd_cluster import BINARY, MISSING, EtcdCluster

from sampan.apiserver.encryption import EncryptedStore, parse_config
from sampan.store.etcd import EtcdStore
from sampan.store.sqlite import SQLiteStore


@pytest.fixture(scope="session")
def etcd(tmp_path_factory):
    """Endpoints of a cluster of one member, which the whole session shares; each test has a prefix of its own."""
    if BINARY is None:
        pytest.skip(MISSING)
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    cluster.start()
    yield cluster.endpoints
    cluster.stop()


@pytest.fixture
def short_directory():
    """For data directories: a path of tmp_path's, with a worker's name in it, is too long for sockets."""
    path = Path(tempfile.mkdtemp(prefix="sampan-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def sqlite_opener(request):
    directory = request.getfixturevalue("tmp_path")
    return lambda: SQLiteStore.open(directory / "store" / "state.db")


def etcd_opener(request):
    endpoints = request.getfixturevalue("etcd")
    root = f"/{uuid.uuid4()}"
    return lambda: EtcdStore.open(endpoints, root=root)


def encrypted_opener(request):
    """What stands before a store when Secrets are encrypted at rest keeps the contract too."""
    keys = [{"name": "key", "secret": base64.b64encode(bytes(32)).decode()}]
    rules = parse_config(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["*.*"], "providers": [{"aesgcm": {"keys": keys}}]}],
        }
    )
    opener = sqlite_opener(request)

    async def open_it():
        return EncryptedStore(await opener(), rules)

    return open_it


OPENERS = {"sqlite": sqlite_opener, "etcd": etcd_opener, "encrypted": encrypted_opener}


@pytest.fixture(params=OPENERS)
async def reopen(request):
    """Opens the store of this test; again after a close, it is the same one."""
    opened = []
    opener = OPENERS[request.param](request)

    async def open_it():
        store = await opener()
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen):
    return await reopen()
