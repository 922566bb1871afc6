"""`sampan image …`: the node's image store from the command line. The running runtime sees every change at once.

What a pod uses is asked of the runtime over CRI, in the moment before something is removed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config, ConfigError, NoCluster, default_data_dir
from sampan.cli.progress import Bar, size
from sampan.cli.registry import open_images
from sampan.cli.table import print_table
from sampan.image.auth import DockerConfig, docker_config_path
from sampan.image.errors import ImageError
from sampan.image.hosts import Registries
from sampan.image.manifest import default_platforms
from sampan.image.store import ImageStore


def open_store(data_dir: Path | None, *, logins: bool = False) -> ImageStore:
    """The store of a data directory, which need not hold a cluster yet. `logins`: the user's own, docker's, count too."""
    directory = (data_dir or default_data_dir()).absolute() / "images"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    docker = DockerConfig.load(docker_config_path()) if logins else None
    try:
        return open_images(Config.load(data_dir), docker)
    except NoCluster:
        platforms = default_platforms(prefer_wasm=os.geteuid() != 0)
        return ImageStore(directory, platforms=platforms, registries=Registries(docker=docker))


def guarded(work: Callable[[], Any]) -> int:
    try:
        work()
    except (ImageError, ConfigError, OSError) as error:
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


@contextmanager
def watched(bar: Bar) -> Iterator[Bar]:
    try:
        yield bar
    finally:
        bar.close()


def pull(data_dir: Path | None, reference: str, platform: str) -> int:
    def work() -> None:
        typer.echo(f"pulling {reference}", err=True)
        store = open_store(data_dir, logins=True)
        platforms = [platform] if platform else None
        with watched(Bar()) as bar:
            image_id = asyncio.run(store.pull(reference, platforms=platforms, progress=bar))
        typer.echo(image_id)

    return guarded(work)


def push(data_dir: Path | None, reference: str, target: str) -> int:
    def work() -> None:
        typer.echo(f"pushing {reference}{f' to {target}' if target else ''}", err=True)
        store = open_store(data_dir, logins=True)
        with watched(Bar()) as bar:
            digest = asyncio.run(store.push(reference, target, progress=bar))
        typer.echo(digest)

    return guarded(work)


def save(data_dir: Path | None, references: list[str], output: Path) -> int:
    def work() -> None:
        open_store(data_dir).save(references, output)
        typer.echo(f"saved {', '.join(references)}  {size(output.stat().st_size)}")

    return guarded(work)


def inspect(data_dir: Path | None, references: list[str]) -> int:
    def work() -> None:
        store = open_store(data_dir)
        images = [dataclasses.asdict(store.inspect(name)) for name in references]
        typer.echo(json.dumps(images, indent=2))

    return guarded(work)


def tag(data_dir: Path | None, reference: str, name: str) -> int:
    def work() -> None:
        open_store(data_dir).tag(reference, name)
        typer.echo(f"tagged {reference} as {name}")

    return guarded(work)


def used(data_dir: Path | None) -> set[str]:
    """Ids of the images that the runtime's containers were made of. Raises ConfigError when there may be some and it cannot tell."""
    try:
        config = Config.load(data_dir)
    except NoCluster:
        return set()

    async def ask() -> set[str]:
        from sampan.cri.client import CRIClient

        async with CRIClient(str(config.cri_socket)) as cri:
            containers = (await cri.list_containers()).containers
        return {name for each in containers for name in (each.image_id, each.image_ref) if name}

    if not config.has_pods:
        return set()
    from sampan.cri.errors import CRIError

    try:
        return asyncio.run(ask())
    except (CRIError, OSError) as error:
        raise ConfigError(
            f"the runtime, which knows what its pods use, does not answer ({error}); start it: sampan up"
        ) from None


def remove(data_dir: Path | None, references: list[str], *, force: bool) -> int:
    taken: set[str] = set()

    def work(name: str) -> None:
        store = open_store(data_dir)
        image = store.inspect(name)
        if image.id in taken and not set(image.tags) - store.names_lost(name, image):
            raise ConfigError(f"a pod uses {name} ({short(image.id)}); remove it with --force")
        typer.echo(f"removed {name}  {short(store.remove(name))}")

    if not force and guarded(lambda: taken.update(used(data_dir))):
        return 1
    failed = max(guarded(partial(work, name)) for name in references)
    return guarded(lambda: open_store(data_dir).sweep()) or failed


def prune(data_dir: Path | None, *, everything: bool) -> int:
    def work() -> None:
        store = open_store(data_dir)
        before = store.usage().bytes
        taken = used(data_dir)
        unused = [
            image
            for image in store.list()
            if image.id not in taken and not image.pinned and (everything or not image.tags)
        ]
        for image in unused:
            names = image.tags or image.digests or ("<none>",)
            typer.echo(f"removed {', '.join(names)}  {short(image.id)}")
        if not store.discard(unused):
            typer.echo(
                "images are being added at this moment; their space is freed later", err=True
            )
        typer.echo(f"freed {size(max(before - store.usage().bytes, 0))}")

    return guarded(work)


def show(data_dir: Path | None) -> int:
    def work() -> None:
        rows = [
            (name, short(image.id), image.platform, size(image.size), "yes" if image.pinned else "")
            for image in open_store(data_dir).list()
            for name in (image.tags or image.digests or ("<none>",))
        ]
        print_table(("IMAGE", "ID", "PLATFORM", "SIZE", "PINNED"), rows)

    return guarded(work)


def short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
