"""Export: images as one tar file that is an OCI layout and, for those that run as containers, a docker archive at once.

Blobs are written as they are, each once, so a digest means the same on both sides. Times and owners are 0: equal images give equal
files. The file appears by rename, whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sampan.image.content import Content
from sampan.image.manifest import OCI_INDEX, Image, media_type_of, read_json, read_layers
from sampan.image.reference import parse


def write(images: Sequence[Image], content: Content, path: Path) -> None:
    """Raises BadImage when a blob is missing; nothing is written then."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with tarfile.open(beside, "w") as archive:
            _fill(archive, images, content)
        os.rename(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _fill(archive: tarfile.TarFile, images: Sequence[Image], content: Content) -> None:
    entries: list[dict[str, Any]] = []
    docker: list[dict[str, Any]] = []
    blobs: dict[str, int] = {}
    for image in images:
        data = content.read(image.manifest)
        document = read_json(data, "the manifest")
        config, layers = read_layers(document)
        blobs[image.manifest] = len(data)
        blobs.update((blob.digest, blob.size) for blob in (config, *layers))
        entries.extend(_entries(image, media_type_of(document), len(data)))
        if not image.wasm:
            docker.append(
                {
                    "Config": _blob(config.digest),
                    "RepoTags": list(image.tags),
                    "Layers": [_blob(layer.digest) for layer in layers],
                }
            )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    _put(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _put(archive, "index.json", json.dumps(index).encode())
    if docker:
        _put(archive, "manifest.json", json.dumps(docker).encode())
    for digest, size in sorted(blobs.items()):
        with content.path(digest).open("rb") as file:
            archive.addfile(_info(_blob(digest), size), file)


def _entries(image: Image, media_type: str, size: int) -> Iterable[dict[str, Any]]:
    """One descriptor for each tag; one without a name for an image that has none."""
    base: dict[str, Any] = {"mediaType": media_type, "digest": image.manifest, "size": size}
    platform = {"os": image.os, "architecture": image.architecture}
    if image.variant:
        platform["variant"] = image.variant
    for tag in image.tags or ("",):
        entry = {**base, "platform": platform}
        if tag:
            entry["annotations"] = {
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": parse(tag).tag,
            }
        yield entry


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_info(name, len(data)), io.BytesIO(data))
