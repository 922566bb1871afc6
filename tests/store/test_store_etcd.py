"""What only an etcd cluster has: TLS, users, members that are gone, answers that are lost on the way."""

import asyncio
import base64
import json
import subprocess
import urllib.request
import uuid
from datetime import UTC, datetime

import pytest
from etcd_cluster import BINARY, MISSING, EtcdCluster, free_ports

from sampan.apiserver.pki import Leaf, Pair, ensure_pki, issue
from sampan.store import Conflict, StoreError
from sampan.store.etcd import MARK, EtcdStore
from sampan.store.etcd_client import Access

DEADLINE = 30


class Door:
    """A way to etcd that can be made to swallow what etcd answers, and then breaks."""

    def __init__(self, target):
        self.host, _, port = target.removeprefix("http://").partition(":")
        self.port = int(port)
        self.swallow = 0  # answers that are still to be lost
        self.open = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.enter, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.open:
            writer.transport.abort()

    async def enter(self, reader, writer):
        behind, onward = await asyncio.open_connection(self.host, self.port)
        self.open |= {writer, onward}

        async def up():
            while data := await reader.read(65536):
                onward.write(data)

        async def down():
            while data := await behind.read(65536):
                if self.swallow:
                    self.swallow -= 1
                    return
                writer.write(data)

        tasks = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, onward):
                each.transport.abort()
            self.open -= {writer, onward}


@pytest.fixture
async def lossy(etcd):
    """A store behind a door, and the same without it."""
    root = f"/{uuid.uuid4()}"
    direct = await EtcdStore.open(etcd, root=root)
    async with Door(etcd[0]) as door:
        store = await EtcdStore.open([door.url], root=root)
        yield store, direct, door
        await store.close()
    await direct.close()


async def history(store, since, count):
    found = []
    async with asyncio.timeout(DEADLINE):
        async for changes in store.watch("", since):
            found += [(each.key, each.value, each.revision) for each in changes]
            if len(found) >= count:
                return found


async def test_a_write_whose_answer_was_lost_is_made_once_and_answered(lossy):
    store, direct, door = lossy
    base = await direct.current()
    revision = 0
    for number in range(6):
        door.swallow = 1 + number % 2
        revision = await store.put("/a", b"%d" % number, expect=revision)
    door.swallow = 1
    gone = await store.delete("/a", expect=revision)
    await direct.put("/end", b"", expect=0)
    found = await history(direct, base, 8)
    # Each value once, in order, and what was answered is the revision of the change.
    assert [value for _, value, _ in found] == [b"0", b"1", b"2", b"3", b"4", b"5", None, b""]
    assert (found[5][2], found[6][2]) == (revision, gone)


async def test_a_lost_answer_is_not_taken_for_somebody_elses_write(lossy):
    store, direct, door = lossy
    first = await direct.put("/a", b"theirs", expect=0)
    door.swallow = 1
    with pytest.raises(Conflict) as conflict:
        await store.put("/a", b"mine", expect=0)
    assert conflict.value.current.value == b"theirs"
    second = await direct.put("/a", b"again", expect=first)
    door.swallow = 1
    with pytest.raises(Conflict):
        await store.put("/a", b"mine", expect=first)
    assert (await direct.get("/a")).revision == second


async def test_without_a_comparison_a_lost_answer_is_said_to_be_unclear(lossy):
    store, _, door = lossy
    door.swallow = 1
    with pytest.raises(StoreError, match="etcd at"):
        await store.put("/a", b"1", expect=None)
    assert await store.get("/b") is None  # whatever became of the connection: a read is asked again
    assert await store.put("/b", b"2", expect=None) > 0  # and the next goes well
    door.swallow = 1
    assert (await store.get("/b")).value == b"2"  # a read is simply asked again


async def test_a_watch_goes_on_where_its_stream_broke(lossy):
    store, direct, door = lossy
    watch = store.watch("/", await direct.current())
    seen = []
    async with asyncio.timeout(DEADLINE):
        for number in range(5):
            await direct.put("/k", b"%d" % number, expect=None)
            for writer in list(door.open):
                writer.transport.abort()
            await direct.put("/l", b"%d" % number, expect=None)
            while len(seen) < 2 * number + 2:
                seen += [(each.key, each.value) for each in await anext(watch)]
    assert seen == [(key, b"%d" % n) for n in range(5) for key in ("/k", "/l")]
    await watch.aclose()


