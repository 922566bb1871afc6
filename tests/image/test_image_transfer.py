"""Transfers under trouble: connections that break, pulls that meet, mirrors, refresh tokens, helpers, and what a bar shows."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from image_make import documents, entry, layer
from image_registry import PASSWORD, USER, Registry

from sampan.cli.progress import Bar
from sampan.image import transport
from sampan.image.auth import Auth, DockerConfig, ask_helper
from sampan.image.content import GROWING
from sampan.image.errors import BadImage, ImageError, RegistryError, Unauthorized
from sampan.image.hosts import BadRegistries, Registries
from sampan.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sampan.image.store import ImageStore

BIG = os.urandom(1 << 20)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = await Registry().start()
    yield found
    await found.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", platforms=["linux/amd64"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.image.transport.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("sampan.image.transport.LAST_PAUSE", 0.01)


def publish(registry: Registry, repo: str = "app", tag: str = "v1", data: bytes = BIG) -> str:
    """The layer's digest."""
    config, blobs, layers = documents([layer(entry("big", data))])
    for blob in (config, *blobs):
        registry.put_blob(blob)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(OCI_CONFIG, config).json(),
        "layers": [item.json() for item in layers],
    }
    registry.put_manifest(repo, tag, document)
    return layers[0].digest


def written(registry: Registry, store: ImageStore) -> None:
    """From now on, connections break only when all that was sent is on disk: what a client has buffered may be lost."""

    async def arrived(size: int) -> None:
        async with asyncio.timeout(20):
            while size not in [path.stat().st_size for path in growing(store)]:
                await asyncio.sleep(0.005)

    registry.arrived = arrived


def growing(store: ImageStore) -> list[Path]:
    return list(store.directory.glob(f"blobs/*/{GROWING}*"))


async def test_a_broken_download_goes_on_where_it_broke(
    registry: Registry, store: ImageStore
) -> None:
    publish(registry)
    written(registry, store)
    registry.break_after = [10_000_000, 400_000, 300_000, 10_000_000]  # the first is the config's
    await store.pull(f"{registry.host}/app:v1")
    assert registry.ranges == ["", "", "bytes=400000-", "bytes=700000-"]
    assert growing(store) == []


async def test_a_later_pull_goes_on_too(registry: Registry, store: ImageStore) -> None:
    name = publish(registry)
    written(registry, store)
    registry.break_after = [10_000_000, 400_000, *[0] * 20]
    with pytest.raises(RegistryError, match="connection lost"):
        await store.pull(f"{registry.host}/app:v1")
    assert [path.stat().st_size for path in growing(store)] == [400_000]
    store.sweep()
    registry.break_after, registry.ranges = [10_000_000], []
    again = ImageStore(store.directory, platforms=["linux/amd64"])  # after a restart
    await again.pull(f"{registry.host}/app:v1")
    assert registry.ranges[-1] == "bytes=400000-"
    assert again.content.has(name) and growing(again) == []


async def test_damage_left_by_an_earlier_download_is_fetched_anew(
    registry: Registry, store: ImageStore
) -> None:
    name = publish(registry)
    path = store.content.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(GROWING + path.name).write_bytes(bytes(1000))
    registry.break_after = [10_000_000] * 3
    await store.pull(f"{registry.host}/app:v1")
    assert registry.ranges == ["", "bytes=1000-", ""]


async def test_what_is_neither_whole_nor_continued_goes_after_a_day(
    registry: Registry, store: ImageStore
) -> None:
    publish(registry)
    written(registry, store)
    registry.break_after = [10_000_000, 1000, *[0] * 20]
    with pytest.raises(RegistryError):
        await store.pull(f"{registry.host}/app:v1")
    os.utime(growing(store)[0], (0, 0))
    store.sweep()
    assert growing(store) == [] and list(store.content.digests()) == []


async def test_pulls_that_meet_fetch_once(registry: Registry, store: ImageStore) -> None:
    publish(registry)
    stores = [ImageStore(store.directory, platforms=["linux/amd64"]) for _ in range(4)]
    name = f"{registry.host}/app:v1"
    ids = await asyncio.gather(*(each.pull(name) for each in stores for _ in range(3)))
    assert len(set(ids)) == 1 and registry.requests["blob"] == 2


