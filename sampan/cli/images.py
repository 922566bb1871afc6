"""`sampan image …`: the node's image store from the command line. The running runtime sees every change at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config, ConfigError, default_data_dir
from sampan.image.errors import ImageError
from sampan.image.manifest import default_platforms
from sampan.image.store import ImageStore


def open_store(data_dir: Path | None) -> ImageStore:
    """The store of a data directory, which need not hold a cluster yet."""
    directory = (data_dir or default_data_dir()).absolute() / "images"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    rootless = os.geteuid() != 0
    insecure: tuple[str, ...] = ()
    with contextlib.suppress(ConfigError):
        config = Config.load(data_dir)
        rootless, insecure = config.rootless, config.insecure_registries
    return ImageStore(
        directory, platforms=default_platforms(prefer_wasm=rootless), insecure=insecure
    )


def guarded(work: Callable[[], Any]) -> int:
    try:
        work()
    except (ImageError, OSError) as error:
        typer.echo(f"sampan: {' '.join(str(error).split())}", err=True)
        return 1
    return 0


def build(
    data_dir: Path | None, directory: Path, tag: str, file: Path | None, platform: str
) -> int:
    from sampan.image.build import build as build_image

    def work() -> None:
        image_id = build_image(
            directory, tag, open_store(data_dir), dockerfile=file, platform=platform
        )
        typer.echo(f"built {tag}  {short(image_id)}")

    return guarded(work)


def load_images(data_dir: Path | None, path: Path, name: str) -> int:
    def work() -> None:
        for loaded in open_store(data_dir).load(path, name):
            typer.echo(f"loaded {loaded}")

    return guarded(work)


def pull(data_dir: Path | None, reference: str) -> int:
    def work() -> None:
        typer.echo(f"pulling {reference}", err=True)
        typer.echo(asyncio.run(open_store(data_dir).pull(reference)))

    return guarded(work)


def tag(data_dir: Path | None, reference: str, name: str) -> int:
    def work() -> None:
        open_store(data_dir).tag(reference, name)
        typer.echo(f"tagged {reference} as {name}")

    return guarded(work)


def remove(data_dir: Path | None, references: list[str]) -> int:
    def work(name: str) -> None:
        typer.echo(f"removed {name}  {short(open_store(data_dir).remove(name))}")

    failed = max(guarded(partial(work, name)) for name in references)
    return guarded(lambda: open_store(data_dir).sweep()) or failed


def show(data_dir: Path | None) -> int:
    def work() -> None:
        rows = [
            (name, short(image.id), image.platform, size(image.size))
            for image in open_store(data_dir).list()
            for name in (image.tags or image.digests or ("<none>",))
        ]
        print_table(("IMAGE", "ID", "PLATFORM", "SIZE"), rows)

    return guarded(work)


def short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as kubectl prints them: three spaces apart, wide enough for each value."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
