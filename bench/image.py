"""How fast images unpack, and what a look-up costs.

    python -m bench.image [files] [megabytes]

The image is made here: `files` small files and `megabytes` in large ones, gzip-compressed, in a temporary directory. The peer
is GNU tar, which checks no digest and syncs nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.table import Figure, show
from sampan.image.layout import put_manifest
from sampan.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor
from sampan.image.store import ImageStore

PEER = "GNU tar -xz"


def make_layer(files: int, megabytes: int) -> bytes:
    noise = random.Random(1)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for number in range(files):
            add(f"usr/lib/d{number % 100}/f{number}", noise.randbytes(noise.randrange(8000)))
        half = noise.randbytes(1 << 19)
        for number in range(megabytes):
            add(f"opt/big{number}", half + bytes(1 << 19))
    return buffer.getvalue()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as scratch:
        store = ImageStore(Path(scratch) / "images")
        data = make_layer(files, megabytes)
        packed = gzip.compress(data, 6)
        document = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {
                    "type": "layers",
                    "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()],
                },
            }
        ).encode()
        blob = store.content.put(packed)
        config = Descriptor(OCI_CONFIG, store.content.put(document), len(document))
        layers = [Descriptor(f"{OCI_LAYER}+gzip", blob, len(packed))]
        store.add(put_manifest(store.content, config, layers), ["docker.io/library/b:latest"])
        size = len(data) / 1e6
        took = timed(lambda: asyncio.run(store.unpack("b")))
        place = Path(scratch) / "peer"
        place.mkdir()
        command = ["tar", "-xzf", str(store.content.path(blob)), "-C", str(place)]
        peer = timed(lambda: subprocess.run(command, check=True))

        def milliseconds(work: Callable[[], object]) -> float:
            return statistics.median(timed(work) for _ in range(200)) * 1e3

        show(
            f"Images: one layer, {files} files, {size:.0f} MB, {len(packed) / 1e6:.0f} MB packed",
            [
                Figure("unpack, synced", size / took, "MB/s", peer=size / peer),
                Figure("unpack, synced", files / took, "files/s", peer=files / peer),
                Figure("inspect", milliseconds(lambda: store.inspect("b")), "ms", least=False),
                Figure(
                    "unpack again",
                    milliseconds(lambda: asyncio.run(store.unpack("b"))),
                    "ms",
                    least=False,
                ),
                Figure("usage", milliseconds(store.usage), "ms", least=False),
            ],
            [f"Stock is {PEER}, which checks no digest and syncs nothing."],
        )


if __name__ == "__main__":
    main()