async def test_another_process_is_waited_for(registry: Registry, store: ImageStore) -> None:
    """Its lock is on the file that grows; cancelled while waiting, nothing stays locked."""
    name = publish(registry)
    path = store.content.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(GROWING + path.name)
    script = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print(flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(partial)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdin is not None
    other.stdout.readline()
    waiting = [asyncio.create_task(store.pull(f"{registry.host}/app:v1")) for _ in range(2)]
    async with asyncio.timeout(10):
        while registry.requests["blob"] < 1:
            await asyncio.sleep(0.01)
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    other.communicate(b"\n")
    await asyncio.wait_for(waiting[1], 20)
    assert store.content.has(name)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_the_registry_says_when(
    registry: Registry, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("sampan.image.transport.asyncio.sleep", pause)
    registry.fail, registry.retry_after = [429], "7"
    await store.pull(f"{registry.host}/app:v1")
    assert 7.0 in pauses


async def test_pauses_grow_between_tries(
    registry: Registry, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("sampan.image.transport.asyncio.sleep", pause)
    registry.fail = [503] * 20
    with pytest.raises(RegistryError, match="503"):
        await store.pull(f"{registry.host}/app:v1")
    assert len(pauses) == transport.ATTEMPTS - 1 and pauses[0] == transport.FIRST_PAUSE
    assert pauses == sorted(pauses) and pauses[1] > pauses[0]
    assert pauses[-1] <= transport.LAST_PAUSE


async def test_layers_come_side_by_side(registry: Registry, store: ImageStore) -> None:
    """None is answered before so many have been asked for."""
    config, blobs, layers = documents([layer(entry(name, b"!")) for name in "abc"])
    for blob in (config, *blobs):
        registry.put_blob(blob)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(OCI_CONFIG, config).json(),
        "layers": [item.json() for item in layers],
    }
    registry.put_manifest("app", "v1", document)
    registry.meeting = {item.digest for item in layers}, asyncio.Barrier(len(layers))
    async with asyncio.timeout(20):
        await store.pull(f"{registry.host}/app:v1")
    assert len(layers) == 3 and registry.requests["blob"] == 4


async def test_refresh_token(registry: Registry, store: ImageStore) -> None:
    publish(registry)
    registry.auth = "token"
    with pytest.raises(Unauthorized):
        await store.pull(f"{registry.host}/app:v1", Auth(identity_token="wrong"))
    await store.pull(f"{registry.host}/app:v1", Auth(identity_token=PASSWORD))
    assert registry.requests["refresh"] == 2 and registry.requests["token"] == 0


async def test_mirrors_come_first_and_may_fail(registry: Registry, tmp_path: Path) -> None:
    """With a rewritten name and credentials of its own; those of the request are for the registry itself."""
    mirror = await Registry("basic").start()
    try:
        publish(mirror, "proxy/team/app")
        publish(registry, "team/app", data=b"origin")
        hosts = {mirror.host: {"auth": {"username": USER, "password": PASSWORD}}}
        document = {
            "mirrors": {
                registry.host: {
                    "endpoint": ["http://127.0.0.1:1", f"http://{mirror.host}"],
                    "rewrite": {"^team/(.*)": "proxy/team/$1"},
                }
            },
            "configs": hosts,
        }
        first = ImageStore(
            tmp_path / "1", platforms=["linux/amd64"], registries=Registries.read(document)
        )
        name = f"{registry.host}/team/app:v1"
        await first.pull(name, Auth("other", "secret"))
        assert mirror.requests["blob"] == 2 and registry.requests["blob"] == 0
        assert first.inspect(name).tags == (name,)
        document["configs"] = {}
        second = ImageStore(
            tmp_path / "2", platforms=["linux/amd64"], registries=Registries.read(document)
        )
        await second.pull(name, Auth(USER, PASSWORD))  # the mirror refuses: it is not sent these
        assert mirror.requests["blob"] == 2 and registry.requests["blob"] == 2
    finally:
        await mirror.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the file: must be a map"),
        ("mirror: {}", "unknown field 'mirror'"),
        ("mirrors: {a: {endpoint: [ftp://x]}}", r"mirrors\[a\].endpoint: 'ftp://x'"),
        ("mirrors: {a: {endpoint: https://x}}", "must be a list of URLs"),
        ("mirrors: {a: {rewrite: {'(': x}}}", r"mirrors\[a\].rewrite: '\('"),
        ("configs: {a: {tls: {ca_file: /no/such}}}", "ca_file: /no/such: no such file"),
        ("configs: {a: {auth: {auth: '!'}}}", "not base64"),
        ("a: [", "expected the node content"),
    ],
)
def test_registries_yaml_names_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "registries.yaml"
    path.write_text(text)
    with pytest.raises(BadRegistries, match=said) as failure:
        Registries.load(path)
    assert str(path) in str(failure.value)


