"""3 etcd members and 2 API servers, each a process; one of each is killed with -9, again and again, while 8 clients write.

What must hold: every acknowledged write is there, no revision goes back for anybody, and no watcher misses a change. The
judge of the last is etcd's own history. SAMPAN_SOAK=1 kills 20 times, else the short form kills a few times.
"""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from etcd_cluster import BINARY, MISSING, EtcdCluster, free_ports, wait_healthy

from sampan.client import kubeconfig
from sampan.client.client import Client
from sampan.client.errors import ClientConnectionError
from sampan.client.http import HTTPTransport
from sampan.client.resources import CONFIGMAPS
from sampan.kube.errors import ApiError
from sampan.store.etcd import EtcdStore

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
ROUNDS = 20 if SOAK else 3
CLIENTS = 8
PROGRESS = 40  # acknowledged writes between two blows
READY = 40.0  # seconds
ROOT = Path(__file__).resolve().parents[2]
FAILED = (ApiError, ClientConnectionError, TimeoutError)
PREFIX = "/registry/core/configmaps/default/"


class Server:
    """`sampan server` on an address of its own, with the data directory of one machine."""

    def __init__(self, directory, number, port, endpoints):
        self.data = directory / f"server-{number}"
        self.data.mkdir()
        self.log = directory / f"server-{number}.log"
        self.address = f"127.0.7.{number}"
        self.command = [
            *(sys.executable, "-m", "sampan", "server", "--data-dir", str(self.data)),
            *("--port", str(port), "--bind-address", self.address),
            *("--datastore-endpoint", ",".join(endpoints)),
        ]
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=ROOT)

    def kill(self, how=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def client(self):
        return Client(HTTPTransport(kubeconfig.load(self.data / "kubeconfig.yaml")))

    async def answers(self):
        try:
            client = self.client()
        except (OSError, ValueError):
            return False  # it has not written its kubeconfig yet
        try:
            await client.raw("GET", "/readyz")
        except FAILED:
            return False
        finally:
            await client.close()
        return True

    async def ready(self):
        async with asyncio.timeout(READY):
            while True:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                if await self.answers():
                    return
                await asyncio.sleep(0.05)  # of our patience: what is not up cannot tell


@pytest.fixture
async def servers(tmp_path, short_directory):
    if BINARY is None:
        pytest.skip(MISSING)
    etcd = EtcdCluster(tmp_path / "etcd", 3)
    etcd.start()
    port = free_ports(1)[0]
    servers = [Server(short_directory, number, port, etcd.endpoints) for number in (1, 2)]
    try:
        servers[0].start()
        await servers[0].ready()
        # As docs/operations.md says: the servers of one cluster share their PKI.
        shutil.copytree(servers[0].data / "pki", servers[1].data / "pki")
        servers[1].start()
        await servers[1].ready()
        yield etcd, servers
    finally:
        for server in servers:
            server.kill()
        etcd.stop()


class Deeds:
    """What the clients have been told."""

    def __init__(self):
        self.acknowledged = {}  # name → number of the last write that was answered
        self.tried = {}
        self.deleted = set()
        self.count = 0
        self.failures = 0
        self.more = asyncio.Condition()

    async def done(self, name, number):
        self.acknowledged[name] = number
        self.count += 1
        async with self.more:
            self.more.notify_all()

    async def progress(self, by):
        wanted = self.count + by
        async with asyncio.timeout(READY), self.more:
            await self.more.wait_for(lambda: self.count >= wanted)


async def write(number, servers, deeds, stop):
    """One client: it goes on at the other server when one fails, and never believes what was not answered."""
    chance = random.Random(number)
    clients = [server.client() for server in servers]
    current, seen, step = number % 2, 0, 0
    while not stop.is_set():
        step += 1
        name = f"w{number}-{step % 5}"
        deeds.tried[name] = step
        try:
            async with asyncio.timeout(20):
                written = await put(clients[current], name, step)
        except FAILED:
            deeds.failures += 1
            current = 1 - current
            await asyncio.sleep(chance.uniform(0, 0.05))
            continue
        revision = int(written["metadata"]["resourceVersion"])
        assert revision > seen, f"client {number}: revision {revision} after {seen}"
        seen = revision
        await deeds.done(name, step)
        if chance.random() < 0.2:
            current = 1 - current
    for client in clients:
        await client.close()


async def put(client, name, step):
    """Read, then write what was read: a stale read would be a conflict."""
    data = {"n": str(step)}
    try:
        found = await client.get(CONFIGMAPS, name, "default")
    except ApiError as error:
        if error.code != 404:
            raise
        metadata = {"name": name, "namespace": "default"}
        return await client.create(
            CONFIGMAPS,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
        )
    assert int(found["data"]["n"]) < step
    return await client.update(CONFIGMAPS, {**found, "data": data})


async def read(servers, stop):
    """Lists, in turn at both servers: the collection's revision never goes back."""
    seen, turn = 0, 0
    clients = [server.client() for server in servers]
    while not stop.is_set():
        turn += 1
        try:
            async with asyncio.timeout(20):
                page = await clients[turn % 2].list(CONFIGMAPS, "default")
        except FAILED:
            await asyncio.sleep(0.02)
            continue
        assert int(page.resource_version) >= seen
        seen = int(page.resource_version)
        await asyncio.sleep(0.02)
    for client in clients:
        await client.close()


async def follow(first, servers, since, until, seen):
    """One watcher: every revision that it was shown, going on from the last at the other server when one fails."""
    clients = [server.client() for server in servers]
    current, last = first, since
    while not until.done() or last < until.result():
        try:
            watch = clients[current].watch(
                CONFIGMAPS, "default", resource_version=str(last), timeout=5
            )
            async with aclosing(watch) as events:
                async for event in events:
                    version = int(event.object["metadata"]["resourceVersion"])
                    if event.type != "BOOKMARK":
                        seen.append(version)
                    last = max(last, version)
                    if until.done() and last >= until.result():
                        break
        except FAILED:
            await asyncio.sleep(0.02)
        current = 1 - current
    for client in clients:
        await client.close()


@pytest.mark.slow
@pytest.mark.timeout(900 if SOAK else 120)
async def test_nothing_is_lost_when_members_and_servers_are_killed(servers):
    etcd, servers = servers
    chance = random.Random(20)
    store = await EtcdStore.open(etcd.endpoints)
    since = await store.current()
    deeds, stop = Deeds(), asyncio.Event()
    until = asyncio.get_running_loop().create_future()
    shown = [[] for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        watching = [
            group.create_task(follow(n % 2, servers, since, until, shown[n])) for n in range(4)
        ]
        writing = [group.create_task(write(n, servers, deeds, stop)) for n in range(CLIENTS)]
        writing.append(group.create_task(read(servers, stop)))
        for _ in range(ROUNDS):
            await deeds.progress(chance.randrange(PROGRESS))
            member, server = chance.choice(etcd.members), chance.choice(servers)
            member.kill()
            await deeds.progress(chance.randrange(PROGRESS // 2))
            server.kill()
            await deeds.progress(PROGRESS)
            member.start(etcd.members)
            server.start()
            await server.ready()
            await asyncio.to_thread(wait_healthy, member)
        await deeds.progress(PROGRESS)
        stop.set()
        await asyncio.gather(*writing)
        # One more change, that every watcher waits for.
        last = await put(servers[0].client(), "end", 1)
        until.set_result(int(last["metadata"]["resourceVersion"]))
        await asyncio.gather(*watching)
    page = await servers[1].client().list(CONFIGMAPS, "default")
    there = {
        each["metadata"]["name"]: int((each.get("data") or {}).get("n", 0)) for each in page.items
    }
    for name, number in deeds.acknowledged.items():
        assert number <= there[name] <= deeds.tried[name], name
    history = []
    async with asyncio.timeout(READY):
        async for changes in store.watch(PREFIX, since):
            history += [change.revision for change in changes]
            if history[-1] >= until.result():
                break
    for seen in shown:
        assert seen == history
    await store.close()
    print(f"{deeds.count} acknowledged, {deeds.failures} failed, {len(history)} changes", end=" ")
