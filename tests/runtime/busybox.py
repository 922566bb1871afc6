"""A container image made by hand from the host's static busybox, as an OCI layout on disk."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

NAME = "docker.io/library/busybox:latest"
APPLETS = [
    "sh",
    "sleep",
    "cat",
    "echo",
    "ls",
    "id",
    "mount",
    "ps",
    "hostname",
    "head",
    "env",
    "stty",
    "true",
    "false",
    "dd",
    "kill",
    "mknod",
    "nc",
    "wc",
    "touch",
    "grep",
    "seq",
    "test",
    "tty",
]


def binary() -> str | None:
    return shutil.which("busybox")


def write_layout(directory: Path, config: dict[str, Any] | None = None, name: str = NAME) -> Path:
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = put(rootfs(), "application/vnd.oci.image.layer.v1.tar")
    configuration = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["sh"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    described = put(json.dumps(configuration).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "config": described, "layers": [layer]}
    entry = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def rootfs() -> bytes:
    path = binary()
    assert path is not None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(path, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, mode in (("etc", 0o755), ("tmp", 0o1777), ("home", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        for name, text in (
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nsailor:x:1234:1235:s:/home:/bin/sh\n"),
            ("etc/group", b"root:x:0:\nsailor:x:1235:\ncrew:x:77:sailor\n"),
        ):
            file = tarfile.TarInfo(name)
            file.size = len(text)
            tar.addfile(file, io.BytesIO(text))
    return buffer.getvalue()
