"""Makers of layers and images for the tests of this room."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

from sampan.image.layout import put_manifest
from sampan.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor
from sampan.image.store import ImageStore

WASM = b"\0asm\x01\0\0\0"


def entry(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd(data: bytes) -> bytes:
    try:
        from compression.zstd import compress  # Python 3.14
    except ImportError:
        from backports.zstd import compress
    return compress(data)


def documents(
    layers: list[bytes], config: dict[str, Any] | None = None, **top: Any
) -> tuple[bytes, list[bytes], list[Descriptor]]:
    """The configuration, compressed layers, and their descriptors."""
    blobs = [gzip.compress(data, mtime=0) for data in layers]
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        **top,
    }
    descriptors = [Descriptor(f"{OCI_LAYER}+gzip", digest(blob), len(blob)) for blob in blobs]
    return json.dumps(document).encode(), blobs, descriptors


def add_image(
    store: ImageStore, name: str, layers: list[bytes], config: dict | None = None, **top: Any
) -> str:
    document, blobs, descriptors = documents(layers, config, **top)
    for blob in blobs:
        store.content.put(blob)
    at = Descriptor(OCI_CONFIG, store.content.put(document), len(document))
    return store.add(put_manifest(store.content, at, descriptors), [name]).id
