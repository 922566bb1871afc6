"""`sampan store …`: how the cluster's data is copied, put back and moved.

Everything goes through a snapshot (`sampan.store.snapshot`): one file, 0600, which is itself a store. A backup reads a live
store. A restore into SQLite is laid beside the store and taken at the next start of the server, which is asked to start
again if it runs; pods go on meanwhile. A restore into etcd is written while the servers run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sampan.cli.config import Config, ConfigError
from sampan.cli.datastore import Place, place_of, staged

if TYPE_CHECKING:
    from sampan.store import Store

SERVERS = "/registry/coordination.k8s.io/leases/kube-system/apiserver-"
ALIVE = 15.0  # seconds without renewal after which a server's Lease counts no longer
PATIENCE = 60.0  # seconds for the server to take a restored store
REPORT = 0.5  # seconds between two lines of progress


def named(text: str, config: Config | None, tls: tuple[str, str, str]) -> Place:
    """`sqlite` (of this data directory), a path, or endpoints. Raises ConfigError."""
    if "://" in text:
        return Place(None, tuple(part.strip() for part in text.split(",") if part.strip()), *tls)
    if text == "sqlite":
        if config is None:
            raise ConfigError("sqlite: there is no cluster in this data directory; name the file")
        return Place(config.store)
    return Place(Path(text).absolute())


# Commands


class Meter:
    """Progress on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0
        self.live = sys.stderr.isatty()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < REPORT and done != total:
            return
        self.last = now
        text = f"{what}: {done}" + (f" of {total} ({100 * done // total} %)" if total else "")
        sys.stderr.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self.live and self.last:
            sys.stderr.write("\n")


def backup(config: Config, file: Path) -> int:
    from sampan.store.snapshot import examine

    meter = Meter()
    asyncio.run(export(place_of(config), file.absolute(), meter))
    meter.end()
    revision, count = examine(file)
    typer.echo(f"{file}: {count} records at revision {revision}, {file.stat().st_size} bytes")
    return 0


async def export(place: Place, file: Path, meter: Meter) -> None:
    """A snapshot of `place` in `file`."""
    from sampan.store import snapshot

    if place.file is not None:
        snapshot.copy(place.file, file, meter)
        return
    store = await place.open_etcd()
    try:
        await snapshot.take(store, file, meter)
    finally:
        await store.close()


def restore(config: Config, file: Path) -> int:
    from sampan.store import snapshot

    revision, count = snapshot.examine(file)
    place, meter = place_of(config), Meter()
    if place.file is None:
        now = asyncio.run(fill(place, file, meter, forget=False))
        meter.end()
        typer.echo(f"{count} records of revision {revision} restored; the store is at {now}")
        return 0
    place.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    waiting = staged(place.file)
    snapshot.copy(file, waiting, meter)
    meter.end()
    pid = server_of(config)
    if pid:
        typer.echo("the server starts again with what was restored; pods go on")
        os.kill(pid, signal.SIGTERM)
        taken = gone(waiting, PATIENCE)
    else:
        try:
            snapshot.install(waiting, place.file)
        finally:
            waiting.unlink()
        taken = True
    if not taken:
        typer.echo(
            f"sampan: the server did not take it in {PATIENCE:.0f} s, and will at its next start; "
            f"see {config.logs}/server.log",
            err=True,
        )
        return 1
    typer.echo(f"{count} records of revision {revision} restored")
    return 0


def server_of(config: Config) -> int:
    """The process of the supervised server; 0 when there is none."""
    from sampan.cli.control import ask

    answer = ask(config, "status")
    return int(answer["parts"]["server"]["pid"] or 0) if answer else 0


def gone(file: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def fill(place: Place, file: Path, meter: Meter, *, forget: bool) -> int:
    """The records of a snapshot are those of an etcd on return; its revision then."""
    from sampan.store import snapshot

    store = await place.open_etcd()
    try:
        return await snapshot.pour(file, store, meter, forget=forget)
    finally:
        await store.close()


def migrate(source: Place, target: Place, *, overwrite: bool) -> int:
    """Everything of `source` is in `target` on return. Nobody may write meanwhile. Raises StoreError, ConfigError."""
    from sampan.store import snapshot

    if source == target:
        raise ConfigError(f"--from and --to are both {source}")
    held = hold(source)
    meter = Meter()
    try:
        asyncio.run(check(source, target, overwrite=overwrite))
        beside = target.file.parent if target.file else source.file.parent if source.file else None
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".migrate-", dir=beside) as scratch:
            file = Path(scratch) / "snapshot.db"
            asyncio.run(export(source, file, meter))
            was, count = snapshot.examine(file)
            if target.file is not None:
                now = snapshot.install(file, target.file)
            else:
                now = asyncio.run(fill(target, file, meter, forget=True))
    finally:
        meter.end()
        if held is not None:
            os.close(held)
    typer.echo(f"{count} records moved from {source} (revision {was}) to {target} (revision {now})")
    option = str(target) if target.endpoints else "sqlite"
    typer.echo(f"Start on it:  sampan up --datastore-endpoint {option}")
    return 0


def hold(source: Place) -> int | None:
    from sampan.store import StoreError
    from sampan.store.files import lock_file

    if source.file is None:
        return None
    if not source.file.exists():
        raise StoreError(f"{source}: there is no store here")
    return lock_file(source.file)


async def check(source: Place, target: Place, *, overwrite: bool) -> None:
    """Nobody writes to either, and the target is empty or may be overwritten. Raises ConfigError."""
    for place in (source, target):
        if place.file is not None:
            continue
        store = await place.open_etcd()
        try:
            if living := await servers(store):
                raise ConfigError(f"{place}: {living} uses it; stop every server first")
            first = await store.range("/registry/", limit=1)
            if place is target and first.records and not overwrite:
                raise ConfigError(f"{place}: holds a cluster; --overwrite replaces it")
        finally:
            await store.close()
    if target.file is not None and target.file.exists() and not overwrite:
        raise ConfigError(f"{target}: holds a cluster; --overwrite replaces it")


async def servers(store: Store) -> str:
    """Where an API server that uses the store serves; "" when none has renewed its Lease of late."""
    from sampan.kube.objects import annotations, parse_time

    for record in (await store.range(SERVERS)).records:
        lease: dict[str, Any] = json.loads(record.value)
        renewed = parse_time(lease["spec"]["renewTime"]).timestamp()
        if time.time() - renewed < ALIVE:
            where = annotations(lease).get("sampan.dev/serves-at", "").replace(" ", ":")
            return f"the API server at {where or lease['metadata']['name']}"
    return ""
