"""Bad images: whatever is wrong with one, pulled, loaded or pushed, the error says what, and nothing of it stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from image_bad import (
    BAD,
    BOMB,
    GOOD,
    LIMITS,
    LOADABLE,
    Made,
    many_layers,
    unknown_layer,
    unknown_manifest,
    wrong_architecture,
    wrong_system,
)  # fmt: skip
from image_make import directory, entry, hardlink, layer, symlink, zstd
from image_registry import Registry

from sampan.image.errors import BadImage
from sampan.image.manifest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from sampan.image.store import ImageStore


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = await Registry().start()
    yield found
    await found.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", platforms=["linux/amd64"], limits=LIMITS)


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


@pytest.mark.parametrize("make", LOADABLE, ids=lambda make: make.__name__)
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
