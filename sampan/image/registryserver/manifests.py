"""Manifests that are pushed: what is checked, what is recorded, and how one becomes an image of the node.

The bytes are kept as they came, with the media type that they came with. Images and indexes of OCI and Docker are taken, artifacts
too (signatures, SBOMs, charts: an OCI manifest with any configuration); what a manifest names must be in the repository before it, but
a subject need not be (distribution spec: "Pushing Manifests with Subject").
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from sampan.image import catalog
from sampan.image.catalog import Manifest
from sampan.image.errors import BadImage
from sampan.image.manifest import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    check_platform,
    choose,
    media_type_of,
    read_json,
)
from sampan.image.reference import is_digest
from sampan.image.registryserver.errors import Refused
from sampan.image.store import ImageStore

LIMIT = 4 << 20  # bytes; the specification asks for at least this much


def read(data: bytes, content_type: str, target: str) -> tuple[Manifest, dict[str, Any]]:
    """Raises Refused for what is no manifest, or not the one that `target` (a digest) names."""
    algorithm = target.partition(":")[0] if is_digest(target) else "sha256"
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if is_digest(target) and target != digest:
        raise Refused("DIGEST_INVALID", f"provided digest did not match content: {digest}")
    try:
        document = read_json(data, "the manifest")
        declared = content_type.partition(";")[0].strip()
        media_type = media_type_of(document, declared)
        subject = document.get("subject")
        refers = Descriptor.read(subject).digest if subject is not None else ""
        for key in ("config", "layers") if media_type in MANIFESTS else ("manifests",):
            if key not in document:
                raise BadImage(f"the manifest has no {key}")
        for entry in _descriptors(document):
            Descriptor.read(entry)
        annotations = document.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise BadImage("annotations are not a map")
    except BadImage as error:
        raise Refused("MANIFEST_INVALID", str(error)) from None
    if declared in INDEXES | MANIFESTS and declared != media_type:
        raise Refused(
            "MANIFEST_INVALID", f"Content-Type is {declared}, the manifest says {media_type}"
        )
    kind = document.get("artifactType") or ""
    if not kind and media_type in MANIFESTS:
        kind = document["config"].get("mediaType") or ""
    found = Manifest(digest, media_type, len(data), refers, str(kind), json.dumps(annotations))
    return found, document


def _descriptors(document: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = [document["config"]] if "config" in document else []
    for key in ("layers", "manifests"):
        entries = document.get(key)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise BadImage(f"{key} is not a list")
        found.extend(entries)
    return found


def check_present(
    index: sqlite3.Connection, repository: str, manifest: Manifest, document: Mapping[str, Any]
) -> None:
    """What the manifest names is in the repository. Raises Refused naming the first that is not."""
    for entry in _descriptors(document):
        digest = entry["digest"]
        if entry.get("urls"):  # layers that are not distributed come from elsewhere
            continue
        if manifest.media_type in INDEXES:
            there = catalog.manifest(index, repository, digest) is not None
        else:
            there = catalog.has_blob(index, repository, digest)
        if not there:
            raise Refused(
                "MANIFEST_BLOB_UNKNOWN",
                "manifest references a manifest or blob unknown to registry",
                detail={"digest": digest},
            )


def runnable(store: ImageStore, manifest: Manifest) -> str:
    """The manifest of the image that this node would run; empty for an artifact, and for other machines' images."""
    digest, media_type = manifest.digest, manifest.media_type
    try:
        for _ in range(4):
            document = read_json(store.content.read(digest), "the manifest")
            if media_type in MANIFESTS:
                image = store.examine(digest)
                check_platform(
                    {"os": image.os, "architecture": image.architecture}, store.platforms
                )
                return digest
            children = [Descriptor.read(child) for child in document.get("manifests") or []]
            digest = choose(children, store.platforms).digest
            document = read_json(store.content.read(digest), "the manifest")
            media_type = media_type_of(document)
    except BadImage:
        pass
    return ""


def put(
    store: ImageStore, host: str, repository: str, tag: str, data: bytes, manifest: Manifest
) -> None:
    """Record it, and name the image that it makes. A tag that meant another image moves."""
    with store.adding():
        document = read_json(data, "the manifest")
        with store.index() as index:
            check_present(index, repository, manifest, document)
        store.content.put(data, manifest.digest)
        name = f"{host}/{repository}:{tag}" if tag else ""
        image = runnable(store, manifest)
        with store.index() as index:
            catalog.put_manifest(index, repository, manifest)
            if tag:
                catalog.put_tag(index, repository, tag, manifest.digest, name)
                index.execute("DELETE FROM names WHERE name = ?", (name,))
        if image:
            names = [f"{host}/{repository}@{manifest.digest}"]
            store.add(image, [*names, name] if tag else names)
