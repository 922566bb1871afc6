"""What of the image store nothing needs any more: blobs and unpacked layers. The caller holds the store's lock exclusively.

Layers that are mounted stay until a later sweep. What the embedded registry needs stays with it (catalog.py).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sampan.image import catalog
from sampan.image.content import Content
from sampan.image.errors import BadImage
from sampan.image.manifest import Image, read_json, read_layers
from sampan.linux.trees import remove_quietly


def needed_blobs(index: sqlite3.Connection, content: Content, images: Sequence[Image]) -> set[str]:
    """Of images and registry. Rows of the registry that nothing leads to are deleted."""
    wanted: set[str] = set()
    for image in images:
        wanted.update((image.manifest, image.id, *image.layers))
        try:
            config, layers = read_layers(read_json(content.read(image.manifest), "the manifest"))
            wanted.update((config.digest, *(layer.digest for layer in layers)))
        except BadImage:
            continue

    def read(digest: str) -> Mapping[str, Any]:
        try:
            return read_json(content.read(digest), "the manifest")
        except BadImage:
            return {}

    return wanted | catalog.collect(index, read, {image.manifest for image in images}, time.time())


def sweep_blobs(content: Content, needed: set[str]) -> None:
    for digest, _ in list(content.digests()):
        if digest not in needed:
            content.delete(digest)
    content.discard_partial()


def sweep_layers(directory: Path, images: Sequence[Image]) -> list[tuple[str]]:
    """The diff ids that were removed, as rows."""
    wanted = {diff_id.replace(":", "-", 1) for image in images for diff_id in image.diff_ids}
    mounts = _mounts()
    removed = []
    for path in directory.iterdir():
        if path.name in wanted or path.suffix == ".lock" or path.name in mounts:
            continue
        remove_quietly(path)
        (path.parent / f"{path.name}.lock").unlink(missing_ok=True)
        removed.append((path.name.replace("-", ":", 1),))
    return removed


def _mounts() -> str:
    """The mounts of every mount namespace that we may look into: a sandbox may have one of its own."""
    seen: set[str] = set()
    found: list[str] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{entry}/ns/mnt")
            if namespace not in seen:
                found.append(Path(f"/proc/{entry}/mountinfo").read_text())
                seen.add(namespace)
        except OSError:
            continue  # it has ended, or is not ours
    return "".join(found)