def test_endpoints() -> None:
    found = Registries.read(
        {"mirrors": {"*": {"endpoint": ["https://any:5000/custom/v2"]}}}, ["plain.test"]
    )
    mirror, own = found.endpoints("docker.io")
    assert (mirror.host, mirror.path, mirror.schemes) == ("any:5000", "/custom/v2", ("https",))
    assert (own.host, own.schemes) == ("registry-1.docker.io", ("https",))
    assert found.own("plain.test").schemes == ("https", "http")
    assert found.own("localhost:5000").schemes == ("http", "https")
    assert found.own("other.test").schemes == ("https",)


def test_docker_config_and_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-boat"
    helper.write_text(
        "#!/bin/sh\nread server\ncase $server in\n"
        'token.test) echo \'{"Username":"<token>","Secret":"refresh"}\';;\n'
        'user.test) echo \'{"Username":"u","Secret":"p"}\';;\n'
        "broken.test) echo oops >&2; exit 1;;\n"
        "*) echo credentials not found in native keychain; exit 1;;\nesac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    document = {
        "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "store.test": {"username": "a", "password": "b"},
            "id.test": {"identitytoken": "t"},
            "empty.test": {},
        },
        "credHelpers": dict.fromkeys(
            ("token.test", "user.test", "broken.test", "store.test"), "boat"
        ),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    found = DockerConfig.load(path)
    assert found.lookup("docker.io") == Auth("hub", "pw")
    assert found.lookup("token.test") == Auth(identity_token="refresh")
    assert found.lookup("user.test") == Auth("u", "p")
    assert found.lookup("store.test") == Auth("a", "b")  # the helper knows nothing: the file does
    assert found.lookup("id.test") == Auth(identity_token="t")
    assert found.lookup("empty.test") is None and found.lookup("other.test") is None
    with pytest.raises(ImageError, match="docker-credential-boat: oops"):
        found.lookup("broken.test")
    with pytest.raises(ImageError, match="invalid name of a credential helper"):
        ask_helper("../evil", "x")
    with pytest.raises(ImageError, match="docker-credential-absent"):
        ask_helper("absent", "x")
    assert DockerConfig.load(tmp_path / "none").lookup("docker.io") is None
    assert "pw" not in repr(found.lookup("docker.io"))


async def test_a_wrong_layer_leaves_no_partial_file(registry: Registry, store: ImageStore) -> None:
    name = publish(registry)
    registry.blobs[name] = registry.blobs[name][:-1]
    with pytest.raises(BadImage, match="declared"):
        await store.pull(f"{registry.host}/app:v1")
    assert growing(store) == [] and list(store.content.digests()) == [] and store.list() == []


async def test_progress(registry: Registry, store: ImageStore) -> None:
    name = publish(registry)
    out = io.StringIO()
    bar = Bar(out)
    registry.break_after = [10_000_000, 400_000, 10_000_000]
    await store.pull(f"{registry.host}/app:v1", progress=bar)
    assert (
        sum(bar.passed.values())
        == sum(bar.sizes.values())
        == sum(map(len, registry.blobs.values()))
    )
    assert f"{name[7:19]}  1.0 MiB  done" in out.getvalue()
    assert bar.line().startswith("[########################] 100%  1.0 MiB of 1.0 MiB  2/2 blobs")
    out.truncate(0)
    await store.pull(f"{registry.host}/app:v1", progress=bar)
    assert "exists" in out.getvalue()