async def test_members_that_are_gone_are_passed_over(etcd):
    dead = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    async with asyncio.timeout(DEADLINE):
        store = await EtcdStore.open([*dead, *etcd], root=f"/{uuid.uuid4()}")
        assert await store.put("/a", b"1", expect=0) == store.revision
        assert (await store.get("/a")).value == b"1"
        await store.close()


async def test_a_mark_is_seen_by_a_watch_on_everything(etcd):
    store = await EtcdStore.open(etcd, root=f"/{uuid.uuid4()}")
    watch = store.watch("/", store.revision)
    revision = await store.mark()
    (change,) = await anext(watch)
    assert (change.key, change.revision) == (MARK, revision)
    await watch.aclose()
    await store.close()


@pytest.mark.parametrize("endpoints", [[], ["host:2379"], ["ftp://host"]])
async def test_endpoints_that_cannot_be(endpoints):
    with pytest.raises(StoreError, match="etcd"):
        await EtcdStore.open(endpoints)


# TLS and users


@pytest.fixture
def secured(tmp_path):
    """One member that speaks TLS and wants a client certificate; its PKI."""
    if BINARY is None:
        pytest.skip(MISSING)
    pki = ensure_pki(tmp_path / "pki")
    pair = Pair(tmp_path / "etcd.crt", tmp_path / "etcd.key")
    issue(Leaf(pair, "etcd", names=frozenset({"127.0.0.1"})), pki.ca, datetime.now(UTC))
    client, peer = free_ports(2)
    url = f"https://127.0.0.1:{client}"
    command = [
        BINARY,
        *("--data-dir", str(tmp_path / "data"), "--unsafe-no-fsync", "--log-level", "error"),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-cluster", f"default=http://127.0.0.1:{peer}", "--logger", "zap"),
        *("--cert-file", str(pair.crt), "--key-file", str(pair.key)),
        *("--client-cert-auth", "--trusted-ca-file", str(pki.ca.crt)),
    ]
    with open(tmp_path / "etcd.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield url, pki
    process.kill()
    process.wait()


async def test_tls_with_a_client_certificate(secured, tmp_path, monkeypatch):
    url, pki = secured
    admin = (str(pki.admin.crt), str(pki.admin.key))
    async with asyncio.timeout(DEADLINE):
        store = await EtcdStore.open([url], Access(str(pki.ca.crt), *admin))
        assert await store.put("/a", b"1", expect=0) == 2
        assert (await anext(store.watch("/a", 1)))[0].value == b"1"
        await store.close()
    monkeypatch.setattr("sampan.store.etcd_client.PATIENCE", 0.2)
    for access in (Access(str(pki.ca.crt)), Access(str(pki.front_proxy_ca.crt), *admin)):
        with pytest.raises(StoreError, match="etcd at"):
            await EtcdStore.open([url], access)
    with pytest.raises(StoreError, match="No such file"):
        await EtcdStore.open([url], Access(str(tmp_path / "none")))


@pytest.fixture
def lone(tmp_path):
    """A member of its own: who may do what is for a whole etcd."""
    if BINARY is None:
        pytest.skip(MISSING)
    cluster = EtcdCluster(tmp_path / "etcd")
    cluster.start()
    yield cluster.endpoints[0]
    cluster.stop()


async def test_users_and_tokens(lone):
    """Through etcd's own JSON gateway a user is made; then nothing goes without."""

    def ask(call, **body):
        request = urllib.request.Request(
            f"{lone}/v3/{call}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    end = base64.b64encode(b"\0").decode()
    everything = {"key": end, "range_end": end, "permType": "READWRITE"}
    for name in ("root", "sampan"):
        ask("auth/user/add", name=name, password="p@ss:w/rd")
        ask("auth/role/add", name=name)
        ask("auth/role/grant", name=name, perm=everything)
        ask("auth/user/grant", user=name, role=name)
    ask("auth/enable")
    with pytest.raises(StoreError, match="user name is empty"):
        await EtcdStore.open([lone])
    async with asyncio.timeout(DEADLINE):
        place = lone.replace("http://", "http://sampan:p%40ss%3Aw%2Frd@")
        store = await EtcdStore.open([place])
        revision = await store.put("/a", b"1", expect=0)
        store.client._members[0].token = "forgotten.0"  # as after etcd was started again
        assert (await store.get("/a")).revision == revision
        watch = store.watch("/", revision - 1)
        assert (await anext(watch))[0].value == b"1"
        await watch.aclose()
        await store.close()
    wrong = lone.replace("http://", "http://sampan:guess@")
    with pytest.raises(StoreError, match="authentication failed"):
        await EtcdStore.open([wrong])
