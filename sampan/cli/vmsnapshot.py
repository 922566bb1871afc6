"""`sampan vm snapshot --files | restore`: the files of a machine, kept as an image of this node with the machine's settings.

The image has one layer, which the machine's own `tar` writes, so that owners, links and times are as they are there. It is an
ordinary image of the store: it outlives the cluster's restarts, and can be run or listed as any other. What is in memory is
not in it (`vmmemory.py` keeps that), so it runs on any node and any processor.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.vm import run_stored
from sampan.cli.vmapi import VMError, find, say, with_api
from sampan.client.client import Client

Object = dict[str, Any]
SETTINGS = (
    "dev.sampan.virtual-machine"  # label of the image: the spec of the machine that it was taken of
)
KEPT_OUT = {"proc", "sys", "dev"}  # the kernel's, not the image's
PIECE = 1 << 20


def snapshot(config: Config, name: str, namespace: str, image: str) -> int:
    from sampan.cli.images import open_store, short
    from sampan.image.errors import ImageError
    from sampan.image.reference import parse

    spec: Object = {}

    async def work(client: Client) -> int:
        found = await find(client, name, namespace)
        phase = (found.get("status") or {}).get("phase")
        if phase != "Running":
            raise VMError(
                f"{name} is {phase}, and its files are gone with its memory: only a running machine can be kept"
            )
        spec.update(found["spec"])
        return 0

    failed = with_api(config, work)
    if failed:
        return failed
    store = open_store(config.data_dir)
    try:
        key = parse(image).key
        with store.adding():
            digest, size = archive(config, store, name, namespace)
            base = store.inspect(spec["image"])
            manifest = describe(store, base.config, base.os, base.architecture, digest, size, spec)
            made = store.add(manifest, [key])
    except (ImageError, VMError, OSError) as error:
        say(str(error))
        return 1
    typer.echo(f"{key}  {short(made.id)}  {size >> 20} MiB of {name}")
    return 0


def archive(config: Config, store: Any, name: str, namespace: str) -> tuple[str, int]:
    """The machine's files as a layer in the store: digest and size. Raises VMError."""
    import os
    import shutil

    program = shutil.which("kubectl")
    if program is None:
        raise VMError(
            "kubectl is not on the PATH; install it: https://kubernetes.io/docs/tasks/tools/"
        )
    inside = [program, "-n", namespace, "exec", f"pod/{name}", "-c", "vm", "--"]
    environment = os.environ | {"KUBECONFIG": str(config.kubeconfig)}
    listed = subprocess.run(
        [*inside, "ls", "-A", "/"], env=environment, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise VMError(f"cannot list the files of {name}: {listed.stderr.strip()}; a snapshot takes `ls` and `tar` in the image")  # fmt: skip
    names = [f"./{each}" for each in listed.stdout.splitlines() if each not in KEPT_OUT]
    total = 0
    with (
        subprocess.Popen(
            [*inside, "tar", "-C", "/", "-cf", "-", *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        store.content.writer() as blob,
    ):
        assert process.stdout is not None and process.stderr is not None
        while data := process.stdout.read(PIECE):
            blob.write(data)
            total += len(data)
        trouble = process.stderr.read().decode(errors="replace").strip()
        if process.wait():
            hint = "; a snapshot takes a `tar` in the image" if "tar" in trouble else ""
            raise VMError(f"cannot read the files of {name}: {trouble}{hint}")
        return blob.commit(), total


def describe(
    store: Any, config: Object, system: str, architecture: str, digest: str, size: int, spec: Object
) -> str:
    """Configuration and manifest of a one-layer image; the manifest's digest."""
    from sampan.image.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor

    labels = {**(config.get("Labels") or {}), SETTINGS: json.dumps(spec, sort_keys=True)}
    document = {
        "os": system,
        "architecture": architecture,
        "config": {**config, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    encoded = json.dumps(document).encode()
    store.content.put(encoded)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(OCI_CONFIG, encoded).json(),
        "layers": [Descriptor(OCI_LAYER, digest, size).json()],
    }
    return str(store.content.put(json.dumps(manifest).encode()))


def restore(config: Config, image: str, name: str, namespace: str) -> int:
    from sampan.cli.images import open_store
    from sampan.image.errors import ImageError

    try:
        label = open_store(config.data_dir).inspect(image).labels.get(SETTINGS)
        if label is None:
            raise VMError(
                f"{image} is no snapshot of a machine (sampan vm snapshots); run it with: sampan vm run {image}"
            )
        spec = json.loads(label)
    except ImageError as error:
        say(f"{error}, and no snapshot either; those that are here: sampan vm snapshots")
        return 1
    except (VMError, ValueError) as error:
        say(str(error))
        return 1
    spec |= {"image": image, "running": True, "imagePullPolicy": "Never"}
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            port["nodePort"] = 0  # the first machine may still have it
    return run_stored(config, spec, name, namespace)
