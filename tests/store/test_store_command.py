"""`sampan store backup | restore | migrate` as a user runs them, on a server that runs and on one that does not."""

import os
import subprocess
import sys

import pytest
from etcd_cluster import free_ports
from test_store_faults import ROOT, Server

from sampan.client.resources import CONFIGMAPS, NAMESPACES
from sampan.kube.errors import ApiError


def sampan(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "sampan", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def config_map(name, **data):
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.fixture
def server(short_directory):
    server = Server(short_directory, 3, free_ports(1)[0], ())
    server.command = server.command[:-2]  # no endpoint: the SQLite file
    yield server
    server.kill()


async def test_back_up_restore_and_move_there_and_back(server, tmp_path, etcd):
    server.start()
    await server.ready()
    data, backup = server.data, tmp_path / "boat.db"
    client = server.client()
    before = await client.create(CONFIGMAPS, config_map("kept", n="1"))
    said = sampan("store", "backup", backup, "--data-dir", data)
    assert "records at revision" in said
    assert backup.stat().st_mode & 0o777 == 0o600

    # Restore while it runs: refused, since nobody supervises this server and could start it again.
    await client.update(CONFIGMAPS, {**before, "data": {"n": "2"}})
    later = await client.create(CONFIGMAPS, config_map("later"))
    said = sampan("store", "restore", backup, "--data-dir", data, status=1)
    assert "another process has this store open" in said
    assert not (data / "store" / "restore.db").exists()
    server.kill()
    sampan("store", "restore", backup, "--data-dir", data)
    server.start()
    await server.ready()
    assert await client.get(CONFIGMAPS, "kept", "default") == before
    with pytest.raises(ApiError, match="not found"):
        await client.get(CONFIGMAPS, "later", "default")
    since = later["metadata"]["resourceVersion"]
    with pytest.raises(ApiError) as gone:
        async for _ in client.watch(CONFIGMAPS, "default", resource_version=since):
            break
    assert gone.value.code == 410

    # To etcd: refused while the server runs, and into what holds a cluster.
    endpoints = etcd[0]
    said = sampan(
        "store", "migrate", "--from", "sqlite", "--to", endpoints, "--data-dir", data, status=1
    )
    assert "another process has this store open" in said
    server.kill()
    sampan("store", "migrate", "--from", "sqlite", "--to", endpoints, "--data-dir", data)
    said = sampan(
        "store", "migrate", "--from", "sqlite", "--to", endpoints, "--data-dir", data, status=1
    )
    assert "--overwrite" in said
    lite = list(server.command)
    server.command += ["--datastore-endpoint", endpoints]
    server.start()
    await server.ready()
    moved = await client.get(CONFIGMAPS, "kept", "default")
    assert int(moved["metadata"].pop("resourceVersion")) > int(since)
    assert moved["data"] == {"n": "1"}
    assert moved["metadata"]["uid"] == before["metadata"]["uid"]
    assert "kube-system" in {
        each["metadata"]["name"] for each in (await client.list(NAMESPACES)).items
    }

    # A backup and a restore while servers work on the etcd.
    sampan("store", "backup", tmp_path / "etcd.db", "--data-dir", data)
    await client.delete(CONFIGMAPS, "kept", "default")
    sampan("store", "restore", tmp_path / "etcd.db", "--data-dir", data)
    again = await client.get(CONFIGMAPS, "kept", "default")
    assert again["metadata"]["uid"] == before["metadata"]["uid"]

    # And back to a file.
    back = ("store", "migrate", "--from", endpoints, "--to", "sqlite", "--data-dir", data)
    assert "stop every server first" in sampan(*back, "--overwrite", status=1)
    server.kill(15)
    assert "--overwrite" in sampan(*back, status=1)
    sampan(*back, "--overwrite")
    server.command = [*lite, "--datastore-endpoint", "sqlite"]
    server.start()
    await server.ready()
    home = await client.get(CONFIGMAPS, "kept", "default")
    assert home == again
    await client.close()


def test_wrong_places_are_named(tmp_path):
    data = tmp_path / "none"
    assert "no cluster" in sampan("store", "backup", tmp_path / "x", "--data-dir", data, status=1)
    said = sampan(
        "store", "migrate", "--from", tmp_path / "a.db", "--to", tmp_path / "b.db", status=1
    )
    assert "there is no store here" in said
    assert not list(tmp_path.glob("*.db*"))
    assert os.listdir(tmp_path) == []
