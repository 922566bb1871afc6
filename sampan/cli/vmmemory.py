"""`sampan vm snapshot | restore | snapshots`: a machine with its memory, devices and disk, as it was at one moment.

The node's kubelet endpoint takes it (KEP-2008's `/checkpoint`, asked through the API server) and leaves it in its directory;
here it gets the machine's spec added and a name. It is a file of this node, so it outlives every restart:

    <data>/runtime/microvm/snapshots/<name>.tar
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.progress import size
from sampan.cli.table import print_table
from sampan.cli.vm import run_stored
from sampan.cli.vmapi import VMError, find, say, step, with_api
from sampan.cli.vmkernels import kind_directory
from sampan.client.client import Client
from sampan.runtime.microvm import snapshots
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece

Object = dict[str, Any]
MACHINE = "virtualmachine.json"  # in the file: the spec of the machine


def named(config: Config, name: str) -> Path | None:
    """The snapshot of that name, None when there is none."""
    try:
        return snapshots.path_of(kind_directory(config), name)
    except MissingPiece:
        return None


def take(config: Config, name: str, namespace: str, snapshot: str) -> int:
    place = snapshots.place(kind_directory(config))
    target = place / f"{snapshot}.tar"

    async def work(client: Client) -> int:
        if snapshots.NAME.fullmatch(snapshot) is None:
            raise VMError(
                f"{snapshot!r} is no name for a snapshot: letters, digits, - and . (for an image of its files: --files)"
            )
        if target.exists():
            raise VMError(
                f"there is a snapshot {snapshot} already; remove it: sampan vm snapshots rm {snapshot}"
            )
        found = await find(client, name, namespace)
        status = found.get("status") or {}
        if status.get("phase") != "Running":
            raise VMError(
                f"{name} is {status.get('phase')}: only a running machine has memory to keep"
            )
        answer = await client.raw(
            "POST",
            f"/api/v1/nodes/{status['node']}/proxy/checkpoint/{namespace}/{name}/vm",
        )
        (taken,) = json.loads(await answer.read())["items"]
        try:
            keep(Path(taken), target, found["spec"])
        except OSError as error:
            raise VMError(f"{error}: a snapshot is taken on the node of the machine") from error
        step(f"{size(target.stat().st_size)} of {name}, which goes on")
        typer.echo(snapshot)
        return 0

    return with_api(config, work)


def keep(taken: Path, target: Path, spec: Object) -> None:
    """With the spec of its machine, at its place."""
    with tarfile.open(taken, "a", format=tarfile.PAX_FORMAT) as archive:
        text = json.dumps(spec, indent=1).encode()
        entry = tarfile.TarInfo(MACHINE)
        entry.size, entry.mode, entry.mtime = len(text), 0o600, int(taken.stat().st_mtime)
        archive.addfile(entry, io.BytesIO(text))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(taken, target)


def spec_in(path: Path) -> Object:
    """Raises VMError."""
    try:
        with tarfile.open(path) as archive:
            file = archive.extractfile(MACHINE)
            spec: Object = json.loads(file.read()) if file is not None else {}
            return spec
    except (OSError, ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise VMError(f"{path}: not a snapshot of `sampan vm`, or a damaged one: {error}") from None


def restore(config: Config, path: Path, name: str, namespace: str) -> int:
    try:
        spec = spec_in(path)
    except VMError as error:
        say(str(error))
        return 1
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            port["nodePort"] = 0  # the first machine may still have it
    return run_stored(config, spec | {"snapshot": path.stem, "running": True}, name, namespace)


def show(config: Config) -> int:
    rows = []
    for path in sorted(snapshots.place(kind_directory(config)).glob("*.tar")):
        try:
            found = snapshots.read_record(path)
        except BadArtifact as error:
            say(str(error))
            continue
        taken = datetime.fromtimestamp(found.taken_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        rows.append((path.stem, found.pod, f"{found.memory} MiB", size(path.stat().st_size), taken))
    print_table(("SNAPSHOT", "OF", "MEMORY", "SIZE", "TAKEN"), rows)
    return 0


def remove(config: Config, names: Sequence[str]) -> int:
    failed = 0
    for name in names:
        if (path := named(config, name)) is None:
            say(f"there is no snapshot {name}; see: sampan vm snapshots")
            failed = 1
            continue
        path.unlink()
        typer.echo(name)
    return failed
