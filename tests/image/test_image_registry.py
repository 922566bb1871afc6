"""Pulling from a real HTTP server: authentication, platforms, checks, retries, and words of failure."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from image_make import WASM, digest, documents, entry, layer
from image_registry import PASSWORD, USER, Registry

from sampan.image.auth import Auth
from sampan.image.errors import BadImage, ImageNotFound, RegistryError, Unauthorized
from sampan.image.hosts import Endpoint
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
from sampan.image.store import ImageStore
from sampan.image.transport import Repository, parse_challenge, session

AUTH = Auth(USER, PASSWORD)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = await Registry().start()
    yield found
    await found.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", platforms=["linux/amd64", "wasip1/wasm"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.image.transport.FIRST_PAUSE", 0.001)


def publish(registry: Registry, repo: str, tag: str, **top: Any) -> str:
    config, blobs, layers = documents([layer(entry("hello", b"world"))], {"Cmd": ["/x"]}, **top)
    for data in (config, *blobs):
        registry.put_blob(data)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(OCI_CONFIG, config).json(),
        "layers": [item.json() for item in layers],
    }
    return registry.put_manifest(repo, tag, document)


async def test_pull_by_tag_and_digest(registry: Registry, store: ImageStore) -> None:
    manifest = publish(registry, "team/app", "v1")
    image_id = await store.pull(f"{registry.host}/team/app:v1")
    image = store.inspect(f"{registry.host}/team/app:v1")
    assert image.id == image_id and image.digests == (f"{registry.host}/team/app@{manifest}",)
    unpacked = await store.unpack(image_id)
    assert (unpacked.layers[0] / "hello").read_bytes() == b"world"
    assert unpacked.config == {"Cmd": ["/x"]}
    blobs = registry.requests["blob"]
    assert await store.pull(f"{registry.host}/team/app@{manifest}") == image_id
    assert registry.requests["blob"] == blobs  # nothing is fetched twice


async def test_concurrent_pulls(registry: Registry, store: ImageStore) -> None:
    publish(registry, "app", "v1")
    ids = await asyncio.gather(*(store.pull(f"{registry.host}/app:v1") for _ in range(5)))
    assert len(set(ids)) == 1


@pytest.mark.parametrize("kind", ["basic", "token"])
async def test_authentication(registry: Registry, store: ImageStore, kind: str) -> None:
    publish(registry, "app", "v1")
    registry.auth = kind
    for auth in (None, Auth(USER, "wrong")):
        with pytest.raises(Unauthorized, match="pull access denied"):
            await store.pull(f"{registry.host}/app:v1", auth)
    await store.pull(f"{registry.host}/app:v1", AUTH)
    if kind == "token":
        assert registry.requests["token"] == 3  # one for each pull, not for each blob


async def test_credentials_do_not_follow_a_redirect(registry: Registry, store: ImageStore) -> None:
    storage = await Registry().start()
    try:
        publish(registry, "app", "v1")
        storage.blobs = registry.blobs
        registry.auth, registry.redirect_to = "basic", f"http://{storage.host}"
        await store.pull(f"{registry.host}/app:v1", AUTH)
        assert storage.seen_authorization == ["", ""]
    finally:
        await storage.stop()


async def test_platforms(registry: Registry, store: ImageStore) -> None:
    entries = []
    for system, machine in (("linux", "arm64"), ("linux", "amd64"), ("wasip1", "wasm")):
        found = publish(registry, "multi", "", os=system, architecture=machine)
        platform = {"os": system, "architecture": machine}
        size = len(registry.manifests[f"multi@{found}"][1])
        entries.append(Descriptor(OCI_MANIFEST, found, size, platform=platform).json())
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    top = registry.put_manifest("multi", "latest", index)
    await store.pull(f"{registry.host}/multi")
    image = store.inspect(f"{registry.host}/multi")
    assert image.platform == "linux/amd64"
    assert image.digests == (f"{registry.host}/multi@{top}",)
    await store.pull(f"{registry.host}/multi", platforms=["wasip1/wasm"])
    assert store.inspect(f"{registry.host}/multi").os == "wasip1"
    with pytest.raises(BadImage, match=r"no match for platform in manifest.*linux/arm64"):
        await store.pull(f"{registry.host}/multi", platforms=["linux/s390x"])


async def test_wasm_artifact(registry: Registry, store: ImageStore) -> None:
    config = b'{"architecture":"wasm","os":"wasip1","layerDigests":[]}'
    registry.put_blob(config)
    registry.put_blob(WASM)
    title = {"org.opencontainers.image.title": "app.wasm"}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of("application/vnd.wasm.config.v0+json", config).json(),
        "layers": [Descriptor("application/wasm", digest(WASM), len(WASM), title).json()],
    }
    manifest = registry.put_manifest("mod", "latest", document)
    assert await store.pull(f"{registry.host}/mod") == manifest
    unpacked = await store.unpack(f"{registry.host}/mod")
    assert (unpacked.os, unpacked.layers) == ("wasip1", ())
    assert unpacked.modules[0].read_bytes() == WASM
    assert unpacked.config["Entrypoint"] == ["/app.wasm"]


async def test_what_passes_by_itself_is_tried_again(registry: Registry, store: ImageStore) -> None:
    publish(registry, "app", "v1")
    registry.fail = [503, 429, 500]
    await store.pull(f"{registry.host}/app:v1")
    assert registry.requests["blob"] == 5  # two blobs, three refusals


async def test_lasting_failure_names_the_status(registry: Registry, store: ImageStore) -> None:
    publish(registry, "app", "v1")
    registry.fail = [503] * 20
    with pytest.raises(RegistryError, match="503 Service Unavailable"):
        await store.pull(f"{registry.host}/app:v1")
    assert store.list() == []


async def test_an_absent_image(registry: Registry, store: ImageStore) -> None:
    name = f"{registry.host}/nope:v9"
    with pytest.raises(ImageNotFound) as failure:
        await store.pull(name)
    assert str(failure.value) == f'failed to resolve reference "{name}": {name}: not found'


async def test_no_registry_there(store: ImageStore) -> None:
    with pytest.raises(RegistryError, match="failed to do request: Get"):
        await store.pull("127.0.0.1:1/app")


@pytest.mark.parametrize("harm", ["longer", "shorter", "other"])
async def test_lying_blobs(registry: Registry, store: ImageStore, harm: str) -> None:
    publish(registry, "app", "v1")
    name = next(iter(registry.blobs))
    good = registry.blobs[name]
    registry.blobs[name] = {
        "longer": good + b"x",
        "shorter": good[:-1],
        "other": bytes(len(good)),
    }[harm]
    with pytest.raises(BadImage, match="sha256"):
        await store.pull(f"{registry.host}/app:v1")
    assert not store.content.has(name)
    assert not list((store.directory / "blobs").rglob(".partial*"))


async def test_a_manifest_that_is_not_what_was_asked(registry: Registry, store: ImageStore) -> None:
    manifest = publish(registry, "app", "v1")
    media_type, data = registry.manifests[f"app@{manifest}"]
    registry.manifests[f"app@{manifest}"] = (media_type, data + b" ")
    with pytest.raises(BadImage, match="does not match its digest"):
        await store.pull(f"{registry.host}/app@{manifest}")


def test_challenges() -> None:
    header = 'Bearer realm="https://a/t",service=reg,scope="repository:x:pull,push"'
    fields = {"realm": "https://a/t", "service": "reg", "scope": "repository:x:pull,push"}
    assert parse_challenge(header) == ("bearer", fields)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="port 80 needs root")
async def test_an_insecure_registry_that_is_deaf_on_443_is_asked_on_80() -> None:
    """As containers/image does; a registry that was not called insecure is never asked in the clear."""
    address = "127.{}.{}.{}".format(*os.urandom(2), 80)
    deaf = await Registry().start(address, 80)
    manifest = publish(deaf, "app", "1")
    try:
        for schemes in (("https", "http"), ("https",)):
            endpoint = Endpoint(address, schemes)
            async with session(endpoint) as http:
                repository = Repository(http, endpoint, "app")
                asked = repository.get("manifests/1", {}, lambda answer: answer.read())
                if "http" in schemes:
                    assert digest(await asked) == manifest
                else:
                    with pytest.raises(RegistryError, match=f"https://{address}/v2/app"):
                        await asked
        assert deaf.requests.total() == 1
    finally:
        await deaf.stop()
