"""How fast images unpack, and what a look-up costs.

    python -m bench.image [megabytes]

The image is made here: one layer of up to `megabytes` of this Python's own library, gzip-compressed. Stock is containerd,
which unpacks the same layer into overlayfs with `ctr snapshots unpack`, or GNU tar where there is none. Ours alone syncs what it
wrote, and tar checks no digest.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import containerd
from bench.peers import version
from bench.table import Figure, number, progress, show
from sampan.cri.errors import CRIError
from sampan.image.layout import put_manifest
from sampan.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor
from sampan.image.store import ImageStore
from sampan.image.unpack import unpack_layer

ROUNDS = 3
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def make_layer(most: int) -> tuple[bytes, int]:
    """A tar archive of about `most` bytes of files that people have, and how many they are."""
    buffer, count = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*")):
            if buffer.tell() > most:
                break
            if path.is_file() and path.suffix != ".pyc":
                archive.add(path, path.relative_to("/"))
                count += 1
    return buffer.getvalue(), count


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def by_containerd(base: Path, layout: Path, manifest: str, diff_id: str) -> list[float]:
    """Seconds of each round. Raises CRIError, OSError, SubprocessError."""
    found = []
    async with containerd.Containerd(base, {}, "", "") as peer:
        ctr = ["ctr", "--address", str(peer.socket), "--namespace", "k8s.io"]
        archive = shutil.make_archive(str(layout), "tar", layout)
        for words in (("images", "import", "--no-unpack", archive),) + ROUNDS * (
            ("snapshots", "unpack", manifest),
            ("snapshots", "rm", diff_id),
        ):
            command = [*ctr, *words]
            quiet = {"check": True, "timeout": 60, "stdout": subprocess.DEVNULL}
            took = timed(partial(subprocess.run, command, **quiet))
            if words[1] == "unpack":
                found.append(took)
            await asyncio.to_thread(os.sync)
    return found


def by_tar(base: Path, blob: Path) -> list[float]:
    found = []
    for turn in range(ROUNDS):
        place = base / f"tar{turn}"
        place.mkdir()
        command = ["tar", "-xzf", str(blob), "-C", str(place)]
        found.append(timed(partial(subprocess.run, command, check=True)))
        os.sync()
    return found


def by_us(base: Path, blob: Path, diff_id: str) -> list[float]:
    places = [base / f"ours{turn}" for turn in range(ROUNDS)]
    return [timed(partial(unpack_layer, blob, diff_id, place)) for place in places]


def write_layout(store: ImageStore, manifest: str, layout: Path) -> None:
    """The image as the OCI layout that `ctr images import` reads."""
    shutil.copytree(store.directory / "blobs", layout / "blobs")
    entry = {
        "mediaType": MANIFEST,
        "digest": manifest,
        "size": store.content.path(manifest).stat().st_size,
        "annotations": {"io.containerd.image.name": "docker.io/library/b:latest"},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def main() -> None:
    most = (int(sys.argv[1]) if len(sys.argv) > 1 else 100) << 20
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as scratch:
        base = Path(scratch)
        store = ImageStore(base / "images")
        data, files = make_layer(most)
        packed = gzip.compress(data, 6)
        diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
        document = json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            }
        ).encode()
        blob = store.content.put(packed)
        config = Descriptor(OCI_CONFIG, store.content.put(document), len(document))
        layers = [Descriptor(f"{OCI_LAYER}+gzip", blob, len(packed))]
        manifest = put_manifest(store.content, config, layers)
        store.add(manifest, ["docker.io/library/b:latest"])
        size = len(data) / 1e6
        os.sync()
        took = statistics.median(by_us(base, store.content.path(blob), diff_id))
        tar = statistics.median(by_tar(base, store.content.path(blob)))
        peer, remark = tar, "Stock is GNU tar -xz, which checks no digest and syncs nothing."
        if containerd.installed() and os.geteuid() == 0:
            progress(f"containerd: {ROUNDS} times the same layer")
            layout = base / "layout"
            write_layout(store, manifest, layout)
            try:
                rounds = asyncio.run(by_containerd(base / "containerd", layout, manifest, diff_id))
                peer = statistics.median(rounds)
                remark = f"Stock is containerd {version('containerd')}, into overlayfs; it syncs nothing."
            except (CRIError, OSError, subprocess.SubprocessError) as error:
                remark += f" containerd did not run here: {error}"

        def milliseconds(work: Callable[[], object]) -> float:
            return statistics.median(timed(work) for _ in range(200)) * 1e3

        asyncio.run(store.unpack("b"))
        note = f"GNU tar -xz {number(size / tar)} MB/s"
        show(
            f"Images: one layer, {files} files, {size:.0f} MB, {len(packed) / 1e6:.0f} MB packed",
            [
                Figure("unpack, synced", size / took, "MB/s", size / peer, True, size / peer, note),
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
            [remark],
        )


if __name__ == "__main__":
    main()
