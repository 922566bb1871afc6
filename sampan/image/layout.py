"""Import of images from files: OCI layouts (directory or tar), `docker save` archives, and bare wasm modules.

An importer copies blobs into the content store, verified, and returns (manifest digest, names) for each image; it never
extracts a path of the archive to disk. A docker archive has no manifest of its own kind, so an OCI manifest is made.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from sampan.image.content import Content
from sampan.image.errors import BadImage, BadReference, ImageError
from sampan.image.manifest import (
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    check_platform,
    choose,
    media_type_of,
    read_json,
    read_layers,
)
from sampan.image.reference import parse

Imported = tuple[str, list[str]]  # manifest digest, names
WASM_MAGIC = b"\0asm"
NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DOCUMENT_LIMIT = 16 << 20


class _Files(Protocol):
    """A layout's files, by path within it."""

    def open(self, name: str) -> BinaryIO | None: ...


class _Directory:
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str) -> BinaryIO | None:
        if name.startswith("/") or ".." in name.split("/"):
            raise BadImage(f"path {name!r} points outside the layout")
        try:
            return (self.root / name).open("rb")
        except FileNotFoundError:
            return None


class _Archive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self.archive = archive
        self.members = {self._clean(member.name): member for member in archive}

    @staticmethod
    def _clean(name: str) -> str:
        return name.removeprefix("./").rstrip("/")

    def open(self, name: str) -> BinaryIO | None:
        name = self._clean(name)
        for _ in range(8):  # older `docker save` links a repeated layer to its first copy
            member = self.members.get(name)
            if member is None:
                return None
            if member.issym():
                base = name.split("/")[:-1]
                for part in member.linkname.split("/"):
                    if part == "..":
                        base = base[:-1]
                    elif part not in ("", "."):
                        base.append(part)
                name = "/".join(base)
                continue
            if member.islnk():
                name = self._clean(member.linkname)
                continue
            return self.archive.extractfile(member)  # type: ignore[return-value]
        return None


def load(path: Path, content: Content, platforms: Sequence[str], name: str = "") -> list[Imported]:
    """Import every image that `path` holds. `name` overrides the name when there is one image. Raises ImageError."""
    if path.is_dir():
        return _renamed(_load_oci(_Directory(path), content, platforms), name)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    if magic == WASM_MAGIC:
        return [_load_wasm(path, content, name)]
    try:
        with tarfile.open(path, "r:*") as archive:
            files = _Archive(archive)
            if "oci-layout" in files.members or "index.json" in files.members:
                return _renamed(_load_oci(files, content, platforms), name)
            if "manifest.json" in files.members:
                return _renamed(_load_docker(files, content, platforms), name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadImage(f"{path}: not an image archive: {error}") from error
    raise BadImage(f"{path}: neither an OCI layout nor a docker archive (docker save) nor wasm")


def _renamed(images: list[Imported], name: str) -> list[Imported]:
    if not name:
        return images
    if len(images) != 1:
        raise BadImage(f"the archive holds {len(images)} images; a name needs exactly one")
    return [(images[0][0], [parse(name).key])]


def _document(files: _Files, name: str) -> bytes:
    file = files.open(name)
    if file is None:
        raise BadImage(f"{name} is missing from the image layout")
    with file:
        data = file.read(_DOCUMENT_LIMIT + 1)
    if len(data) > _DOCUMENT_LIMIT:
        raise BadImage(f"{name} is larger than {_DOCUMENT_LIMIT} bytes")
    return data


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _copy(files: _Files, content: Content, blob: Descriptor) -> None:
    if content.has(blob.digest):
        return
    file = files.open(_blob_name(blob.digest))
    if file is None:
        raise BadImage(f"blob {blob.digest} is missing from the image layout")
    with file:
        content.ingest(file, blob.digest, blob.size)


def _load_oci(files: _Files, content: Content, platforms: Sequence[str]) -> list[Imported]:
    index = read_json(_document(files, "index.json"), "index.json")
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise BadImage("index.json has no list of manifests")
    descriptors = [Descriptor.read(entry) for entry in entries]
    named = [entry for entry in descriptors if any(key in entry.annotations for key in NAME_KEYS)]
    if not named and len({str(entry.platform) for entry in descriptors}) > 1:
        descriptors = [choose(descriptors, platforms)]
    known = INDEXES | MANIFESTS
    found = [
        _load_entry(files, content, entry, platforms)
        for entry in descriptors
        if entry.media_type in known
    ]
    if not found:
        raise BadImage("index.json names no image")
    return found


def _load_entry(
    files: _Files, content: Content, entry: Descriptor, platforms: Sequence[str]
) -> Imported:
    names = []
    for key in NAME_KEYS:
        if text := entry.annotations.get(key):
            try:
                names = [parse(text).key]
                break
            except BadReference:
                continue
    for _ in range(4):
        _copy(files, content, entry)
        document = read_json(content.read(entry.digest), "a manifest")
        if media_type_of(document, entry.media_type) in MANIFESTS:
            break
        children = [Descriptor.read(child) for child in document.get("manifests") or []]
        entry = choose(children, platforms)
    else:
        raise BadImage("image indexes nest too deep")
    config, layers = read_layers(document)
    _copy(files, content, config)
    check_platform(read_json(content.read(config.digest), "the configuration"), platforms)
    for blob in layers:
        _copy(files, content, blob)
    return entry.digest, names


def _load_docker(files: _Files, content: Content, platforms: Sequence[str]) -> list[Imported]:
    try:
        images = json.loads(_document(files, "manifest.json"))
        wanted = [
            (str(image["Config"]), list(image.get("RepoTags") or []), list(image["Layers"]))
            for image in images
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadImage(f"manifest.json of the docker archive is malformed: {error!r}") from None
    result: list[Imported] = []
    for config_name, tags, layer_names in wanted:
        config = _document(files, config_name)
        check_platform(read_json(config, "the configuration"), platforms)
        descriptors = []
        for layer_name in layer_names:
            file = files.open(str(layer_name))
            if file is None:
                raise BadImage(f"layer {layer_name} is missing from the docker archive")
            with file:
                digest, size = content.ingest(file)
            descriptors.append(Descriptor(OCI_LAYER, digest, size))
        config_digest = content.put(config)
        result.append(
            (
                put_manifest(
                    content, Descriptor(OCI_CONFIG, config_digest, len(config)), descriptors
                ),
                [parse(str(tag)).key for tag in tags],
            )
        )
    return result


def put_manifest(
    content: Content,
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: dict[str, str] | None = None,
) -> str:
    """Write an OCI manifest; its digest."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.json(),
        "layers": [layer.json() for layer in layers],
    }
    if annotations:
        document["annotations"] = annotations
    return content.put(json.dumps(document, separators=(",", ":")).encode())


def _load_wasm(path: Path, content: Content, name: str) -> Imported:
    """A bare module becomes a wasm artifact. A component (layer 1 of the binary format) is wasip2."""
    with path.open("rb") as file:
        header = file.read(8)
        file.seek(0)
        digest, size = content.ingest(file)
    system = "wasip2" if header[6:8] == b"\x01\x00" else "wasip1"
    document = {"architecture": "wasm", "os": system, "layerDigests": [digest]}
    config = json.dumps(document, separators=(",", ":")).encode()
    layer = Descriptor(
        "application/wasm", digest, size, {"org.opencontainers.image.title": path.name}
    )
    config_at = Descriptor("application/vnd.wasm.config.v0+json", content.put(config), len(config))
    text = name or path.stem.lower().replace("_", "-")
    return put_manifest(content, config_at, [layer]), [parse(text).key]
