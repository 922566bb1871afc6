"""`sampan image` on a store without a cluster, and a registry beyond loopback, whose certificate our client checks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from image_bad import BAD, LIMITS, LOADABLE, Made
from image_make import add_image, entry, layer
from image_registry import Registry
from typer.testing import CliRunner

from sampan.apiserver.pki import PKIPaths, ensure_pki
from sampan.cli.app import app
from sampan.cli.config import Config
from sampan.cli.registry import open_images, serve_registry
from sampan.image import catalog
from sampan.image.errors import ImageNotFound, RegistryError
from sampan.image.hosts import TLS, Host, Registries
from sampan.image.manifest import default_platforms
from sampan.image.registryserver import RegistryServer
from sampan.image.registryserver.credentials import Credentials
from sampan.image.registryserver.server import context
from sampan.image.store import ImageStore

Sampan = Callable[..., Result]
NATIVE = default_platforms()[0].partition("/")[2]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "data" / "images")


@pytest.fixture
def sampan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sampan:
    monkeypatch.setenv("SAMPAN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return lambda *arguments: CliRunner().invoke(app, ("image", *arguments), prog_name="sampan")


def add(store: ImageStore, name: str, text: str) -> str:
    return add_image(
        store, f"docker.io/library/{name}", [layer(entry("f", text.encode()))], architecture=NATIVE
    )


def test_saved_is_what_is_loaded(sampan: Sampan, store: ImageStore, tmp_path: Path) -> None:
    ids = [add(store, "one:1", "1"), add(store, "two:2", "2")]
    store.tag("two:2", "second:latest")
    manifests = [store.inspect(each).manifest for each in ids]
    file = tmp_path / "images.tar"
    done = sampan("save", "one:1", "two:2", "-o", str(file))
    assert done.exit_code == 0, done.stderr
    again = tmp_path / "again.tar"
    assert sampan("save", "one:1", "two:2", "-o", str(again)).exit_code == 0
    assert file.read_bytes() == again.read_bytes()
    assert sampan("rm", "one:1", "two:2", "second").exit_code == 0
    assert store.list() == [] and list(store.content.digests()) == []
    loaded = sampan("load", str(file))
    assert "loaded docker.io/library/second:latest" in loaded.stdout
    assert [store.inspect(name).manifest for name in ("one:1", "two:2")] == manifests
    assert sampan("save", "nobody", "-o", str(tmp_path / "no.tar")).exit_code == 1
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["again.tar", "images.tar"]


def test_prune_takes_what_has_no_name_and_with_all_what_no_pod_uses(
    sampan: Sampan, store: ImageStore
) -> None:
    first, second, third = (add(store, f"{name}:1", name) for name in ("app", "old", "kept"))
    store.tag(first, "old:1")  # the name moves: its image has none any more
    with store.index() as index:
        catalog.put_tag(index, "kept", "1", "sha256:x", "docker.io/library/kept:1")
    done = sampan("prune")
    assert done.exit_code == 0 and f"removed <none>  {second[7:19]}" in done.stdout
    assert {image.id for image in store.list()} == {first, third}
    done = sampan("prune", "--all")
    assert f"{first[7:19]}" in done.stdout and "freed" in done.stdout
    assert [image.id for image in store.list()] == [third]
    shown = json.loads(sampan("inspect", "kept:1").stdout)
    assert shown[0]["pinned"] is True and shown[0]["tags"] == ["docker.io/library/kept:1"]
    assert "yes" in sampan("ls").stdout
    assert sampan("inspect", "app:1").exit_code == 1


def test_a_docker_configuration_that_is_none_is_named(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    done = sampan("pull", "127.0.0.1:1/app")
    assert done.exit_code == 1 and str(tmp_path / "docker" / "config.json") in done.stderr


async def test_tls_as_it_is_spoken_beyond_loopback(tmp_path: Path) -> None:
    """`localhost` is asked over TLS and nothing else once its authority is known; another authority is not believed."""
    ensure_pki(tmp_path / "pki", node_name="boat")
    ensure_pki(tmp_path / "other", node_name="boat")
    pki, other = PKIPaths.under(tmp_path / "pki"), PKIPaths.under(tmp_path / "other")
    store = ImageStore(tmp_path / "images")
    credentials = Credentials(tmp_path / "registry")
    tls = context(pki.apiserver.crt, pki.apiserver.key)
    server = RegistryServer(store, credentials, port=0, tls=tls)
    await server.start()
    try:
        auth = credentials.ensure([server.host])
        source = ImageStore(tmp_path / "source")
        image_id = add(source, "app:1", "1")
        for authority, works in ((other.ca.crt, False), (pki.ca.crt, True)):
            host = Host(auth, TLS(ca_file=str(authority)))
            source.registries = Registries().with_host([server.host], host)
            target = f"{server.host}/app:1"
            if works:
                await source.push("app:1", target)
            else:
                with pytest.raises(RegistryError, match="certificate verify failed"):
                    await source.push("app:1", target)
                with pytest.raises(ImageNotFound):
                    store.inspect(target)
        assert store.inspect(target).id == image_id
    finally:
        await server.close()


async def test_the_nodes_own_registry_logs_its_node_in(tmp_path: Path) -> None:
    """As the parts do it: the configuration says so, the runtime serves, and its store may pull by each name."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = Config.make(tmp_path, rootless=True, embedded_registry=True, registry_port=port)
    config.prepare()
    assert Config.load(tmp_path).embedded_registry
    images = open_images(config)
    serving = asyncio.create_task(serve_registry(config, images))
    try:
        source = open_images(config)
        add(source, "app:1", "1")
        async with asyncio.timeout(20):
            while True:
                try:
                    await source.push("app:1", f"localhost:{port}/app:1")
                    break
                except RegistryError:
                    await asyncio.sleep(0)
        await images.pull(f"127.0.0.1:{port}/app:1")
        assert images.inspect(f"localhost:{port}/app:1").pinned
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a bomb of a test's size exceeds."""
    monkeypatch.setattr("sampan.image.store.Limits", lambda: LIMITS)


@pytest.mark.skipif(NATIVE != "amd64", reason="the images are of amd64")
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
async def test_a_bad_image_is_told_and_leaves_nothing(
    sampan: Sampan, store: ImageStore, tmp_path: Path, make: Callable[[], Made]
) -> None:
    made = make()
    registry = await Registry().start()
    registry.blobs |= made.blobs
    registry.put_manifest("app", "v1", made.document)
    name = f"{registry.host}/app:v1"
    attempts = [await asyncio.to_thread(sampan, "pull", name)]
    await registry.stop()
    if make in LOADABLE:
        attempts.append(sampan("load", str(made.archive(tmp_path / "image.tar"))))
    for done in attempts:
        assert done.exit_code == 1
        assert re.search(BAD[make], done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert store.list() == [] and list(store.content.digests()) == []
    assert store.usage().bytes == 0
