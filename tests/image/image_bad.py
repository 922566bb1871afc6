"""Images that something is wrong with, one function each, and what the error must say of it."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from image_make import digest, documents, entry, layer, symlink

from sampan.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sampan.image.unpack import Limits

# Small enough for a bomb of a test's size.
LIMITS = Limits(size=4 << 20, ratio=100, ratio_from=1 << 20)
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
    wrong_architecture: "wanted one of linux/amd64.*; the image has linux/s390x",
    wrong_system: "wanted one of linux/amd64.*; the image has windows/amd64",
    no_diff_ids: "names 0 layers, the manifest 1",
    wrong_types: "is not a list of strings",
    hostile: "points outside the image",
    negative_size: "invalid size -1",
}

LOADABLE = [
    each for each in BAD if each is not unknown_manifest
]  # an archive has no place for its type
