"""The store: names, sharing between processes, imports, removal."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import tarfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from image_make import WASM, add_image, documents, entry, layer, symlink

from sampan.image.errors import BadImage, BadReference, ImageError, ImageNotFound
from sampan.image.extract import Extractor
from sampan.image.layout import put_manifest
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, Descriptor
from sampan.image.store import ImageStore
from sampan.linux.trees import remove_quietly

X = "docker.io/library/x:latest"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", platforms=["linux/amd64", "wasip1/wasm"])


def test_an_image_is_found_by_every_name(store: ImageStore) -> None:
    image_id = add_image(store, X, [layer(entry("f", b"1"))])
    for ref in ("x", "x:latest", X, image_id, image_id[7:], image_id[7:19], image_id[:20]):
        assert store.inspect(ref).id == image_id
    for ref in ("y", "x:other", "sha256:" + "0" * 64, "0000", "docker.io/library/x@" + image_id):
        with pytest.raises(ImageNotFound):
            store.inspect(ref)
    with pytest.raises(BadReference):
        store.inspect("Not A Name")


def test_tags_move_and_go(store: ImageStore) -> None:
    first = add_image(store, X, [layer(entry("f", b"1"))])
    second = add_image(store, "docker.io/library/y:latest", [layer(entry("f", b"2"))])
    store.tag("x", "z:1")
    store.tag("y", "x")
    assert store.inspect("x").id == second and store.inspect("z:1").id == first
    store.remove("x")
    assert store.inspect("y").id == second  # another tag keeps it
    store.remove("y")
    with pytest.raises(ImageNotFound):
        store.inspect(second)
    store.remove(first)
    assert store.list() == []
    assert list(store.content.digests()) == []


async def test_removal_takes_what_is_not_shared(store: ImageStore) -> None:
    shared, own = layer(entry("shared", b"s" * 9000)), layer(entry("own", b"o"))
    add_image(store, X, [shared, own])
    add_image(store, "docker.io/library/y:latest", [shared])
    both = await store.unpack("x")
    before = store.usage()
    store.remove("x")
    assert both.layers[0].is_dir() and not both.layers[1].exists()
    assert store.usage().bytes < before.bytes and store.usage().inodes < before.inodes
    assert (await store.unpack("y")).layers == both.layers[:1]
    store.remove("y")
    assert store.usage().bytes == 0 and list((store.directory / "layers").iterdir()) == []


def test_nothing_is_swept_while_content_is_added(store: ImageStore) -> None:
    blob = store.content.put(b"not referred to yet")
    with store.adding():
        assert store.sweep() is False
        assert store.content.has(blob)
    assert store.sweep() is True
    assert not store.content.has(blob)


def test_only_the_owner_gets_in(store: ImageStore) -> None:
    add_image(store, X, [layer(entry("f", b"1"))])
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    for path in store.directory.glob("blobs/*/*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _unpack(directory: Path) -> None:
    unpacked = asyncio.run(ImageStore(directory).unpack("x"))
    assert all((path / "d0" / "f0").read_bytes() == b"1" for path in unpacked.layers)


async def test_many_unpack_at_once(store: ImageStore) -> None:
    """Processes and tasks together: each layer appears once and whole."""
    files = [entry(f"d{i}/f{i}", b"1") for i in range(200)]
    add_image(store, X, [layer(*files, entry("one", b"1")), layer(*files, entry("two", b"2"))])
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_unpack, args=(store.directory,)) for _ in range(4)]
    for process in processes:
        process.start()
    results = await asyncio.gather(*(store.unpack("x") for _ in range(8)))
    for process in processes:
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode == 0
    assert len({result.layers for result in results}) == 1
    names = [path.name for path in (store.directory / "layers").iterdir()]
    assert len([name for name in names if not name.endswith(".lock")]) == 2


def test_what_another_process_loads_is_seen_at_once(store: ImageStore, tmp_path: Path) -> None:
    module = tmp_path / "app.wasm"
    module.write_bytes(WASM)
    assert store.list() == []
    other = ImageStore(store.directory)
    assert other.load(module, "app:1") == ["docker.io/library/app:1"]
    assert store.inspect("app:1").os == "wasip1"


def oci_layout(directory: Path, name: str = "team/app:2") -> None:
    config, blobs, layers = documents([layer(entry("hello", b"world"))])
    source = ImageStore(directory.parent / "source")
    for blob in blobs:
        source.content.put(blob)
    at = Descriptor(OCI_CONFIG, source.content.put(config), len(config))
    manifest = put_manifest(source.content, at, layers)
    directory.mkdir()
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    data = source.content.read(manifest)
    found = Descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        manifest,
        len(data),
        {"org.opencontainers.image.ref.name": name},
    )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [found.json()]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "blobs").symlink_to(source.content.directory)


@pytest.mark.parametrize("form", ["directory", "tar"])
async def test_oci_layout(store: ImageStore, tmp_path: Path, form: str) -> None:
    path = tmp_path / "layout"
    oci_layout(path)
    if form == "tar":
        with tarfile.open(tmp_path / "layout.tar", "w", dereference=True) as archive:
            archive.add(path, ".")
        path = tmp_path / "layout.tar"
    assert store.load(path) == ["docker.io/team/app:2"]
    assert store.load(path, "renamed") == ["docker.io/library/renamed:latest"]
    unpacked = await store.unpack("team/app:2")
    assert (unpacked.layers[0] / "hello").read_bytes() == b"world"


async def test_docker_archive(store: ImageStore, tmp_path: Path) -> None:
    """As older `docker save` writes it: plain layers, a repeated one as a link."""
    data = layer(entry("hello", b"world"))
    config, _, _ = documents([data, data])
    manifest = [
        {
            "Config": "abc.json",
            "RepoTags": ["app:1", "app:2"],
            "Layers": ["l1/layer.tar", "l2/layer.tar"],
        }
    ]
    with tarfile.open(tmp_path / "saved.tar.gz", "w:gz") as archive:
        for info, content in (
            entry("abc.json", config),
            entry("l1/layer.tar", data),
            symlink("l2/layer.tar", "../l1/layer.tar"),
            entry("manifest.json", json.dumps(manifest).encode()),
        ):
            archive.addfile(info, io.BytesIO(content))
    names = store.load(tmp_path / "saved.tar.gz")
    assert names == ["docker.io/library/app:1", "docker.io/library/app:2"]
    assert ((await store.unpack("app:2")).layers[1] / "hello").read_bytes() == b"world"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: subprocess.run(["tar", "-cf", path, "-T", "/dev/null"], check=True),
    ],
)
def test_what_is_no_image(store: ImageStore, tmp_path: Path, make) -> None:
    make(tmp_path / "thing")
    with pytest.raises(BadImage):
        store.load(tmp_path / "thing")
    with pytest.raises(ImageError, match="no such file"):
        store.load(tmp_path / "absent")
    assert store.list() == []


async def test_wasm_modules_in_layers(store: ImageStore) -> None:
    data = layer(entry("bin/app.wasm", WASM), symlink("srv/app", "/bin/app.wasm"))
    cases = [
        ({"Entrypoint": ["/bin/app.wasm"]}, {"os": "wasip1", "architecture": "wasm"}),
        ({"Cmd": ["app"], "WorkingDir": "/srv"}, {"os": "wasi", "architecture": "wasm32"}),
        ({"Entrypoint": ["bin/app.wasm"]}, {}),
    ]
    for number, (config, top) in enumerate(cases):
        add_image(store, f"docker.io/library/c{number}:latest", [data], config, **top)
        unpacked = await store.unpack(f"c{number}")
        assert [module.read_bytes() for module in unpacked.modules] == [WASM]
    add_image(store, X, [data], {"Entrypoint": ["/gone.wasm"]}, os="wasip1")
    with pytest.raises(BadImage, match=r"/gone\.wasm"):
        await store.unpack("x")


async def test_a_layer_that_is_not_what_it_says_leaves_nothing(store: ImageStore) -> None:
    good = layer(entry("f", b"1"))
    add_image(store, X, [good], rootfs={"type": "layers", "diff_ids": ["sha256:" + "1" * 64]})
    with pytest.raises(BadImage, match="does not match its diff id"):
        await store.unpack("x")
    names = [path.name for path in (store.directory / "layers").iterdir()]
    assert [name for name in names if not name.endswith(".lock")] == []


@pytest.mark.parametrize(
    "config",
    [
        {"Entrypoint": "/bin/sh"},
        {"Env": [1]},
        {"User": 5},
        {"ExposedPorts": []},
        {"Labels": {"a": 1}},
    ],
)
def test_malformed_configurations_are_refused(store: ImageStore, config: dict) -> None:
    if config == {"ExposedPorts": []}:
        config = {"ExposedPorts": ["80/tcp"]}
    with pytest.raises(BadImage):
        add_image(store, X, [layer()], config)
    assert store.list() == []


def _die_while_unpacking(directory: Path, begun: Connection) -> None:
    """Says when a hundred entries are written, then waits to be killed."""
    real, count = Extractor.add, 0

    def add(self: Extractor, info: tarfile.TarInfo) -> None:
        nonlocal count
        real(self, info)
        count += 1
        if count == 100:
            begun.send(True)
            signal.pause()

    Extractor.add = add  # type: ignore[method-assign]
    asyncio.run(ImageStore(directory).unpack("x"))


async def test_killed_while_unpacking(store: ImageStore) -> None:
    add_image(store, X, [layer(*(entry(f"f{i}", b"1") for i in range(300)))])
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_die_while_unpacking, args=(store.directory, there))
    child.start()
    assert await asyncio.to_thread(here.poll, 30)
    child.kill()
    await asyncio.to_thread(child.join, 30)
    layers = store.directory / "layers"
    assert len(list(layers.glob(".partial-*"))) == 1
    unpacked = await store.unpack("x")
    assert len(list(unpacked.layers[0].iterdir())) == 300
    assert store.sweep() and not list(layers.glob(".partial-*"))
    assert unpacked.layers[0].is_dir()


async def test_an_image_removed_meanwhile(store: ImageStore) -> None:
    add_image(store, X, [layer(entry("f", b"1"))])
    blob = store.inspect("x").layers[0]
    store.content.delete(blob)
    with pytest.raises(ImageNotFound, match="was removed"):
        await store.unpack("x")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlay mount")
async def test_layers_that_a_sandbox_has_mounted_stay(store: ImageStore, tmp_path: Path) -> None:
    """In a mount namespace of its own, as wasm sandboxes have: seen through /proc."""
    add_image(store, X, [layer(entry("f", b"1")), layer(entry("g", b"2"))])
    unpacked = await store.unpack("x")
    (tmp_path / "merged").mkdir()
    lower = ":".join(str(path) for path in unpacked.layers)
    script = 'mount -t overlay none -o "lowerdir=$1" "$2" && echo mounted && read done'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", lower, str(tmp_path / "merged")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sandbox:
        assert sandbox.stdout is not None and sandbox.stdin is not None
        if await asyncio.to_thread(sandbox.stdout.readline) != b"mounted\n":
            pytest.skip("overlayfs is not available")
        store.remove("x")
        assert all(path.is_dir() for path in unpacked.layers)
        sandbox.stdin.write(b"\n")
        sandbox.stdin.flush()
    assert store.sweep()
    assert not any(path.exists() for path in unpacked.layers)


async def test_nothing_is_swept_while_an_image_is_being_used(store: ImageStore) -> None:
    """From unpacking until it is mounted: an image that is removed in between is still whole then."""
    image_id = add_image(store, "docker.io/library/app:1", [layer(entry("hello", b"ship"))])
    async with store.using("app:1") as image:
        await asyncio.to_thread(store.remove, image_id)
        assert (image.layers[0] / "hello").read_bytes() == b"ship"
    assert store.sweep()
    assert not image.layers[0].exists()
    with pytest.raises(ImageNotFound):
        async with store.using(image_id, image):
            raise AssertionError("it is gone")


async def test_who_uses_an_image_waits_for_a_sweep_and_unpacks_it_again(store: ImageStore) -> None:
    add_image(store, "docker.io/library/app:1", [layer(entry("hello", b"ship"))])
    known = await store.unpack("app:1")
    with (store.directory / "lock").open("a") as sweeping:
        fcntl.flock(sweeping, fcntl.LOCK_EX)
        using = store.using("app:1", known)
        waiting = asyncio.ensure_future(using.__aenter__())
        await asyncio.to_thread(remove_quietly, known.layers[0])
        assert not waiting.done()
    image = await asyncio.wait_for(waiting, 20)
    assert (image.layers[0] / "hello").read_bytes() == b"ship"
    await using.__aexit__(None, None, None)
