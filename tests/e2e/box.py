"""The tests' images: `box:wasm` and `box:container`, the same small program (box.c) for both kinds.

The container's image also has busybox with a link for each applet, because exec, cp and nslookup want a userland. Both
are compiled once into `.cache/e2e/`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import ROOT

SOURCE = Path(__file__).with_name("box.c")
CACHE = ROOT / ".cache" / "e2e"
BOX = {"wasm": "/box.wasm", "container": "/bin/box", "microvm": "/bin/box"}
IMAGES = {"microvm": "container"}  # a microVM runs the images that containers run

DOCKERFILES = {
    "wasm": """\
FROM --platform=wasip1/wasm scratch
COPY box.wasm /box.wasm
ENTRYPOINT ["/box.wasm"]
""",
    "container": """\
FROM scratch
COPY root /
ENV PATH=/bin
ENTRYPOINT ["/bin/box"]
""",
}


def build() -> Path:
    """The build context, with `Dockerfile.<kind>` for each kind."""
    CACHE.mkdir(parents=True, exist_ok=True)
    _compile("wasm32-wasi", CACHE / "box.wasm")
    root = CACHE / "root"
    for folder in ("bin", "etc", "tmp", "root"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _compile(f"{platform.machine()}-linux-musl", root / "bin" / "box")
    (root / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nsailor:x:1000:1000::/:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\nsailor:x:1000:\n")
    busybox = shutil.which("busybox") or "/bin/busybox"
    if not (root / "bin" / "sh").is_symlink():
        shutil.copy(busybox, root / "bin" / "busybox")
        listing = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
        for applet in set(listing.stdout.split()) - {"busybox"}:
            (root / "bin" / applet).symlink_to("busybox")
    for kind, text in DOCKERFILES.items():
        (CACHE / f"Dockerfile.{kind}").write_text(text)
    return CACHE


def _compile(target: str, output: Path) -> None:
    if output.exists() and output.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    beside = output.with_name(f"{output.name}.{os.getpid()}")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-Os", "-s", str(SOURCE)]
    subprocess.run([*command, "-o", str(beside)], check=True)
    beside.chmod(0o755)
    beside.rename(output)


@functools.cache
def missing_for_microvms() -> str:
    """What keeps microVMs from working here, "" when nothing does."""
    from sampan.runtime.microvm.kind import MicroVMKind

    support = asyncio.run(MicroVMKind(CACHE / "no", CACHE / "no", "no").glance())
    return "" if support.usable else f"{support.why}; to have it: {support.install}"


def image(name: str, kind: str) -> str:
    return f"{name}:{IMAGES.get(kind, kind)}"


def container(kind: str, *args: str, name: str = "box", **fields: Any) -> dict[str, Any]:
    """A container that runs box with `args`."""
    return {"name": name, "image": image("box", kind), "args": list(args), **fields}


def pod(kind: str, name: str, *args: str, **fields: Any) -> dict[str, Any]:
    """A pod of one such container. `fields` of the container; `spec=` and `metadata=` are merged into the pod's."""
    spec, metadata = fields.pop("spec", {}), fields.pop("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, **metadata},
        "spec": {
            "runtimeClassName": kind,
            "terminationGracePeriodSeconds": 2,
            "containers": [container(kind, *args, **fields)],
            **spec,
        },
    }
