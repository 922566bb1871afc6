"""`sampan vm kernels`: the guest kernels of this machine, and which of them machines are booted with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import typer

from sampan.cli.config import Config
from sampan.cli.progress import size
from sampan.cli.table import print_table


def kind_directory(config: Config) -> Path:
    return config.data_dir / "runtime" / "microvm"


def installed(config: Config) -> dict[str, Path]:
    """Release → directory, what all are booted with first."""
    from sampan.runtime.microvm.presence import records

    found: dict[str, Path] = {}
    for record in records(kind_directory(config) / "kernels"):
        found.setdefault(record.parent.name, record.parent)
    return found


def used(config: Config) -> str:
    """The release that machines are booted with, "" when there is none."""
    from sampan.runtime.microvm.presence import named_kernel

    named = named_kernel(kind_directory(config))
    return Path(named).name if named else next(iter(installed(config)), "")


def show(config: Config) -> int:
    from sampan.runtime.microvm.presence import FETCH

    found = installed(config)
    if not found:
        typer.echo(f"sampan: no guest kernel is here; bring Debian's with: {FETCH}", err=True)
        return 1
    chosen = used(config)
    rows = [
        (
            release,
            "yes" if release == chosen else "",
            size((path / "vmlinux").stat().st_size),
            str(path),
        )
        for release, path in found.items()
    ]
    print_table(("KERNEL", "USED", "SIZE", "DIRECTORY"), rows)
    return 0


def fetch(config: Config, source: str = "") -> int:
    """Debian's for all data directories of this machine; one of the user's own for this one."""
    from sampan.runtime.microvm import kernels
    from sampan.runtime.microvm.errors import BadArtifact, MissingPiece

    try:
        if source:
            typer.echo(bring(config, source))
        else:
            typer.echo(kernels.fetch(say=lambda text: typer.echo(text, err=True)).release)
    except (BadArtifact, MissingPiece) as error:
        typer.echo(f"sampan: {error}", err=True)
        return 1
    return 0


def is_source(wanted: str) -> bool:
    """A path or the reference of an image, which a release is not: it has neither a slash nor a colon."""
    return "/" in wanted or ":" in wanted


def bring(config: Config, source: str) -> str:
    """The release of a kernel out of a file or an image, which this node has on return. Raises BadArtifact."""
    from sampan.cli.images import open_store
    from sampan.image.errors import ImageError
    from sampan.runtime.microvm import ownkernels, presence
    from sampan.runtime.microvm.errors import BadArtifact
    from sampan.runtime.microvm.settings import Settings

    place = kind_directory(config) / "kernels"
    vmm = presence.vmm_of(Settings.load(place.parent).driver) or "qemu"
    if source.startswith(("/", "./", "../")):
        return ownkernels.from_file(Path(source), place, vmm).release
    store = open_store(config.data_dir)

    async def unpacked() -> tuple[Path, ...]:
        try:
            await asyncio.to_thread(store.inspect, source)
        except ImageError:
            await store.pull(source)
        return (await store.unpack(source)).layers

    try:
        layers = asyncio.run(unpacked())
    except ImageError as error:
        raise BadArtifact(source, f"no image with a kernel: {error}") from error
    return ownkernels.from_image(layers, place, vmm, source).release


def remove(config: Config, releases: Sequence[str]) -> int:
    """Machines that run go on: theirs is in their memory."""
    found, chosen, failed = installed(config), used(config), 0
    for release in releases:
        if release not in found:
            known = ", ".join(found) or "none"
            typer.echo(f"sampan: no kernel {release} is here, but: {known}", err=True)
            failed = 1
        elif release == chosen and len(found) > 1:
            typer.echo(
                f"sampan: machines are booted with {release}; choose another first: sampan vm kernels use",
                err=True,
            )
            failed = 1
        else:
            shutil.rmtree(found[release])
            typer.echo(release)
    return failed


def use(config: Config, release: str) -> int:
    """Name the kernel in the kind's settings; the runtime reads them when it starts."""
    from sampan.runtime.microvm import kernels
    from sampan.runtime.microvm.errors import BadArtifact
    from sampan.runtime.microvm.presence import KERNEL_RECORD
    from sampan.runtime.microvm.settings import Settings

    found: dict[str, Path] = {}
    try:
        if is_source(release) and not (Path(release) / KERNEL_RECORD).exists():
            release = bring(config, release)
        found = installed(config)
        directory = found.get(release) or Path(release).absolute()
        kernels.load(directory)
        Settings.change(kind_directory(config), kernel=str(directory))
    except BadArtifact as error:
        known = ", ".join(found) or "none"
        typer.echo(f"sampan: {error}\nkernels that are here: {known}", err=True)
        return 1
    typer.echo(
        f"machines are booted with {directory.name} from the next start on: "
        "sampan down --keep-pods && sampan up"
    )
    return 0
