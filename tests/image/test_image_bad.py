"""Bad images: whatever is wrong with one, pulled, loaded or pushed, the error says what, and nothing of it stays."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from image_make import digest, directory, documents, entry, hardlink, layer, symlink, zstd
from image_registry import Registry

from sampan.image.errors import BadImage
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from sampan.image.store import ImageStore
from sampan.image.unpack import Limits

GOOD = layer(entry("hello", b"world" * 100))
BOMB = layer(*(entry(f"zeros{number}", bytes(2 << 20)) for number in range(3)))


class Made:
    """An image as bytes, to be spoiled: its manifest document and blobs."""

    def __init__(self, layers: list[bytes], **top: Any) -> None:
        settings = top.pop("config", {"Cmd": ["/x"]})
        config, blobs, descriptors = documents(layers, settings, **top)
        self.blobs = {digest(data): data for data in (config, *blobs)}
        self.document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor.of(OCI_CONFIG, config).json(),
            "layers": [item.json() for item in descriptors],
        }
        self.layer = descriptors[0].digest

    def replace_layer(self, data: bytes) -> None:
        """Rightly named in the manifest, so that only what is in it is wrong."""
        self.blobs[digest(data)] = data
        self.document["layers"][0] |= {"digest": digest(data), "size": len(data)}

    def archive(self, path: Path) -> Path:
        manifest = json.dumps(self.document).encode()
        index = {
            "schemaVersion": 2,
            "manifests": [Descriptor.of(OCI_MANIFEST, manifest).json()],
        }
        files = {"index.json": json.dumps(index).encode(), "oci-layout": b"{}"}
        for name, data in {**self.blobs, digest(manifest): manifest}.items():
            files["blobs/" + name.replace(":", "/")] = data
        with tarfile.open(path, "w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path


def wrong_digest() -> Made:
    made = Made([GOOD])
    made.blobs[made.layer] = bytes(len(made.blobs[made.layer]))
    return made


def truncated_transfer() -> Made:
    made = Made([GOOD])
    made.blobs[made.layer] = made.blobs[made.layer][:-5]
    return made


def truncated_layer() -> Made:
    made = Made([GOOD])
    made.replace_layer(made.blobs[made.layer][:-20])
    return made


def wrong_diff_id() -> Made:
    made = Made([GOOD])
    made.replace_layer(gzip.compress(layer(entry("other", b"!"))))
    return made


def bomb() -> Made:
    return Made([BOMB])


def too_large() -> Made:
    noise = random.Random(1)
    return Made([layer(*(entry(f"f{i}", noise.randbytes(1 << 20)) for i in range(5)))])


def many_layers() -> Made:
    made = Made([GOOD])
    made.document["layers"] *= 10_000
    return made


def unknown_layer() -> Made:
    made = Made([GOOD])
    made.document["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v2.rar"
    return made


def unknown_manifest() -> Made:
    made = Made([GOOD])
    made.document["mediaType"] = "application/vnd.example.manifest"
    del made.document["config"]
    return made


def wrong_architecture() -> Made:
    return Made([GOOD], architecture="s390x")


def wrong_system() -> Made:
    return Made([GOOD], os="windows")


def no_diff_ids() -> Made:
    return Made([GOOD], rootfs={"type": "layers", "diff_ids": []})


def wrong_types() -> Made:
    return Made([GOOD], config={"Cmd": "sh -c evil", "Env": {"a": 1}})


def hostile() -> Made:
    return Made([layer(symlink("up", "/"), entry("../../../evil", b"x"))])


def negative_size() -> Made:
    made = Made([GOOD])
    made.document["layers"][0]["size"] = -1
    return made


BAD = {
    wrong_digest: "does not match its digest: expected sha256:",
    truncated_transfer: "bytes, .* declared|shorter|declared",
    truncated_layer: "damaged gzip layer",
    wrong_diff_id: "does not match its diff id",
    bomb: "refused as a bomb",
    too_large: "larger than the limit",
    many_layers: "has 10000 layers; at most 512",
    unknown_layer: "unknown media type 'application/vnd.oci.image.layer.v2.rar'",
    unknown_manifest: "not an image manifest: media type 'application/vnd.example.manifest'",
    wrong_architecture: "wanted one of linux/amd64; the image has linux/s390x",
    wrong_system: "wanted one of linux/amd64; the image has windows/amd64",
    no_diff_ids: "names 0 layers, the manifest 1",
    wrong_types: "is not a list of strings",
    hostile: "points outside the image",
    negative_size: "invalid size -1",
}


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = await Registry().start()
    yield found
    await found.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    limits = Limits(size=4 << 20, ratio=100, ratio_from=1 << 20)
    return ImageStore(tmp_path / "images", platforms=["linux/amd64"], limits=limits)


def left(store: ImageStore) -> list[str]:
    """Every file of the store but its index and locks."""
    return sorted(
        str(path.relative_to(store.directory))
        for path in store.directory.rglob("*")
        if not path.is_dir() and path.name not in ("index.db", "lock") and path.suffix != ".lock"
    )


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
async def test_pulled(registry: Registry, store: ImageStore, make: Any) -> None:
    made = make()
    registry.blobs |= made.blobs
    registry.put_manifest("app", "v1", made.document)
    with pytest.raises(BadImage, match=BAD[make]):
        await store.pull(f"{registry.host}/app:v1")
    assert left(store) == [] and store.list() == [] and store.usage().bytes == 0
    if make in (many_layers, unknown_layer, unknown_manifest):
        assert registry.requests["blob"] == 0  # nothing is fetched of what could never run
    if make in (wrong_architecture, wrong_system):
        assert registry.requests["blob"] == 1  # the configuration says so


@pytest.mark.parametrize(
    "make", [each for each in BAD if each is not unknown_manifest], ids=lambda make: make.__name__
)
def test_loaded(tmp_path: Path, store: ImageStore, make: Any) -> None:
    with pytest.raises(BadImage, match=BAD[make]):
        store.load(make().archive(tmp_path / "image.tar"), "app:1")
    assert left(store) == [] and store.list() == []


async def test_a_good_image_beside_a_bad_one_stays(registry: Registry, store: ImageStore) -> None:
    """They share a layer, and the bad one is swept."""
    good, bad = Made([GOOD]), Made([GOOD, layer(entry("../x", b""))])
    for name, made in (("good", good), ("bad", bad)):
        registry.blobs |= made.blobs
        registry.put_manifest(name, "v1", made.document)
    await store.pull(f"{registry.host}/good:v1")
    before = left(store)
    with pytest.raises(BadImage):
        await store.pull(f"{registry.host}/bad:v1")
    assert left(store) == before
    assert (await store.unpack(f"{registry.host}/good:v1")).layers[0].is_dir()


async def test_indexes_that_never_end(registry: Registry, store: ImageStore) -> None:
    inner = Descriptor.of(OCI_MANIFEST, b"{}")
    for _ in range(6):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.json()]}
        found = registry.put_manifest("app", "v1", document)
        size = len(registry.manifests[f"app@{found}"][1])
        inner = Descriptor(OCI_INDEX, found, size)
    with pytest.raises(BadImage, match="nest too deep"):
        await store.pull(f"{registry.host}/app:v1")
    assert left(store) == []


async def test_a_manifest_without_end(registry: Registry, store: ImageStore) -> None:
    made = Made([GOOD])
    made.document["annotations"] = {"x": "y" * (5 << 20)}
    registry.put_manifest("app", "v1", made.document)
    with pytest.raises(BadImage, match="larger than 4194304 bytes"):
        await store.pull(f"{registry.host}/app:v1")
    assert left(store) == []


async def test_zstd_layers_run_and_bombs_of_zstd_do_not(
    registry: Registry, store: ImageStore
) -> None:
    for name, data in (("good", GOOD), ("bomb", BOMB)):
        made = Made([data])
        made.replace_layer(zstd(data))
        made.document["layers"][0]["mediaType"] = f"{OCI_LAYER}+zstd"
        registry.blobs |= made.blobs
        registry.put_manifest(name, "v1", made.document)
    await store.pull(f"{registry.host}/good:v1")
    before = left(store)
    with pytest.raises(BadImage, match="refused as a bomb"):
        await store.pull(f"{registry.host}/bomb:v1")
    assert left(store) == before


def test_whiteouts_never_reach_what_is_above(tmp_path: Path, store: ImageStore) -> None:
    """In an image of two layers, where the upper one tries."""
    upper = [
        [entry(".wh...", b"")],
        [directory("a"), entry("a/../.wh.b", b"")],
        [symlink("a", "/"), hardlink("b", "../../blobs")],
    ]
    for entries in upper:
        made = Made([GOOD, layer(*entries)])
        with pytest.raises(BadImage):
            store.load(made.archive(tmp_path / "image.tar"), "app:1")
        assert left(store) == []
